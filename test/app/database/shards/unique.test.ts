/** A column is unique across shards as it is within one: whoever writes, however many at once. */
import fc from 'fast-check';
import pg from 'pg';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { Pool } from '../../../../src/app/database/pool.ts';
import { readSchema } from '../../../../src/app/database/shards/declaration/schema.ts';
import { evenRanges, Ranges } from '../../../../src/app/database/shards/ranges.ts';
import {
  lookupName,
  type UniqueColumn,
  uniqueColumns,
} from '../../../../src/app/database/shards/unique/columns.ts';
import { lookupTable, uniqueTables } from '../../../../src/app/database/shards/unique/tables.ts';
import { log } from '../../../../src/app/telemetry/log.ts';
import { readRuntimeMap } from '../../../../src/map/map-file.ts';
import { HintedPools } from '../../../support/hinted-shards.ts';
import { ShardServers } from '../../../support/shard-servers.ts';
import { until } from '../../../support/until.ts';

log.level = 'silent';

const SHARDS = 2;
const DATABASE = {
  tables: {
    'public.users': { kind: 'sharded', key: 'id' },
    'public.teams': { kind: 'sharded', key: 'id' },
  },
  unique: ['public.users.email'],
} as const;

let shards: ShardServers;
let hinted: HintedPools;
let pool: Pool;
let column: UniqueColumn;
const ranges = new Ranges(evenRanges(SHARDS));

beforeAll(async () => {
  shards = await ShardServers.start(SHARDS, { servers: SHARDS });
  await shards.everywhere(`
    create table teams (id bigint primary key);
    create table users (id bigint primary key, email varchar(60), name text,
      team bigint references teams on delete cascade);
    create unique index users_email_key on users (email)`);
  hinted = HintedPools.of(shards);
  await hinted.publish({ tables: { ...DATABASE.tables }, unique: [...DATABASE.unique] });
  const { database } = readRuntimeMap(hinted.mapFile);
  [column] = uniqueColumns(database, await readSchema(shards.pools[0]!)) as [UniqueColumn];
  for (let i = 0; i < 2; i++) await shards.everywhere(uniqueTables(column));
  pool = hinted.pool({ max: 20 }, { deadlockTimeoutMs: 300 });
});
afterAll(async () => {
  await hinted?.remove();
  await shards?.remove();
});
beforeEach(async () => {
  await shards.everywhere(`set session_replication_role = replica;
    delete from users; delete from teams; delete from ${lookupTable(column)};
    set session_replication_role = origin`);
});

const at = (id: number) => ranges.shardOfKey('int8', id)!;
/** Ids of either shard. */
const [here, there] = [0, 1].map(shard =>
  Array.from({ length: 400 }, (_, i) => i + 1).filter(id => at(id) === shard),
) as [number[], number[]];

const insert = (on: Pick<pg.Pool, 'query'>, id: number, email: string | null, more = '') =>
  on.query(`/* ${at(id)} */ insert into users (id, email) values ($1, $2) ${more}`, [id, email]);

/** What is in the lookup tables, and that each row is where its value says. */
async function looked(): Promise<Record<string, number>> {
  const results = await shards.everywhere(`select value, key::int from ${lookupTable(column)}`);
  const all = results.flatMap(({ rows }, shard) => {
    for (const { value } of rows) expect(ranges.shardOfKey('text', value)).toBe(shard);
    return rows.map(({ value, key }) => [value, key] as const);
  });
  return Object.fromEntries(all);
}

async function stored(): Promise<Record<string, number>> {
  const results = await shards.everywhere(
    'select email, id::int from users where email is not null',
  );
  return Object.fromEntries(
    results.flatMap(({ rows }) => rows.map(({ email, id }) => [email, id])),
  );
}

const TAKEN = {
  code: '23505',
  constraint: 'users_email_key',
  schema: 'public',
  table: 'users',
  detail: 'Key (email)=(ann@example.org) already exists.',
  message: 'duplicate key value violates unique constraint "users_email_key"',
};

describe('a value that is taken', () => {
  test('on another shard is refused as on one server', async () => {
    await insert(pool, here[0]!, 'ann@example.org');
    await expect(insert(pool, there[0]!, 'ann@example.org')).rejects.toMatchObject(TAKEN);
    await expect(insert(pool, there[0]!, 'ann@example.org')).rejects.toBeInstanceOf(
      pg.DatabaseError,
    );
    expect(await stored()).toEqual({ 'ann@example.org': here[0] });
    expect(await looked()).toEqual(await stored());
    // The row of the other shard can be had under another value.
    await insert(pool, there[0]!, 'bob@example.org');
    expect(await looked()).toEqual(await stored());
  });

  test('on the same shard as well', async () => {
    await insert(pool, here[0]!, 'ann@example.org');
    await expect(insert(pool, here[1]!, 'ann@example.org')).rejects.toMatchObject(TAKEN);
  });

  test('is free again after the row, and may be NULL often', async () => {
    await insert(pool, here[0]!, 'ann@example.org');
    await pool.query(`/* 0 */ delete from users where id = $1`, [here[0]]);
    await insert(pool, there[0]!, 'ann@example.org');
    await insert(pool, here[1]!, null);
    await insert(pool, there[1]!, null);
    expect(await looked()).toEqual({ 'ann@example.org': there[0] });
  });

  test('fails an update, and a transaction', async () => {
    await insert(pool, here[0]!, 'ann@example.org');
    await insert(pool, there[0]!, 'bob@example.org');
    const update = (on: Pick<pg.Pool, 'query'>) =>
      on.query('/* 1 */ update users set email = $1 where id = $2', ['ann@example.org', there[0]]);
    await expect(update(pool)).rejects.toMatchObject(TAKEN);
    const client = await pool.connect();
    await client.query('begin');
    await insert(client, here[1]!, 'cid@example.org');
    await expect(update(client)).rejects.toMatchObject(TAKEN);
    await expect(client.query('select 1')).rejects.toMatchObject({ code: '25P02' });
    expect((await client.query('commit')).command).toBe('ROLLBACK');
    client.release();
    expect(await looked()).toEqual({ 'ann@example.org': here[0], 'bob@example.org': there[0] });
  });

  test('goes to one of many who want it at the same time', async () => {
    const ids = [...here.slice(0, 8), ...there.slice(0, 8)];
    const results = await Promise.allSettled(ids.map(id => insert(pool, id, 'ann@example.org')));
    const won = results.flatMap((result, i) => (result.status === 'fulfilled' ? [ids[i]] : []));
    expect(won).toHaveLength(1);
    for (const result of results) {
      if (result.status === 'rejected') expect(result.reason).toMatchObject(TAKEN);
    }
    expect(await stored()).toEqual({ 'ann@example.org': won[0] });
    expect(await looked()).toEqual(await stored());
  });
});

describe('all ways of writing are seen', () => {
  test('a cascade, by itself and in a transaction', async () => {
    const write = async (team: number, user: number, email: string) => {
      await pool.query(`/* ${at(team)} */ insert into teams values ($1)`, [team]);
      await pool.query(
        `/* ${at(user)} */ insert into users (id, email, team) values ($1, $2, $3)`,
        [user, email, team],
      );
    };
    await write(here[0]!, here[1]!, 'ann@example.org');
    await write(here[2]!, here[3]!, 'bob@example.org');
    await pool.query('/* 0 */ delete from teams where id = $1', [here[0]]);
    expect(await looked()).toEqual({ 'bob@example.org': here[3] });
    await pool.transaction(client => client.query('/* 0 */ delete from teams'));
    expect(await looked()).toEqual({});
  });

  test('TRUNCATE', async () => {
    await insert(pool, here[0]!, 'ann@example.org');
    await insert(pool, there[0]!, 'bob@example.org');
    await pool.query('/* 0 */ truncate users');
    expect(await looked()).toEqual({ 'bob@example.org': there[0] });
    await insert(pool, there[1]!, 'ann@example.org');
  });

  test('two rows that swap, and what a savepoint takes back', async () => {
    await insert(pool, here[0]!, 'ann@example.org');
    await insert(pool, here[1]!, 'bob@example.org');
    await pool.transaction(async client => {
      await client.query('savepoint s');
      await client.query('/* 0 */ delete from users');
      await insert(client, there[0]!, 'ann@example.org');
      await client.query('rollback to savepoint s');
      await client.query('/* 0 */ update users set email = null where id = $1', [here[1]]);
      await client.query('/* 0 */ update users set email = $1 where id = $2', [
        'cid@example.org',
        here[0],
      ]);
      await client.query('/* 0 */ update users set email = $1 where id = $2', [
        'ann@example.org',
        here[1],
      ]);
    });
    expect(await stored()).toEqual({ 'ann@example.org': here[1], 'cid@example.org': here[0] });
    expect(await looked()).toEqual(await stored());
  });

  test('who writes without the pool cannot commit', async () => {
    const direct = shards.pools[0]!.query('insert into users (id, email) values ($1, $2)', [
      here[0],
      'x',
    ]);
    await expect(direct).rejects.toMatchObject({
      code: 'BNY01',
      hint: expect.stringContaining('createPool'),
    });
    await shards.pools[0]!.query('insert into users (id) values ($1)', [here[0]]);
    expect(await looked()).toEqual({});
  });
});

describe('a read by the value', () => {
  /** Texts that each shard was asked for rows of users. */
  const askedOn = async (run: () => Promise<unknown>) => {
    await shards.everywhere('create extension if not exists pg_stat_statements');
    await shards.everywhere('select pg_stat_statements_reset()');
    await run();
    const found = await shards.everywhere(
      `select from pg_stat_statements s join pg_database d on d.oid = s.dbid
       where d.datname = current_database() and query like '%from users%' and query not like '%pg_stat%'`,
    );
    return found.flatMap(({ rowCount }, shard) => (rowCount ? [shard] : []));
  };

  test.each([
    ['$1', ['ann@example.org']],
    ["'ann@example.org'", []],
  ])('runs on the shard of the row: email = %s', async (value, values) => {
    await insert(pool, there[0]!, 'ann@example.org');
    const text = `/* all */ select id::int from users u where u.email = ${value} and name is null`;
    const where = await askedOn(async () => {
      expect((await pool.query(text, values)).rows).toEqual([{ id: there[0] }]);
    });
    expect(where).toEqual([1]);
  });

  test('of no row asks one shard; of the row of this transaction finds it', async () => {
    const text = '/* all */ select id::int from users where email = $1';
    const values = ['ann@example.org'];
    expect(
      await askedOn(async () => {
        expect((await pool.query(text, values)).rows).toEqual([]);
      }),
    ).toHaveLength(1);
    await pool.transaction(async client => {
      await insert(client, there[0]!, 'ann@example.org');
      expect((await client.query(text, values)).rows).toEqual([{ id: there[0] }]);
      expect((await pool.query(text, values)).rows).toEqual([]);
    });
  });

  test('updates and deletes by it, too', async () => {
    await insert(pool, there[0]!, 'ann@example.org');
    const update = '/* all */ update users set email = $2 where email = $1';
    expect((await pool.query(update, ['ann@example.org', 'bob@example.org'])).rowCount).toBe(1);
    expect(await looked()).toEqual({ 'bob@example.org': there[0] });
    const remove = '/* all */ delete from users where email = $1';
    expect((await pool.query(remove, ['bob@example.org'])).rowCount).toBe(1);
    expect(await looked()).toEqual({});
  });

  test('with a subquery or a join goes the way of all others', async () => {
    await insert(pool, there[0]!, 'ann@example.org');
    const { rows } = await pool.query(
      '/* all */ select (select count(*)::int from users where email = $1) as count',
      ['ann@example.org'],
    );
    expect(rows).toEqual([{ count: 0 }, { count: 1 }]);
  });
});

test('a column that cannot be kept unique is an error for who uses its table', async () => {
  await shards.everywhere(`create table events (id bigint, code text) partition by hash (id);
    create table days (id bigint primary key, at date)`);
  const tables = Object.fromEntries(
    ['users', 'teams', 'events', 'days'].map(name => [
      `public.${name}`,
      { kind: 'sharded' as const, key: 'id' },
    ]),
  );
  const other = HintedPools.of(shards);
  const unique = ['public.users.email', 'public.events.code', 'public.days.at', 'public.gone.code'];
  await other.publish({ tables, unique });
  const second = other.pool();
  for (const table of ['events', 'days']) {
    await expect(second.query(`select * from ${table}`)).rejects.toMatchObject({
      code: 'UNUSABLE_UNIQUE_COLUMN',
    });
  }
  await insert(second as Pool, here[0]!, 'ann@example.org');
  await expect(insert(second as Pool, there[0]!, 'ann@example.org')).rejects.toMatchObject(TAKEN);
  await other.remove();
});

test('names of lookup tables are short, and differ', () => {
  const part = fc.string({ minLength: 1, maxLength: 63 });
  fc.assert(
    fc.property(part, part, (one, other) => {
      const [first, second] = [`public.${one}.email`, `public.${other}.email`].map(lookupName);
      expect(Buffer.byteLength(`${first}_note`)).toBeLessThanOrEqual(63);
      if (one !== other) expect(first).not.toBe(second);
    }),
  );
});

/** Programs of writes by several sessions at once: what is there in the end is unique, and known to the lookup tables. */
const email = fc.constantFrom('a', 'b', 'c');
const user = fc
  .integer({ min: 0, max: 3 })
  .map(i => [here[0]!, here[1]!, there[0]!, there[1]!][i]!);
const write = fc.oneof(
  fc.record({ id: user, email }).map(({ id, email }) => ({
    text: `/* ${at(id)} */ insert into users (id, email) values ($1, $2) on conflict (id) do update set email = excluded.email`,
    values: [id, email],
  })),
  fc.record({ id: user, email }).map(({ id, email }) => ({
    text: `/* ${at(id)} */ update users set email = $2 where id = $1`,
    values: [id, email],
  })),
  user.map(id => ({ text: `/* ${at(id)} */ delete from users where id = $1`, values: [id] })),
  email.map(one => ({
    text: '/* all */ update users set name = $1 where email = $2',
    values: ['x', one],
  })),
);

test('whatever several sessions write at once', { timeout: 120_000 }, async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.array(fc.array(write, { minLength: 1, maxLength: 3 }), { maxLength: 4 }), {
        minLength: 1,
        maxLength: 4,
      }),
      async sessions => {
        await Promise.all(
          sessions.map(async transactions => {
            for (const writes of transactions) {
              await pool
                .transaction(
                  async client => {
                    for (const { text, values } of writes)
                      await client.query(text, values as unknown[]);
                  },
                  { retries: 20, timeoutMs: 30_000 },
                )
                .catch(error => expect(error.code).toBe('23505'));
            }
          }),
        );
        await until(async () => (await shards.prepared()).flat().length === 0);
        expect(await looked()).toEqual(await stored());
      },
    ),
    { numRuns: 30 },
  );
});
