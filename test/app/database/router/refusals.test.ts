/** What a server refuses, or cuts off: what is sent again, what is held, what is told. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Pool } from '../../../../src/app/database/pool.ts';
import { leaveConnections } from '../../../../src/app/database/pool-internals.ts';
import { log } from '../../../../src/app/telemetry/log.ts';
import { Cluster } from '../../../support/cluster.ts';
import { processOf, RoutedPools, routerOf, serverOf } from '../../../support/routed.ts';
import { until } from '../../../support/until.ts';

// The servers break connections on purpose.
log.level = 'silent';

let cluster: Cluster;
let pools: RoutedPools;
let pool: Pool;

beforeAll(async () => {
  cluster = await Cluster.start({ standbys: 2, synchronous: true });
  pools = new RoutedPools(cluster);
  await pools.publish();
  await cluster.primary.ask(`
    create table things (id int primary key);
    create table altered (id int);
    insert into altered values (1);
    create function slow() returns text language plpgsql stable as
      $$ begin perform pg_sleep(3); return current_setting('cluster_name'); end $$;
    create role app login password 'app';
    grant pg_monitor to app;
    grant all on all tables in schema public to app`);
  for (const standby of cluster.standbys) {
    await standby.ask('alter system set max_standby_streaming_delay = 0');
    await standby.ask('select pg_reload_conf()');
  }
  await pools.prepare();
  pool = await pools.reading();
});
afterAll(async () => {
  await cluster?.remove();
});

test('a read that is in the way of replay is run elsewhere', async () => {
  const reading = pool.query('select slow() as name from altered');
  const running = await until(async () => {
    for (const standby of cluster.standbys) {
      const rows = await standby.ask(
        `select from pg_stat_activity where query like 'select slow()%' and state = 'active'`,
      );
      if (rows.length > 0) return standby;
    }
    return undefined;
  });
  await cluster.primary.ask('alter table altered add column more int');
  expect((await reading).rows).toHaveLength(1);
  const [conflicts] = await running.ask<{ count: number }>(
    `select confl_lock::int as count from pg_stat_database_conflicts where datname = 'postgres'`,
  );
  expect(conflicts!.count).toBe(1);
});

test('the application’s own role has what the monitor needs; a fence holds it, and its end lets it go on', async () => {
  const url = new URL(cluster.primary.url());
  [url.username, url.password] = ['app', 'app'];
  const mine = await pools.reading({ connectionString: url.href });
  await cluster.primary.ask('alter database postgres connection limit 0');
  // One that is cut off while it lies idle may be given out before the end of it has come.
  leaveConnections(mine);
  await cluster.primary.ask(
    `select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app'`,
  );
  const held = mine.query('insert into things values (1)');
  await until(() => mine.isHolding);
  await cluster.primary.ask('alter database postgres connection limit -1');
  await held;
  expect((await mine.query('select id from things where id = 1')).rowCount).toBe(1);
  await mine.end();
});

test('a server that was taken for the primary and is a standby: sent again, a transaction too before its second statement', async () => {
  for (const how of ['statement', 'transaction'] as const) {
    const lost = await pools.reading();
    await until(async () => (await lost.query('select $1::text as how for update', [how])).rows);
    // As when an address leads elsewhere from one moment to the next.
    const right = lost.options.connectionString!;
    lost.options.connectionString = cluster.standbys[0]!.url();
    leaveConnections(lost);
    const ports: number[] = [];
    lost.on('connect', client => {
      ports.push((client as unknown as { port: number }).port);
      lost.options.connectionString = right;
    });
    const id = how === 'statement' ? 10 : 11;
    if (how === 'statement') await lost.query('insert into things values ($1)', [id]);
    else {
      const client = await lost.connect();
      await client.query('begin');
      await client.query('insert into things values ($1)', [id]);
      await client.query('commit');
      client.release();
    }
    expect(ports).toContain(cluster.standbys[0]!.port);
    const rows = await cluster.primary.ask(`select from things where id = ${id}`);
    expect(rows).toHaveLength(1);
    await lost.end();
  }
});

test('a transaction that is read-only on the primary hears so, and is not sent again', async () => {
  const client = await pool.connect();
  await client.query('begin; set transaction read only');
  await expect(client.query('insert into things values (20)')).rejects.toMatchObject({
    code: '25006',
  });
  await client.query('rollback');
  client.release();
  expect(routerOf(pool).monitor.primary?.address.port).toBe(cluster.primary.port);
});

test('a COMMIT whose answer is lost is of unknown outcome; the rollback after it is not sent to anyone', async () => {
  const client = await pool.connect();
  await client.query('begin');
  await client.query('insert into things values (30)');
  const pid = processOf(client);
  // Nobody confirms it.
  for (const standby of cluster.standbys) await standby.freeze();
  const told = expect(client.query('commit')).rejects.toMatchObject({
    code: 'OUTCOME_UNKNOWN',
    safeToRetry: false,
  });
  try {
    await until(async () => {
      const [row] = await cluster.primary.ask<{ wait_event: string }>(
        `select wait_event from pg_stat_activity where pid = ${pid}`,
      );
      return row?.wait_event === 'SyncRep';
    });
    await cluster.primary.ask(`select pg_terminate_backend(${pid})`);
    await told;
  } finally {
    for (const standby of cluster.standbys) await standby.thaw();
  }
  expect(await client.query('rollback')).toMatchObject({ command: 'ROLLBACK' });
  expect((await client.query('select id from things where id = 30')).rowCount).toBe(1);
  client.release();
});

test('the pool counts and tells of all its connections, and ends them all', async () => {
  const counted = pools.pool({ max: 3 });
  let connected = 0;
  let removed = 0;
  counted.on('connect', () => connected++);
  counted.on('remove', () => removed++);
  const seen = new Set<string>();
  await until(async () => {
    // One after the other they may all go to the replica that answers sooner.
    for (const name of await Promise.all(Array.from({ length: 10 }, () => serverOf(counted)))) {
      seen.add(name);
    }
    return seen.size === 3;
  });
  expect(counted.totalCount).toBe(connected - removed);
  expect(counted.totalCount).toBeGreaterThanOrEqual(3);
  expect(counted.idleCount).toBe(counted.totalCount);
  await counted.end();
  expect(counted.totalCount).toBe(0);
  expect(counted.ended).toBe(true);
  await expect(counted.query('select 1')).rejects.toThrow('after calling end');
});
