/** What the router promises, one by one, on four shards of a real PostgreSQL. */
import type pg from 'pg';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type {
  LaneOptions,
  LaneStatement,
  Lanes,
} from '../../../../src/app/database/shards/lanes.ts';
import { TooManyRows } from '../../../../src/app/database/shards/merge/merge.ts';
import { ShardRefused } from '../../../../src/app/database/shards/plan/refused.ts';
import { TestPostgres } from '../../../support/postgres.ts';
import { TestShards, TransactionLanes } from '../../../support/shards.ts';
import { SCHEMA, TABLES } from './fixture.ts';

let postgres: TestPostgres;
let shards: TestShards;

beforeAll(async () => {
  postgres = await TestPostgres.start();
  shards = await TestShards.start(postgres, 4, SCHEMA, TABLES, { maxMergedRows: 200 });
});
afterAll(async () => {
  shards?.close();
  await postgres?.remove();
});
beforeEach(async () => {
  await Promise.all(
    shards.pools.map(pool =>
      pool.query(
        'truncate users, posts, comments, likes, accounts, devices, tickets, countries, tags, settings',
      ),
    ),
  );
  shards.lanes.sent.length = 0;
});

const sent = () => shards.lanes.sent;
const texts = () => sent().map(({ text }) => text);

async function users(count: number): Promise<void> {
  const rows = Array.from({ length: count }, (_, i) => `(${i + 1}, 'user ${i + 1}', ${i % 5})`);
  await shards.query(`insert into users (id, name, age) values ${rows.join(', ')}`);
  sent().length = 0;
}

/** The rows of a table on each shard, as text. */
function onEach(query: string): Promise<string[]> {
  return Promise.all(
    shards.pools.map(async pool => JSON.stringify((await pool.query(query)).rows)),
  );
}

async function failureOf(running: Promise<unknown>): Promise<Error & Record<string, unknown>> {
  try {
    await running;
  } catch (error) {
    return error as Error & Record<string, unknown>;
  }
  throw new Error('it did not fail');
}

describe('one shard', () => {
  test('the statement goes there as it came, with its values and its name', async () => {
    await users(10);
    const text = 'select /* mine */ id, name from users where id=$1';
    const result = (await shards.router.execute(
      { text, values: [7], name: 'by-id' },
      shards.lanes,
    )) as pg.QueryResult;
    expect(result.rows).toEqual([{ id: '7', name: 'user 7' }]);
    expect(texts()).toEqual([text]);
    expect(sent()[0]!.wantsWrite).toBe(false);
  });

  test('each row is on the shard that its key leads to, and nowhere else', async () => {
    await users(100);
    const counts = await Promise.all(
      shards.pools.map(async pool =>
        Number((await pool.query('select count(*) from users')).rows[0].count),
      ),
    );
    expect(counts.reduce((sum, one) => sum + one)).toBe(100);
    for (const count of counts) expect(count).toBeGreaterThan(5);
  });

  test('a key that is NULL is nowhere, and one shard says so', async () => {
    await users(3);
    expect((await shards.query('select count(*) from users where id = $1', [null])).rows).toEqual([
      { count: '0' },
    ]);
    expect(sent()).toHaveLength(1);
  });

  test.each([
    ['select * from users where id = $1', 'x', '22P02'],
    ['select count(*) from users where id = $1', '99999999999999999999', '22003'],
    ['update users set name = $2 where id = $1', 'x', '22P02'],
    ['insert into users (id, name) values ($1, $2)', 'x', '22P02'],
    ['select * from devices where id = $1', 'x', '22P02'],
  ])('a key of the wrong type gets an error of PostgreSQL: %s', async (text, key, sqlstate) => {
    const values = text.includes('$2') ? [key, 'n'] : [key];
    expect((await failureOf(shards.query(text, values))).code).toBe(sqlstate);
  });

  test('a key that PostgreSQL reads in its own way goes where it belongs', async () => {
    await shards.query('insert into devices (id, kind) values ($1, $2)', [
      'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11',
      'k',
    ]);
    const found = await shards.query('select kind from devices where id = $1', [
      '{a0eebc999c0b4ef8bb6d6bb9bd380a11}',
    ]);
    expect(found.rows).toEqual([{ kind: 'k' }]);
  });

  test("SQL that does not parse gets PostgreSQL's own error and position", async () => {
    const error = await failureOf(shards.query('selec 1'));
    expect(error).toMatchObject({ code: '42601', position: '1' });
  });

  test('a table that is not there is told by PostgreSQL', async () => {
    expect((await failureOf(shards.query('select * from users, nowhere'))).code).toBe('42P01');
  });

  test('too few values, and too many, are told by PostgreSQL', async () => {
    for (const values of [[1], [1, 2, 3]]) {
      const running = shards.query('select * from users where age in ($1, $2)', values);
      expect((await failureOf(running)).code).toBe('08P01');
    }
  });
});

describe('several shards', () => {
  test('IN asks only the shards that own the keys', async () => {
    await users(100);
    const { rows } = await shards.query('select id from users where id = any ($1) order by id', [
      [3, 7, null],
    ]);
    expect(rows).toEqual([{ id: '3' }, { id: '7' }]);
    const owners = new Set([3, 7].map(id => shards.placement.shardOf('integer', String(id))));
    expect(new Set(sent().map(({ shard }) => shard))).toEqual(owners);
  });

  test('integers are merged here; text in the order of its collation, by PostgreSQL', async () => {
    await shards.query(
      "insert into users (id, name, code) values (1, 'b', 'b'), (2, 'B', 'B'), (3, 'a', 'a'), (4, 'Z', 'Z')",
    );
    sent().length = 0;
    expect((await shards.query('select id from users order by id desc')).rows).toHaveLength(4);
    expect(sent()).toHaveLength(4);
    const byCode = await shards.query('select code from users order by code');
    expect(byCode.rows.map(({ code }) => code)).toEqual(['B', 'Z', 'a', 'b']);
    const expected = await shards.pools[0]!.query(
      "select x from unnest(array['b', 'B', 'a', 'Z']) x order by x",
    );
    const byName = await shards.query('select name from users order by name');
    expect(byName.rows.map(({ name }) => name)).toEqual(expected.rows.map(({ x }) => x));
    const forced = await shards.query('select name from users order by name collate "C"');
    expect(forced.rows.map(({ name }) => name)).toEqual(['B', 'Z', 'a', 'b']);
  });

  test('a row is what pg makes of it: its types, its names, its mode', async () => {
    await users(2);
    const result = (await shards.router.execute(
      { text: 'select age, name, age from users order by id', rowMode: 'array' },
      shards.lanes,
    )) as pg.QueryArrayResult;
    expect(result.rows).toEqual([
      [0, 'user 1', 0],
      [1, 'user 2', 1],
    ]);
    expect(result.fields.map(({ name }) => name)).toEqual(['age', 'name', 'age']);
    expect(result).toMatchObject({ command: 'SELECT', rowCount: 2 });
  });

  test("an enum's order is that of its type", async () => {
    await shards.query(
      "insert into users (id, name, feeling) values (1, 'x', 'ok'), (2, 'x', 'sad'), (3, 'x', 'happy')",
    );
    const { rows } = await shards.query(
      'select feeling, count(*) from users group by 1 order by 1',
    );
    expect(rows.map(({ feeling }) => feeling)).toEqual(['sad', 'ok', 'happy']);
    expect((await shards.query('select max(feeling) from users')).rows).toEqual([{ max: 'happy' }]);
  });

  test('an average of real is made of the rows, since sums of it are rounded', async () => {
    await shards.query(
      'insert into users (id, name, ratio) select i, $1, i / 10.0 from generate_series(1, 50) i',
      ['x'],
    );
    const [one] = (
      await postgres
        .pool()
        .then(pool => pool.query('select avg((i / 10.0)::real) from generate_series(1, 50) i'))
    ).rows;
    const [several] = (await shards.query('select avg(ratio) from users')).rows;
    expect(several.avg).toBeCloseTo(one.avg, 9);
  });

  test('more rows than may be merged are refused with the limit', async () => {
    const rows = Array.from({ length: 201 }, (_, i) => `(${i + 1}, 'x')`);
    await shards.query(`insert into users (id, name) values ${rows.join(', ')}`);
    const error = await failureOf(shards.query('select * from users'));
    expect(error).toBeInstanceOf(TooManyRows);
    expect(error.message).toContain('200 rows');
    expect((await shards.query('select id from users order by id limit 3')).rows).toHaveLength(3);
    expect((await shards.query('select count(*) from users')).rows).toEqual([{ count: '201' }]);
  });

  test('what is refused is not sent, and says what to do', async () => {
    const error = await failureOf(
      shards.query('select * from posts p join likes l on l.user_id = p.user_id'),
    );
    expect(error).toBeInstanceOf(ShardRefused);
    expect(error).toMatchObject({ code: 'SHARD_REFUSED', sqlState: '0A000' });
    expect(error.message).toContain('reference table');
    expect(sent()).toEqual([]);
  });

  test('the first error ends the others, and names its shard', async () => {
    await users(100);
    const signals: AbortSignal[] = [];
    const failing: Lanes = {
      count: 4,
      inTransaction: false,
      atomically: run => run(failing),
      query(shard: number, statement: LaneStatement, options: LaneOptions) {
        if (options.signal) signals.push(options.signal);
        if (shard === 2) return Promise.reject(Object.assign(new Error('away'), { code: '57P01' }));
        return shards.lanes.query(shard, statement, options);
      },
    };
    const error = await failureOf(shards.router.execute('select * from users', failing));
    expect(error).toMatchObject({ code: '57P01', shard: 2 });
    expect(signals).toHaveLength(4);
    for (const signal of signals) expect(signal.aborted).toBe(true);
    // What does not need it goes on.
    const other = [1, 2, 3, 4, 5].find(id => shards.placement.shardOf('integer', String(id)) !== 2);
    const result = await shards.router.execute(
      { text: 'select id from users where id = $1', values: [other] },
      failing,
    );
    expect((result as pg.QueryResult).rows).toHaveLength(1);
  });

  test('EXPLAIN shows what is sent and how it is put together, and sends nothing', async () => {
    const { rows } = await shards.query('explain select name from users order by age limit 3');
    expect(rows.map(row => row['QUERY PLAN'])).toEqual([
      'all shards',
      'send: SELECT name, age AS banyan_hidden_1 FROM users ORDER BY age LIMIT $1',
      'merge: sorted by hidden 1, limit 3, without the last 1',
    ]);
    expect(sent()).toEqual([]);
  });

  test('a subquery that can be asked first is, and its rows are used', async () => {
    await users(20);
    const { rows } = await shards.query(
      'select id from users where age > (select avg(age) from users) and id < $1 order by id',
      [9],
    );
    expect(rows).toEqual([{ id: '4' }, { id: '5' }]);
    expect(
      (await shards.query('select exists (select from users where age = 4) as yes')).rows,
    ).toEqual([{ yes: true }]);
  });
});

describe('writes', () => {
  test('rows of an INSERT go where they belong, and come back in their order', async () => {
    const rows = Array.from({ length: 30 }, (_, i) => `(${(i * 7) % 30}, 'x')`);
    const { rows: returned, rowCount } = await shards.query(
      `insert into users (id, name) values ${rows.join(', ')} returning id::int`,
    );
    expect(rowCount).toBe(30);
    expect(returned.map(({ id }) => id)).toEqual(
      Array.from({ length: 30 }, (_, i) => (i * 7) % 30),
    );
  });

  test('an INSERT that fails on one shard leaves nothing on the others', async () => {
    await users(1);
    const rows = Array.from({ length: 30 }, (_, i) => `(${i + 1}, 'y')`);
    const running = shards.query(`insert into users (id, name) values ${rows.join(', ')}`);
    expect((await failureOf(running)).code).toBe('23505');
    expect((await shards.query('select count(*) from users')).rows).toEqual([{ count: '1' }]);
  });

  test("a key's default is computed once, and its row goes where that leads", async () => {
    const made = await shards.query("insert into devices (kind) values ('a'), ('b') returning *");
    expect(made.rows.map(({ kind }) => kind)).toEqual(['a', 'b']);
    for (const { id, kind } of made.rows) {
      const { rows } = await shards.query('select kind from devices where id = $1', [id]);
      expect(rows).toEqual([{ kind }]);
    }
  });

  test('numbers of a sequence are given by the first shard to all', async () => {
    const values = Array.from({ length: 40 }, () => "('x')").join(', ');
    const { rows } = await shards.query(
      `insert into tickets (title) values ${values} returning id`,
    );
    expect(new Set(rows.map(({ id }) => id)).size).toBe(40);
  });

  test('UPDATE and DELETE of all shards add up', async () => {
    await users(30);
    const updated = await shards.query('update users set age = 9 where id > 10 returning id');
    expect(updated.rowCount).toBe(20);
    expect(updated.rows).toHaveLength(20);
    expect((await shards.query('delete from users where age = 9')).rowCount).toBe(20);
    expect((await shards.query('select count(*) from users')).rows).toEqual([{ count: '10' }]);
  });

  test('a shard key is not changed, unless to what it is', async () => {
    await users(3);
    for (const text of ['update users set id = 9 where id = 1', 'update users set id = id + 1']) {
      expect(await failureOf(shards.query(text))).toBeInstanceOf(ShardRefused);
    }
    const { rowCount } = await shards.query('update users set id = $1, name = $2 where id = $1', [
      2,
      'z',
    ]);
    expect(rowCount).toBe(1);
  });

  test('rows that are selected go to the shards of their new keys', async () => {
    await users(20);
    const { rowCount } = await shards.query(
      "insert into comments (user_id, id, body) select id + 100, id, 'moved' from users where age > $1",
      [1],
    );
    expect(rowCount).toBe(12);
    const { rows } = await shards.query('select id from comments where user_id = 103');
    expect(rows).toEqual([{ id: '3' }]);
  });

  test('the copies of a reference table are the same, whatever its defaults are', async () => {
    const made = await shards.query(
      "insert into tags (name) values ('a'), ('b') returning id, made, token",
    );
    expect(made.rows).toHaveLength(2);
    await shards.query("insert into tags (name) values ('a') on conflict (name) do nothing");
    const again = await shards.query(
      "insert into tags (name) values ('a'), ('c') on conflict (name) do update set token = gen_random_uuid() returning name",
    );
    expect(again.rows.map(({ name }) => name)).toEqual(['a', 'c']);
    await shards.query("update tags set made = now() where name = 'b'");
    await shards.query("delete from tags where name = 'c'");
    const copies = await onEach('select * from tags order by name');
    expect(new Set(copies).size).toBe(1);
    expect(copies[0]).toContain('"b"');
  });

  test('a home table is on the first shard only', async () => {
    await shards.query("insert into settings values ('a', 'b')");
    const copies = await onEach('select * from settings');
    expect(copies.map(copy => copy !== '[]')).toEqual([true, false, false, false]);
  });

  test('the schema changes on all shards', async () => {
    await shards.query('create table extra (id int primary key)');
    await shards.query('alter table extra add column more text');
    expect(new Set(await onEach('select id, more from extra')).size).toBe(1);
    await shards.query('drop table extra');
    for (const pool of shards.pools) {
      expect((await failureOf(pool.query('select from extra'))).code).toBe('42P01');
    }
  });
});

describe('a transaction', () => {
  test('sees what it wrote on every shard, and leaves nothing when it is rolled back', async () => {
    await users(10);
    const lanes = new TransactionLanes(shards.pools);
    const query = (text: string) => shards.router.execute(text, lanes) as Promise<pg.QueryResult>;
    await query('update users set age = 50');
    await query("insert into users (id, name, age) values (100, 'x', 50), (101, 'y', 50)");
    expect((await query('select count(*) from users where age = 50')).rows).toEqual([
      { count: '12' },
    ]);
    await lanes.end('rollback');
    expect((await shards.query('select count(*) from users where age = 50')).rows).toEqual([
      { count: '0' },
    ]);
  });
});

describe('several statements in one text', () => {
  test('go together when they go to one shard, or to all', async () => {
    const results = (await shards.router.execute(
      "insert into users (id, name) values (1, 'a'); insert into posts (user_id, id) values (1, 1); select name from users where id = 1",
      shards.lanes,
    )) as pg.QueryResult[];
    expect(results.map(({ command }) => command)).toEqual(['INSERT', 'INSERT', 'SELECT']);
    expect(sent()).toHaveLength(1);
    await shards.query('create table two (a int); drop table two');
  });

  test('are refused when they go to different ones', async () => {
    const error = await failureOf(
      shards.query('delete from users where id = 1; delete from users where id = 2'),
    );
    expect(error).toBeInstanceOf(ShardRefused);
    expect(sent()).toEqual([]);
  });
});
