/** What `createPool` gives where the map has several shards: the planner, the transactions and the unique columns together. */
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import fc from 'fast-check';
import pg from 'pg';
import { from as copyFrom } from 'pg-copy-streams';
import Cursor from 'pg-cursor';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { createPool, type Pool } from '../../../../src/app/database/pool.ts';
import { readSchema } from '../../../../src/app/database/shards/declaration/schema.ts';
import { hashExpression } from '../../../../src/app/database/shards/hash.ts';
import { RowBelongsElsewhere } from '../../../../src/app/database/shards/misplaced.ts';
import type { ShardedPool } from '../../../../src/app/database/shards/sharded-pool.ts';
import { uniqueColumns } from '../../../../src/app/database/shards/unique/columns.ts';
import { lookupTable, uniqueTables } from '../../../../src/app/database/shards/unique/tables.ts';
import { log } from '../../../../src/app/telemetry/log.ts';
import { readRuntimeMap } from '../../../../src/map/map-file.ts';
import { HintedPools } from '../../../support/hinted-shards.ts';
import { ShardServers } from '../../../support/shard-servers.ts';

log.level = 'silent';

const SHARDS = 3;

let shards: ShardServers;
let maps: HintedPools;
let pool: Pool;
let lookup: string;

beforeAll(async () => {
  shards = await ShardServers.start(SHARDS, { servers: SHARDS });
  await shards.everywhere(`
    create table users (id bigint primary key, email text unique, name text not null, balance int not null default 0);
    create table posts (user_id bigint references users, id bigint, title text, primary key (user_id, id));
    create table settings (name text primary key, value text)`);
  maps = HintedPools.of(shards);
  await maps.publish({
    tables: {
      'public.users': { kind: 'sharded', key: 'id' },
      'public.posts': { kind: 'sharded', key: 'user_id' },
    },
    unique: ['public.users.email'],
  });
  const { database } = readRuntimeMap(maps.mapFile);
  for (const [index, { range }] of database.shards.entries()) {
    for (const [table, key] of [
      ['users', 'id'],
      ['posts', 'user_id'],
    ] as const) {
      const hash = hashExpression('int8', key);
      await shards.pools[index]!.query(
        `alter table ${table} add constraint banyan_shard_guard check (${hash} between ${range!.from} and ${range!.to})`,
      );
    }
  }
  const [email] = uniqueColumns(database, await readSchema(shards.pools[0]!));
  lookup = lookupTable(email!);
  await shards.everywhere(uniqueTables(email!));
  pool = createPool({ connectionString: shards.urls[0], mapFile: maps.mapFile, max: 10 });
});
afterAll(async () => {
  await pool?.end();
  await maps?.remove();
  await shards?.remove();
});
beforeEach(async () => {
  await pool.query('delete from posts');
  await pool.query('delete from users');
});

const add = (count: number) =>
  pool.query(
    `insert into users (id, email, name) values ${Array.from({ length: count }, (_, i) => `(${i + 1}, 'user${i + 1}@example.org', 'User ${i + 1}')`).join(', ')}`,
  );

test('rows are spread over the shards, and read as of one table', async () => {
  expect(pool).toBeInstanceOf(pg.Pool);
  expect((await add(30)).rowCount).toBe(30);
  const counts = await shards.everywhere('select count(*)::int from users');
  for (const { rows } of counts) expect(rows[0].count).toBeGreaterThan(0);
  const { rows } = await pool.query(
    'select id::int, name from users where id > $1 order by id desc limit 3',
    [10],
  );
  expect(rows.map(({ id }) => id)).toEqual([30, 29, 28]);
  expect((await pool.query('select count(*)::int as count from users')).rows).toEqual([
    { count: 30 },
  ]);
  expect((await pool.query('select name from users where id = $1', [7])).rows).toEqual([
    { name: 'User 7' },
  ]);
  expect(
    (await pool.query("update users set balance = balance + 1 where name like 'User 1%'")).rowCount,
  ).toBe(11);
});

test('a value that is taken on another shard fails the whole of a statement', async () => {
  await add(5);
  await expect(
    pool.query(
      "insert into users (id, email, name) values (101, 'new@example.org', 'A'), (102, 'user3@example.org', 'B'), (103, 'other@example.org', 'C')",
    ),
  ).rejects.toMatchObject({
    code: '23505',
    constraint: 'users_email_key',
    detail: 'Key (email)=(user3@example.org) already exists.',
  });
  expect((await pool.query('select count(*)::int as count from users')).rows).toEqual([
    { count: 5 },
  ]);
  expect(
    (await pool.query('select id::int from users where email = $1', ['user3@example.org'])).rows,
  ).toEqual([{ id: 3 }]);
  const known = await shards.everywhere(`select from ${lookup}`);
  expect(known.reduce((sum, { rowCount }) => sum + rowCount!, 0)).toBe(5);
});

test('transactions over shards, with what is refused and what fails', async () => {
  await add(20);
  await pool.transaction(async client => {
    await client.query('update users set balance = balance - 10 where id = $1', [1]);
    await client.query('update users set balance = balance + 10 where id = $1', [2]);
    await client.query('insert into posts values (1, 1, $1)', ['hello']);
    await client.query("insert into settings values ('a', 'b')");
  });
  const { rows } = await pool.query(
    'select id::int, balance from users where id in (1, 2) order by id',
  );
  expect(rows).toEqual([
    { id: 1, balance: -10 },
    { id: 2, balance: 10 },
  ]);
  const client = await pool.connect();
  try {
    await client.query('begin');
    await client.query('update users set balance = 99');
    await expect(
      client.query('select * from users u join posts p on p.title = u.name'),
    ).rejects.toMatchObject({ code: 'SHARD_REFUSED' });
    await expect(client.query('select 1')).rejects.toMatchObject({ code: '25P02' });
    expect((await client.query('commit')).command).toBe('ROLLBACK');
    const cursor = client.query(new Cursor('select id::int from users where id = $1', [5]));
    expect(await cursor.read(10)).toEqual([{ id: 5 }]);
    await cursor.close();
  } finally {
    client.release();
  }
  expect((await pool.query('select max(balance) from users')).rows).toEqual([{ max: 10 }]);
  expect((await shards.prepared()).flat()).toEqual([]);
});

test('the schema is changed on all shards, and known from then on', async () => {
  await pool.query('alter table users add column nick text');
  await add(6);
  await pool.query("update users set nick = 'n' || id");
  expect(
    (await pool.query('select nick from users order by nick collate "C" limit 2')).rows,
  ).toEqual([{ nick: 'n1' }, { nick: 'n2' }]);
});

test('EXPLAIN with parameters: by their values; ANALYZE does what the statement does, once', async () => {
  await add(12);
  const explain = async (
    text: string,
    values: unknown[] = [],
    on: pg.Pool | pg.PoolClient = pool,
  ) => (await on.query(text, values)).rows.map(row => row['QUERY PLAN']).join('\n');
  expect(await explain('explain select * from users where id = $1', [7])).toMatch(
    /^route: shard s\d\n {2}users is sharded by id\n {2}shard key 7 \(\$1\) → shard s\d\n.*cost=/,
  );
  const any = await explain('explain select * from users where id = any ($1) limit $2', [
    [1, 2, 3, 4],
    2,
  ]);
  expect(any).toMatch(/shard key 1, 2, 3, 4 \(\$1\)/);
  expect(any).toMatch(/\nmerge: limit \$2$/);
  expect(
    await explain('explain select id from users where email = $1', ['user3@example.org']),
  ).toMatch(/^route: shard s\d\n {2}users.email is unique across shards/);
  const balances = 'select sum(balance)::int as sum from users';
  await explain('explain update users set balance = balance + $1', [5]);
  expect((await pool.query(balances)).rows).toEqual([{ sum: 0 }]);
  const run = await explain('explain analyze update users set balance = balance + $1', [5]);
  expect(run.match(/shard s\d:\n +Update on users .*actual/g)).toHaveLength(SHARDS);
  expect((await pool.query(balances)).rows).toEqual([{ sum: 60 }]);
  await explain(
    'explain (analyze) insert into posts select id, id + $1, name from users where balance = $2',
    [100, 5],
  );
  expect(
    (await pool.query('select count(*)::int as count from posts where id > 100')).rows,
  ).toEqual([{ count: 12 }]);

  const client = await pool.connect();
  try {
    await client.query('begin');
    await explain('explain analyze delete from posts', [], client);
    expect((await client.query('select count(*)::int as count from posts')).rows).toEqual([
      { count: 0 },
    ]);
    await client.query('rollback');
  } finally {
    client.release();
  }
  expect((await pool.query('select count(*)::int as count from posts')).rows).toEqual([
    { count: 12 },
  ]);
  expect((await shards.prepared()).flat()).toEqual([]);

  await expect(explain('explain (format json) select * from users')).rejects.toMatchObject({
    code: 'SHARD_REFUSED',
  });
  await expect(
    explain('explain select * from users where nick_name = $1', ['x']),
  ).rejects.toMatchObject({
    code: '42703',
  });
  await expect(explain('explain select * from users where id = $2', [1])).rejects.toThrow();
});

test('money that moves between any accounts stays', { timeout: 120_000 }, async () => {
  await add(8);
  const transfer = fc.record({
    from: fc.integer({ min: 1, max: 8 }),
    to: fc.integer({ min: 1, max: 8 }),
    by: fc.nat(20),
  });
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.array(transfer, { maxLength: 4 }), { minLength: 2, maxLength: 4 }),
      async sessions => {
        await Promise.all(
          sessions.map(async transfers => {
            for (const { from, to, by } of transfers) {
              await pool.transaction(
                async client => {
                  await client.query('update users set balance = balance - $1 where id = $2', [
                    by,
                    from,
                  ]);
                  await client.query('update users set balance = balance + $1 where id = $2', [
                    by,
                    to,
                  ]);
                },
                { retries: 50, timeoutMs: 60_000 },
              );
            }
          }),
        );
        expect((await pool.query('select sum(balance)::int as sum from users')).rows).toEqual([
          { sum: 0 },
        ]);
      },
    ),
    { numRuns: 10 },
  );
});

test('a key that is asked much stands out, in whatever statements it is named', async () => {
  await add(30);
  const own = createPool({ connectionString: shards.urls[0], mapFile: maps.mapFile, max: 10 });
  try {
    for (let i = 0; i < 90; i++) {
      await own.query('select name from users where id = $1', [1 + (i % 30)]);
      await own.query('select title from posts where user_id = 7');
    }
    await own.transaction(async client => {
      for (let i = 0; i < 30; i++) {
        await client.query('insert into posts values ($1, $2)', [7, i]);
        await client.query('update users set balance = balance + 1 where id = $1', ['7']);
      }
    });
    const { hotKeys, shards: loads } = (own as ShardedPool).load;
    expect(hotKeys[0]).toMatchObject({ family: 'integer', key: '7' });
    expect(hotKeys[0]!.share).toBeGreaterThan(0.5);
    expect(loads.map(({ shard }) => shard).sort()).toEqual(
      readRuntimeMap(maps.mapFile).database.shards.map(({ id }) => id),
    );
  } finally {
    await own.end();
  }
});

test('a row that a trigger moves to another shard is refused, and in words', async () => {
  await shards.everywhere(`
    create function shift() returns trigger language plpgsql as
      'begin new.id := new.id + 1; return new; end';
    create trigger shift before insert on users for each row when (new.name = 'shifted')
      execute function shift()`);
  try {
    // Side by side: each waits for a newer map before it is told.
    const tries = Array.from({ length: 20 }, (_, n) =>
      pool.query('insert into users (id, name) values ($1, $2)', [(n + 1) * 10, 'shifted']),
    );
    const refused = (await Promise.allSettled(tries)).flatMap(one =>
      one.status === 'rejected' ? [one.reason] : [],
    );
    expect(refused.length).toBeGreaterThan(0);
    for (const error of refused) expect(error).toBeInstanceOf(RowBelongsElsewhere);
    const { rows } = await pool.query('select count(*)::int as count from users');
    expect(rows[0].count).toBe(20 - refused.length);
    // A copy of many rows, one of them such: nothing of it is kept.
    const lines = Array.from(
      { length: 40 },
      (_, n) => `${1_000 + n}\t${n < 20 ? 'plain' : 'shifted'}`,
    );
    const client = await pool.connect();
    try {
      const stream = client.query(copyFrom('copy users (id, name) from stdin'));
      const error = await pipeline(Readable.from(`${lines.join('\n')}\n`), stream).catch(e => e);
      expect(error).toBeInstanceOf(RowBelongsElsewhere);
      expect(error).toMatchObject({ safeToRetry: true, isMapNew: false });
    } finally {
      client.release();
    }
    const after = await pool.query('select count(*)::int as count from users');
    expect(after.rows).toEqual(rows);
  } finally {
    await shards.everywhere('drop trigger shift on users; drop function shift()');
  }
});
