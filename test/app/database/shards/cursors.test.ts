/** Cursors and streams over shards give what they give on one PostgreSQL, and hold only what comes next. */
import { pipeline } from 'node:stream/promises';
import fc from 'fast-check';
import type pg from 'pg';
import { type CopyToStreamQuery, from as copyFrom, to as copyTo } from 'pg-copy-streams';
import Cursor from 'pg-cursor';
import QueryStream from 'pg-query-stream';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { RawRow } from '../../../../src/app/database/shards/merge/gathered.ts';
import { OrderedRows } from '../../../../src/app/database/shards/submitted/ordered-rows.ts';
import { log } from '../../../../src/app/telemetry/log.ts';
import { CreatedShards } from '../../../support/created-shards.ts';

log.level = 'silent';

const SCHEMA = `
  create table users (id bigint primary key, email text unique, name text);
  create table posts (user_id bigint, id int, title text, views int, price numeric, at timestamptz, primary key (user_id, id));
  create table tags (code text primary key)`;

let shards: CreatedShards;
let source: CopyToStreamQuery | undefined;

beforeAll(async () => {
  shards = await CreatedShards.start(
    3,
    SCHEMA,
    {
      tables: {
        'public.users': { kind: 'sharded', key: 'id' },
        'public.posts': { kind: 'sharded', key: 'user_id' },
        'public.tags': { kind: 'reference' },
      },
      unique: ['public.users.email'],
    },
    { maxMergedRows: 2_000 },
  );
  await shards.one.query(
    "insert into users select i, 'mail' || i, case when i % 5 = 0 then null else 'Name ' || i % 9 end from generate_series(1, 40) i",
  );
  await shards.one.query(`insert into posts (user_id, id, title, views, price, at)
      select u, i, (array['a', 'B', 'ä', 'Z', null])[1 + (u * i) % 5], (u * i) % 17, (u * i) % 7 + 0.5,
        timestamptz '2024-03-31 00:00:00+00' + (u * i % 50) * interval '1 hour'
      from generate_series(1, 40) u, generate_series(1, 150) i`);
  for (const table of ['users', 'posts']) {
    await onBoth(async client => {
      // The one server first.
      if (source) await pipeline(source, client.query(copyFrom(`copy ${table} from stdin`)));
      source = source ? undefined : client.query(copyTo(`copy ${table} to stdout`));
    });
  }
});
afterAll(() => shards?.remove());

const ORDERS = [
  'id, user_id',
  'title desc, user_id, id',
  'price, user_id desc, id',
  'at desc nulls last, user_id, id',
  'lower(title), views desc, user_id, id',
];

async function read(client: pg.ClientBase, text: string, values: unknown[], size: number) {
  const cursor = client.query(new Cursor(text, values, { rowMode: 'array' }));
  const rows: unknown[] = [];
  for (;;) {
    const some = await cursor.read(size);
    rows.push(...some);
    if (some.length < size) break;
  }
  await cursor.close();
  return rows;
}

async function onBoth<T>(body: (client: pg.PoolClient) => Promise<T>): Promise<[one: T, many: T]> {
  const client = await shards.one.connect();
  try {
    return [await body(client), await shards.withClient(body)];
  } finally {
    client.release();
  }
}

describe('a cursor', () => {
  test.each(ORDERS)('ordered by %s gives the rows in that order', async order => {
    for (const size of [7, 1_000]) {
      const [one, many] = await onBoth(client =>
        read(
          client,
          `select user_id, id, title, price, at from posts where id > $1 order by ${order}`,
          [3],
          size,
        ),
      );
      expect(one.length).toBe(40 * 147);
      expect(many).toEqual(one);
    }
  });

  test('has more rows than may be merged, with LIMIT and OFFSET', async () => {
    await expect(shards.pool.query('select * from posts')).rejects.toMatchObject({
      code: 'SHARD_ROWS_LIMIT',
      message: expect.stringContaining('2000'),
    });
    const [one, many] = await onBoth(client =>
      read(
        client,
        'select user_id, id from posts order by views, user_id, id limit $1 offset $2',
        [3_000, 2_500],
        400,
      ),
    );
    expect(one.length).toBe(3_000);
    expect(many).toEqual(one);
    const [, all] = await onBoth(client => read(client, 'select user_id, id from posts', [], 999));
    expect(new Set(all.map(String)).size).toBe(6_000);
  });

  test('of groups, of DISTINCT, of a subquery, of one key, of nothing', async () => {
    for (const [text, values] of [
      ['select title, count(*) from posts group by title order by 2, 1', []],
      ['select distinct views from posts order by 1', []],
      ['select id from users where id > (select avg(id) from users) order by id', []],
      ['select id, title from posts where user_id = $1 order by id', [7]],
      ['select id from users where email = $1', ['mail9']],
      ['select id from users where id = $1', [1_000]],
      [
        'select u.id, p.id from users u join posts p on p.user_id = u.id where p.views = 3 order by 1, 2',
        [],
      ],
      ['select * from tags', []],
      ["select code from tags union all select 'x'", []],
      ['update users set name = name where id < 4 returning id', []],
      ["update users set email = 'new' || email where id = $1 returning email", [5]],
    ] as [string, unknown[]][]) {
      const [one, many] = await onBoth(client => read(client, text, values, 3));
      expect(many.map(String).sort(), text).toEqual(one.map(String).sort());
    }
  });

  test('in a transaction sees what that wrote, and others wait their turn', () =>
    shards.withClient(async client => {
      await client.query('begin');
      await client.query("insert into users values (1000, 'new', 'Zed')");
      const cursor = client.query(
        new Cursor('select id from users where name = $1 or id < 3 order by name', ['Zed']),
      );
      const count = client.query('select count(*)::int as count from users');
      expect(await cursor.read(2)).toHaveLength(2);
      expect(await cursor.read(5)).toEqual([{ id: '1000' }]);
      await cursor.close();
      expect((await count).rows).toEqual([{ count: 41 }]);
      await client.query('rollback');
    }));

  test('fails with the error of its shard, and the client goes on', () =>
    shards.withClient(async client => {
      const cursor = client.query(new Cursor('select 1 / (id - 20) as x from users order by 1'));
      await expect(cursor.read(100)).rejects.toMatchObject({ code: '22012' });
      const refused = client.query(new Cursor('select id, row_number() over () from users'));
      await expect(refused.read(1)).rejects.toMatchObject({ code: 'SHARD_REFUSED' });
      const wrong = client.query(new Cursor('selec 1'));
      await expect(wrong.read(1)).rejects.toMatchObject({ code: '42601' });
      expect((await client.query('select count(*)::int as count from users')).rows).toEqual([
        { count: 40 },
      ]);
    }));

  test('that is closed early gives its connections back', async () => {
    for (let i = 0; i < 12; i++) {
      await shards.withClient(async client => {
        const cursor = client.query(new Cursor('select * from posts order by at'));
        expect(await cursor.read(3)).toHaveLength(3);
        await cursor.close();
      });
    }
    const client = await shards.pool.connect();
    const cursor = client.query(new Cursor('select * from posts order by at'));
    await cursor.read(3);
    client.release(true);
    expect((await shards.pool.query('select count(*)::int as count from posts')).rows).toEqual([
      { count: 6_000 },
    ]);
  });
});

test('a stream, by a client and by the pool', async () => {
  const text = 'select user_id, id from posts order by title, user_id, id';
  const collect = async (stream: AsyncIterable<unknown>) => {
    const rows: unknown[] = [];
    for await (const row of stream) rows.push(row);
    return rows;
  };
  const [one, many] = await onBoth(client =>
    collect(client.query(new QueryStream(text, [], { batchSize: 50 }))),
  );
  expect(one).toHaveLength(6_000);
  expect(many).toEqual(one);
  expect(await collect(shards.pool.query(new QueryStream(text)) as never)).toEqual(one);
  expect(shards.pool.idleCount).toBe(shards.pool.totalCount);
});

describe('ordered rows', () => {
  test('are those of all inputs in order, and no more than a batch of each is held', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.array(fc.nat(30), { maxLength: 40 }), { minLength: 1, maxLength: 5 }),
        fc.integer({ min: 1, max: 7 }),
        fc.integer({ min: 1, max: 9 }),
        async (lists, batch, size) => {
          let most = 0;
          const inputs = lists.map(list => {
            const left = list.toSorted((a, b) => a - b).map((n): RawRow => [String(n)]);
            return async (count: number) => left.splice(0, count);
          });
          const rows = new OrderedRows(inputs, batch, async held => {
            most = Math.max(most, held.length);
            return held.toSorted(([a], [b]) => Number(a) - Number(b));
          });
          const taken: number[] = [];
          for (;;) {
            const some = await rows.take(size);
            taken.push(...some.map(([n]) => Number(n)));
            if (some.length < size) break;
          }
          expect(taken).toEqual(lists.flat().sort((a, b) => a - b));
          expect(most).toBeLessThanOrEqual(batch * lists.length);
        },
      ),
    );
  });
});
