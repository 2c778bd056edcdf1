/** A database and a Redis that somebody else runs: used as they are, and what is wrong with them is said. */
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
