/**
 * A database and a Redis that somebody else runs: used as they are, and what is wrong with them is said; and the way from our own Redis to
 * such a one and back, while requests come.
 */
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { examineExternalRedis } from '../../../src/engines/redis-client.ts';
import { readRuntimeMap } from '../../../src/map/map-file.ts';
import type { ClusterStatus } from '../../../src/operate/cache/invalidator/protocol.ts';
import { deployFiles, type Site } from '../../support/deployment.ts';
import { HeardFeed } from '../../support/feed.ts';
import { TestPostgres } from '../../support/postgres.ts';
import { TestRedis } from '../../support/redis.ts';
import { until } from '../../support/until.ts';

const TIMEOUT_MS = 240_000;
const SERVER = `
import { createServer } from 'node:http';
createServer((_, res) => res.end('ok')).listen(process.env.PORT, process.env.HOST);
`;

/** Articles through the cache: from the database by their number, and some whose tag the application names itself. */
const READER = `
import { createServer } from 'node:http';
import { createCache, createPool, lifecycle } from 'banyan';

const pool = createPool({ max: 4 });
const cache = createCache({ pool });
let computed = 0;
const server = createServer(async (req, res) => {
  const [, what, id] = req.url.split('/');
  try {
    if (what === 'tagged') res.end(String(await cache.get('tagged', () => ++computed, { tags: ['news'] })));
    else if (what === 'invalidate') res.end(String(await cache.invalidateTag('news')));
    else if (what === 'counts') res.end(JSON.stringify(cache.counts));
    else {
      const find = async () => (await pool.query('select name from items where id = $1', [id])).rows[0];
      res.end(JSON.stringify(await cache.get(['item', id], find)));
    }
  } catch (error) {
    res.writeHead(500).end(String(error.stack));
  }
});
lifecycle(server, { pool, onShutdown: () => cache.close() });
server.listen(process.env.PORT, process.env.HOST);
`;

let postgres: TestPostgres;
let redis: TestRedis;

beforeAll(async () => {
  [postgres, redis] = await Promise.all([
    TestPostgres.start(),
    TestRedis.start(['--maxmemory-policy', 'noeviction']),
  ]);
}, TIMEOUT_MS);

afterAll(async () => {
  await Promise.all([postgres?.remove(), redis?.remove()]);
}, TIMEOUT_MS);

function deploy(url: string): Promise<Site> {
  const cache = `{ url: 'redis://127.0.0.1:${redis.port}' }`;
  return deployFiles({
    'package.json': '{"type":"module"}',
    'server.js': SERVER,
    'banyan.config.ts': `export default { database: { url: '${url}' }, cache: ${cache} };`,
  });
}

async function clusterOf(site: Site): Promise<ClusterStatus | undefined> {
  const { cache } = await site.status();
  return cache?.invalidators.find(({ serves }) => serves)?.clusters[0];
}

test('a Redis that takes nothing when it is full is noticed', async () => {
  const found = await examineExternalRedis(`redis://127.0.0.1:${redis.port}`);
  expect(found).toMatchObject({ mode: 'single' });
  expect(found.notes[0]).toContain('noeviction');
});

test('a Redis that is not there is said before anything is started', async () => {
  await expect(examineExternalRedis('redis://127.0.0.1:1')).rejects.toMatchObject({
    code: 'EXTERNAL_REDIS_UNUSABLE',
    where: '127.0.0.1:1',
  });
});

test('both are used: what is written to the database is told', {
  timeout: TIMEOUT_MS,
}, async () => {
  const url = await postgres.database();
  const pool = await postgres.pool({ connectionString: url });
  await pool.query('create table items (id int primary key, name text)');
  await using site = await deploy(url);
  const { cache, database } = readRuntimeMap(site.paths.map);
  expect(cache!.redis).toMatchObject({ mode: 'single', nodes: [{ port: redis.port }] });
  const heard = new HeardFeed(site.paths.map);
  try {
    const cluster = database.shards[0]!.id;
    await heard.covered(cluster, 'public.items');
    await pool.query(`insert into items values (1, 'a')`);
    await heard.heard(cluster, 'public.items#id=1');
  } finally {
    heard.close();
  }
});

test('with a wal_level that is too low it says what to set, and explicit tags still work', {
  timeout: TIMEOUT_MS,
}, async () => {
  const url = await postgres.database();
  const pool = await postgres.pool({ connectionString: url });
  await pool.query(`alter system set wal_level = 'replica'`);
  await pool.query('alter system set max_wal_senders = 4');
  await pool.query(
    `select pg_drop_replication_slot(slot_name) from pg_replication_slots where not active`,
  );
  await postgres.stop();
  await postgres.start();
  await using site = await deploy(url);
  const cluster = await until(
    async () => {
      const found = await clusterOf(site);
      return found?.failure ? found : undefined;
    },
    { what: 'the failure is said', timeoutMs: 60_000 },
  );
  expect(cluster.failure!.what).toContain('wal_level is replica');
  expect(cluster.failure!.remedy).toContain('wal_level = logical');
  expect((await site.ok('status')).stdout).toContain('wal_level = logical');
  const heard = new HeardFeed(site.paths.map);
  try {
    await until(() => heard.events.length > 0);
    await heard.feed.invalidate(['@:news']);
    expect(heard.tags('~')).toEqual([['@:news']]);
  } finally {
    heard.close();
  }
});

async function text(site: Site, address: string): Promise<string> {
  const response = await fetch(`${site.address}/${address}`);
  const body = await response.text();
  if (response.status !== 200) throw new Error(`${response.status} ${body}`);
  return body;
}

/** Requests for as long as `body` takes. @returns those that failed */
async function underRequests(site: Site, body: () => Promise<void>): Promise<string[]> {
  const failures: string[] = [];
  let isOver = false;
  let count = 0;
  const asking = (async () => {
    while (!isOver) {
      await text(site, `item/${1 + (count++ % 20)}`).catch(error => failures.push(String(error)));
      await delay(5);
    }
  })();
  try {
    await body();
  } finally {
    isOver = true;
    await asking;
  }
  expect(count).toBeGreaterThan(20);
  return failures;
}

test('from our own Redis to one of somebody else’s and back, online; full, it takes nothing and fails nobody', {
  timeout: 2 * TIMEOUT_MS,
}, async () => {
  const configOf = (cache: string) => `export default { cache: ${cache} };`;
  const own = '{ servers: 1, memoryMb: 32 }';
  await using site = await deployFiles({
    'package.json': '{"type":"module"}',
    'server.js': READER,
    'banyan.config.ts': configOf(own),
    'migrations/1.sql': `create table items (id int primary key, name text);
      insert into items select i, 'item ' || i from generate_series(1, 20) i;`,
  });
  const to = async (cache: string) => {
    await writeFile(path.join(site.folder, 'banyan.config.ts'), configOf(cache));
    return site.ok('apply', '--yes');
  };
  const keys = async () =>
    ((await redis.command('KEYS', 'banyan:*:e:*')) as string[]).map(key => key.split(':e:')[1]);
  await redis.command('FLUSHALL');
  const failures = await underRequests(site, async () => {
    const { output } = await to(`{ url: 'redis://127.0.0.1:${redis.port}' }`);
    expect(output).toContain('noeviction');
    const { redis: named } = readRuntimeMap(site.paths.map).cache!;
    expect(named).toMatchObject({ mode: 'single', nodes: [{ port: redis.port }] });
    expect((await site.status()).units.some(({ tier }) => tier === 'cache')).toBe(false);
    await until(async () => (await keys()).includes('item:1'), {
      what: 'what is read is kept in the other Redis',
      timeoutMs: 30_000,
    });
    // What changes is told there too, and tags that the application names.
    expect([await text(site, 'tagged'), await text(site, 'tagged')]).toEqual(['1', '1']);
    await text(site, 'invalidate');
    expect(await text(site, 'tagged')).toBe('2');
    await site.pool().query(`update items set name = 'changed' where id = 3`);
    await until(async () => (await text(site, 'item/3')).includes('changed'));

    await redis.command('CONFIG', 'SET', 'maxmemory', '1mb');
    await redis.command('FLUSHALL');
    await site.pool().query(`update items set name = 'again' where id = 4`);
    await until(async () => (await text(site, 'item/4')).includes('again'));
    await redis.command('CONFIG', 'SET', 'maxmemory', '64mb');
    await to(own);
    expect((await site.status()).units.filter(({ tier }) => tier === 'cache')).toHaveLength(1);
    await site.pool().query(`update items set name = 'back' where id = 5`);
    await until(async () => (await text(site, 'item/5')).includes('back'));
  });
  expect(failures).toEqual([]);
});
