/** The invalidator tells what changes in a real database, whoever changes it, and says so when it does not know. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readRuntimeMap } from '../../../src/map/map-file.ts';
import type { InvalidatorStatus } from '../../../src/operate/cache/invalidator/protocol.ts';
import { invalidatorStatus } from '../../../src/operate/cache/status.ts';
import { deployFiles, type Site } from '../../support/deployment.ts';
import { HeardFeed } from '../../support/feed.ts';
import { until } from '../../support/until.ts';

const CONFIG = `export default { cache: { servers: 0, invalidators: 2 } };`;
const SERVER = `
import { createServer } from 'node:http';
createServer((_, res) => res.end('ok')).listen(process.env.PORT, process.env.HOST);
`;
const SCHEMA = `
create table items (id int primary key, name text not null, author int not null);
create index on items (author);
create table loose (note text);
`;

let site: Site;
let heard: HeardFeed;
/** The one shard's id. */
let cluster: string;

beforeAll(async () => {
  site = await deployFiles({
    'package.json': '{"type":"module"}',
    'server.js': SERVER,
    'banyan.config.ts': CONFIG,
    'migrations/1.sql': SCHEMA,
  });
  cluster = readRuntimeMap(site.paths.map).database.shards[0]!.id;
  heard = new HeardFeed(site.paths.map);
  await heard.covered(cluster, 'public.items');
}, 120_000);

afterAll(async () => {
  heard.close();
  await site.remove();
}, 60_000);

/** Of the one that serves. */
async function serving(): Promise<InvalidatorStatus> {
  return until(async () => {
    for (const name of ['invalidator-1', 'invalidator-2']) {
      const status = await invalidatorStatus(site.paths.socketFor(name)).catch(() => undefined);
      if (status?.serves) return status;
    }
    return undefined;
  });
}

test('rows of one transaction are told together, by key and by indexed column, old and new', async () => {
  const pool = site.pool();
  await pool.query(`insert into items values (1, 'a', 7), (2, 'b', 8)`);
  await heard.heard(cluster, 'public.items#id=2');
  expect(heard.tags(cluster).at(-1)).toEqual([
    '*',
    'public.items',
    'public.items#author=7',
    'public.items#author=8',
    'public.items#id=1',
    'public.items#id=2',
  ]);
  await pool.query('update items set id = 3 where id = 2');
  await heard.heard(cluster, 'public.items#id=3');
  expect(heard.tags(cluster).at(-1)).toContain('public.items#id=2');
});

test('TRUNCATE is told as the whole table', async () => {
  await site.pool().query('truncate items');
  await heard.heard(cluster, 'public.items!');
});

test('a table without an identity is not covered, and is written to as ever', async () => {
  const pool = site.pool();
  await pool.query(`insert into loose values ('x')`);
  await pool.query(`update loose set note = 'y'`);
  const covers = heard.events.findLast(
    event => event.kind === 'covers' && event.cluster === cluster,
  );
  expect(Object.keys((covers as { tables: object }).tables)).toEqual(['public.items']);
});

test('what was committed is told within a moment of the log, also when nothing was', async () => {
  const { rows } = await site
    .pool()
    .query<{ lsn: string }>(`select (pg_current_wal_insert_lsn() - '0/0')::text as lsn`);
  const lsn = BigInt(rows[0]!.lsn);
  await until(() => (heard.batches(cluster).at(-1)?.upto ?? 0n) >= lsn, {
    what: 'the feed has passed the place',
  });
});

test('batches join without a hole', () => {
  const batches = heard.batches(cluster);
  for (let i = 1; i < batches.length; i++) expect(batches[i]!.from).toBe(batches[i - 1]!.upto);
});

test('a change of the schema makes all be forgotten, and new tables are covered', async () => {
  const before = heard.gaps(cluster).length;
  const pool = site.pool();
  await pool.query('create temporary table scratch (id int); drop table scratch');
  await pool.query('create table more (id bigint primary key)');
  await heard.covered(cluster, 'public.more');
  // Temporary tables are nobody's business.
  expect(heard.gaps(cluster).length).toBe(before + 1);
  await pool.query(
    'create or replace function answer() returns int language sql as $$ select 42 $$',
  );
  await until(() => heard.gaps(cluster).length === before + 2);
  await heard.covered(cluster, 'public.items');
  await pool.query('drop function answer()');
  await until(() => heard.gaps(cluster).length === before + 3);
  await heard.covered(cluster, 'public.items');
});

test('explicit tags come back on the feed before the one who named them goes on', async () => {
  await heard.feed.invalidate(['@:news']);
  expect(heard.tags('~').at(-1)).toEqual(['@:news']);
});

test('the one that stands by takes over when the first is killed: a gap, and then nothing is missed', async () => {
  const { name } = await serving();
  const pool = site.pool();
  const gaps = heard.gaps(cluster).length;
  process.kill(await site.pidOf(name), 'SIGKILL');
  // Written while nobody reads.
  await pool.query(`insert into items values (100, 'while away', 1)`);
  await until(() => heard.gaps(cluster).length > gaps, { what: 'the gap is told' });
  await heard.heard(cluster, 'public.items#id=100');
  await heard.covered(cluster, 'public.items');
  await pool.query(`insert into items values (101, 'again', 1)`);
  await heard.heard(cluster, 'public.items#id=101');
  // The database's log was not lost: only the connection was.
  const status = await serving();
  expect(status.name).not.toBe(name);
  expect(status.clusters[0]).toMatchObject({ state: 'reading', gaps: 0 });
}, 60_000);

test('a slot that is gone is a gap', async () => {
  const gaps = heard.gaps(cluster).length;
  const end = `select pg_terminate_backend(active_pid) from pg_replication_slots where active`;
  const drop = `select pg_drop_replication_slot('banyan_cache')`;
  // The reader may be quicker in coming back.
  await until(
    async () => (await site.banyan(['sql', '--superuser', `${end}; ${drop}`])).code === 0,
    { what: 'the slot is gone', timeoutMs: 30_000 },
  );
  await until(() => heard.gaps(cluster).length > gaps, { what: 'the gap is told' });
  await heard.covered(cluster, 'public.items');
  await site.pool().query(`insert into items values (200, 'after', 1)`);
  await heard.heard(cluster, 'public.items#id=200');
}, 60_000);

test('status tells how far it is; taken out of the configuration, nothing is left in the database', async () => {
  const { cache } = await site.status();
  expect(cache).toMatchObject({ kind: 'memory', redis: [] });
  expect(cache!.invalidators.map(({ serves }) => serves).sort()).toEqual([false, true]);
  const clusters = cache!.invalidators.find(({ serves }) => serves)!.clusters;
  expect(clusters).toHaveLength(1);
  expect(clusters[0]!.lagP50Ms).toBeGreaterThanOrEqual(0);

  const { writeFile } = await import('node:fs/promises');
  await writeFile(`${site.folder}/banyan.config.ts`, 'export default {};\n');
  const plan = await site.ok('plan');
  expect(plan.stdout).toContain('take away what the invalidator had in the database');
  await site.ok('apply', '--yes');
  const { rows } = await site.pool().query(
    `select (select count(*) from pg_replication_slots) + (select count(*) from pg_publication)
       + (select count(*) from pg_event_trigger) as left`,
  );
  expect(Number(rows[0].left)).toBe(0);
  expect(readRuntimeMap(site.paths.map).cache).toBeUndefined();
  expect((await site.status()).units.map(({ tier }) => tier)).toEqual(['database', 'web']);
}, 120_000);
