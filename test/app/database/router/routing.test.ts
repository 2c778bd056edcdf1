/** Where statements run, and that a pool with replicas is in everything what a pool was. */

import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { drizzle } from 'drizzle-orm/node-postgres';
import { integer, pgTable, text } from 'drizzle-orm/pg-core';
import { Kysely, PostgresDialect } from 'kysely';
import type pg from 'pg';
import { from as copyFrom, to as copyTo } from 'pg-copy-streams';
import Cursor from 'pg-cursor';
import QueryStream from 'pg-query-stream';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Pool } from '../../../../src/app/database/pool.ts';
import { log } from '../../../../src/app/telemetry/log.ts';
import { Cluster } from '../../../support/cluster.ts';
import { processOf, RoutedPools, routerOf, serverOf, WHERE_AM_I } from '../../../support/routed.ts';
import { until } from '../../../support/until.ts';

log.level = 'silent';

let cluster: Cluster;
let pools: RoutedPools;
let pool: Pool;
const PRIMARY = 'member-0';

beforeAll(async () => {
  cluster = await Cluster.start({ standbys: 2, synchronous: true });
  pools = new RoutedPools(cluster);
  await pools.publish();
  await pools.prepare();
  await cluster.primary.ask(`
    create table items (id int primary key, name text not null);
    insert into items select i, 'item ' || i from generate_series(1, 1000) i;
    create function touch() returns int language sql volatile as 'select 1'`);
  await cluster.caughtUp();
  pool = await pools.reading();
});
afterAll(async () => {
  await cluster?.remove();
});

/** Reads of a scope that has written go to the primary for a moment. */
const settled = () =>
  until(async () => (await serverOf(pool)) !== PRIMARY, { what: 'reads reach a replica' });

describe('pool.query', () => {
  test('reads are spread over the replicas, writes go to the primary', async () => {
    const seen = new Set<string>();
    await until(async () => {
      // One after the other they may all go to the one that answers sooner.
      for (const name of await Promise.all(Array.from({ length: 10 }, () => serverOf(pool)))) {
        seen.add(name);
      }
      return seen.size === 2;
    });
    expect(seen).toEqual(new Set(['member-1', 'member-2']));
    const { rows } = await pool.query(`select current_setting('cluster_name') as name`);
    expect(rows).toEqual([{ name: PRIMARY }]);
    await pool.query(`insert into items values (-1, 'new')`);
    expect((await pool.query('select name from items where id = -1')).rows).toEqual([
      { name: 'new' },
    ]);
    await pool.query('delete from items where id = -1');
  });

  test('the stack of an error leads to the line that asked', async () => {
    async function application() {
      await pool.query('select name from items where id = 1 / (id - id)');
    }
    const error = await application().catch(thrown => thrown as Error);
    expect(error).toMatchObject({ code: '22012' });
    expect((error as Error).stack).toContain('application');
  });

  test('events of every connection are told to who listens, from then on', async () => {
    await pool.query('select 1');
    let acquired = 0;
    const count = () => acquired++;
    pool.on('acquire', count);
    await Promise.all(Array.from({ length: 5 }, () => pool.query('select 1')));
    pool.off('acquire', count);
    await pool.query('select 1');
    expect(acquired).toBe(5);
  });

  test('promises, callbacks, parameters, names, arrays, several statements, errors', async () => {
    expect((await pool.query('select $1::int + 1 as n', [1])).rows).toEqual([{ n: 2 }]);
    const { promise, resolve } = Promise.withResolvers<unknown>();
    pool.query('select 3 as n', (_error: Error, result: pg.QueryResult) => resolve(result.rows));
    expect(await promise).toEqual([{ n: 3 }]);
    const config = { name: 'one', text: 'select name from items where id = $1', values: [7] };
    expect((await pool.query(config)).rows).toEqual([{ name: 'item 7' }]);
    expect(Object.keys(config)).toEqual(['name', 'text', 'values']);
    const array = await pool.query({ text: 'select 1, 2', rowMode: 'array' });
    expect(array.rows).toEqual([[1, 2]]);
    const several = (await pool.query(
      'select 1 as a; select 2 as b',
    )) as unknown as pg.QueryResult[];
    expect(several.map(({ rows }) => rows)).toEqual([[{ a: 1 }], [{ b: 2 }]]);
    await expect(pool.query('selec 1')).rejects.toMatchObject({ code: '42601' });
    await expect(pool.query('select 1/0')).rejects.toMatchObject({ code: '22012' });
    await expect(pool.query('select * from nowhere')).rejects.toMatchObject({ code: '42P01' });
  });

  test('a function that is marked stable and writes is refused by the standby, and runs on the primary', async () => {
    await pool.query(`create table log (x int)`);
    await pool.query(
      `create function lies() returns int language plpgsql stable as
       $$ begin perform nextval('s'); return 1; end $$; create sequence s`,
    );
    await until(() => routerOf(pool).facts('select lies()')?.access === 'read');
    await cluster.caughtUp();
    await settled();
    expect((await pool.query('select lies()')).rows).toEqual([{ lies: 1 }]);
    expect(routerOf(pool).facts('select lies()')?.access).toBe('write');
  });
});

describe('pool.connect', () => {
  test('each statement by itself, until a transaction keeps the connection', async () => {
    await settled();
    const client = await pool.connect();
    expect(await serverOf(client)).not.toBe(PRIMARY);
    await client.query('begin');
    expect(client.getTransactionStatus()).toBe('T');
    expect(await serverOf(client)).toBe(PRIMARY);
    const pid = processOf(client);
    await client.query(`update items set name = name where id = 1`);
    expect(processOf(client)).toBe(pid);
    await client.query('commit');
    expect(client.getTransactionStatus()).toBe('I');
    await until(async () => (await serverOf(client)) !== PRIMARY);
    client.release();
    expect(() => client.release()).toThrow('already been released');
  });

  test('BEGIN READ ONLY begins on a replica; what only the primary has moves it there while it is empty', async () => {
    await settled();
    const client = await pool.connect();
    await client.query('begin read only');
    expect(await serverOf(client)).not.toBe(PRIMARY);
    await expect(client.query('select txid_current()')).rejects.toMatchObject({
      code: 'NEEDS_PRIMARY',
    });
    await client.query('commit');
    await client.query('begin read only');
    expect(
      (await client.query(`select pg_is_in_recovery() as standby, txid_current()`)).rows,
    ).toMatchObject([{ standby: false }]);
    await client.query('commit');
    client.release();
  });

  test('what changes its session stays on it until the release', async () => {
    const client = await pool.connect();
    await client.query(`set application_name = 'mine'`);
    expect(await serverOf(client)).toBe(PRIMARY);
    expect((await client.query('show application_name')).rows).toEqual([
      { application_name: 'mine' },
    ]);
    client.release(true);
  });

  test('notifications, notices, statements that nobody waits for, type parsers', async () => {
    const client = await pool.connect();
    const heard: string[] = [];
    client.on('notification', ({ payload }) => heard.push(payload!));
    client.on('notice', ({ message }) => heard.push(message!));
    client.setTypeParser(23, value => `int ${value}`);
    client.query('listen news');
    client.query(`notify news, 'hello'`);
    client.query(`do $$ begin raise notice 'noted'; end $$`);
    expect((await client.query('select 4 as n')).rows).toEqual([{ n: 'int 4' }]);
    await until(() => heard.length === 2);
    expect(heard.toSorted()).toEqual(['hello', 'noted']);
    client.release(true);
    expect((await pool.query('select 4 as n')).rows).toEqual([{ n: 4 }]);
  });

  test('an error within a transaction leaves it failed until it is rolled back', async () => {
    const client = await pool.connect();
    await client.query('begin');
    await expect(client.query('select 1/0')).rejects.toMatchObject({ code: '22012' });
    await expect(client.query('select 1')).rejects.toMatchObject({ code: '25P02' });
    await client.query('rollback');
    expect((await client.query('select 1 as one')).rows).toEqual([{ one: 1 }]);
    client.release();
  });

  test('a process is cancelled where it runs', async () => {
    await settled();
    const client = await pool.connect();
    const running = client.query('select count(*) from generate_series(1, 1e12::bigint)');
    const cancelled = expect(running).rejects.toMatchObject({ code: '57014' });
    await until(() => processOf(client) !== null);
    expect(processOf(client)).toBeGreaterThan(2 ** 22);
    let isOver = false;
    const over = cancelled.finally(() => {
      isOver = true;
    });
    // Again and again: one that comes before the statement has begun cancels nothing.
    await until(async () => {
      await pool.query('select pg_cancel_backend($1)', [processOf(client)]);
      return isOver;
    });
    await over;
    client.release();
  });

  test('cursors and streams read from a replica, copies write to the primary', async () => {
    await settled();
    const client = await pool.connect();
    const cursor = client.query(new Cursor<{ name: string }>(WHERE_AM_I));
    expect(await cursor.read(10)).not.toEqual([{ name: PRIMARY }]);
    await cursor.close();
    const stream = client.query(
      new QueryStream('select id from items order by id', [], { batchSize: 50 }),
    );
    let count = 0;
    for await (const _row of stream) count++;
    expect(count).toBe(1000);
    await pipeline(
      Readable.from(['2001\ta\n', '2002\tb\n']),
      client.query(copyFrom('copy items from stdin')),
    );
    const copied: string[] = [];
    for await (const chunk of client.query(
      copyTo('copy (select id from items where id > 2000 order by id) to stdout'),
    )) {
      copied.push(String(chunk));
    }
    expect(copied.join('')).toBe('2001\n2002\n');
    expect(
      (await client.query('select count(*)::int as n from items where id > 2000')).rows,
    ).toEqual([{ n: 2 }]);
    await client.query('delete from items where id > 2000');
    client.release();
  });
});

describe('the libraries that applications use', () => {
  const items = pgTable('items', { id: integer().primaryKey(), name: text().notNull() });

  /** Statements that each server was given, by what they say in a comment. */
  test('Drizzle: reads reach replicas, a transaction is whole', async () => {
    const db = drizzle(pool);
    await settled();
    const before = reads(pool);
    expect(await db.select().from(items).limit(1)).toHaveLength(1);
    expect(reads(pool)).toBeGreaterThan(before);
    await expect(
      db.transaction(async tx => {
        await tx.insert(items).values({ id: 3000, name: 'x' });
        throw new Error('no');
      }),
    ).rejects.toThrow('no');
    expect((await pool.query('select from items where id = 3000')).rowCount).toBe(0);
  });

  test('Kysely: reads reach replicas, a transaction is whole', async () => {
    const db = new Kysely<{ items: { id: number; name: string } }>({
      dialect: new PostgresDialect({ pool }),
    });
    await settled();
    const before = reads(pool);
    expect(await db.selectFrom('items').selectAll().limit(1).execute()).toHaveLength(1);
    expect(reads(pool)).toBeGreaterThan(before);
    await db.transaction().execute(async tx => {
      await tx.insertInto('items').values({ id: 3001, name: 'y' }).execute();
      expect(
        await tx.selectFrom('items').select('id').where('id', '=', 3001).execute(),
      ).toHaveLength(1);
    });
    expect(await db.selectFrom('items').select('id').where('id', '=', 3001).execute()).toHaveLength(
      1,
    );
    await db.deleteFrom('items').where('id', '=', 3001).execute();
  });
});

/** Times that connections to replicas were given out. */
const given = new WeakMap<Pool, { count: number }>();
function reads(of: Pool): number {
  let counter = given.get(of);
  if (!counter) {
    counter = { count: 0 };
    given.set(of, counter);
    const mine = counter;
    of.on('acquire', client => {
      if ((client as unknown as pg.Client).port !== cluster.primary.port) mine.count++;
    });
  }
  return counter.count;
}

test('members join and leave while all goes on, and no query fails', async () => {
  const growing = new RoutedPools(cluster);
  await growing.publish([cluster.primary]);
  const changing = growing.pool({ max: 4 });
  let isOver = false;
  const seen = new Set<string>();
  const users = Array.from({ length: 4 }, async () => {
    while (!isOver) seen.add(await serverOf(changing));
  });
  await until(() => seen.size === 1);
  await growing.publish();
  await until(() => seen.size === 3);
  await growing.publish([cluster.primary]);
  await until(() => (changing as unknown as { router: unknown }).router === undefined);
  seen.clear();
  await until(() => seen.size > 0);
  await growing.publish();
  await until(() => seen.size === 3);
  isOver = true;
  await Promise.all(users);
  await changing.end();
  expect(changing.totalCount).toBe(0);
});

test('the nearest data centre is read from first', async () => {
  const far = new RoutedPools(cluster);
  await far.publish(undefined, undefined, ({ name }) => (name === 'member-1' ? 'local' : 'far'));
  const near = await far.reading();
  await until(() => routerOf(near).monitor.members.filter(({ replayed }) => replayed).length === 2);
  for (let i = 0; i < 20; i++) expect(await serverOf(near)).toBe('member-1');
  await near.end();
});

test('staleness: a replica that is behind may answer, when that was said; nonsense is refused', async () => {
  await settled();
  for (const standby of cluster.standbys) await standby.pauseReplay();
  try {
    await pool.query(`insert into items values (4000, 'late')`);
    await until(async () => {
      const { rows } = await pool.query('select name from items where id = 4000');
      return rows.length === 1;
    });
    const old = await pool.query({
      text: 'select name from items where id = 4000',
      staleness: '1m',
    });
    expect(old.rows).toEqual([]);
  } finally {
    for (const standby of cluster.standbys) await standby.resumeReplay();
    await pool.query('delete from items where id = 4000');
  }
  await expect(pool.query({ text: 'select 1', staleness: 'soon' })).rejects.toMatchObject({
    code: 'INVALID_STALENESS',
  });
  expect(() => pools.pool({ staleness: -1 })).toThrow('how old');
});
