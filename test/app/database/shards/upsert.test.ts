/** ON CONFLICT about a column that is unique over all shards does what it does on one PostgreSQL, whoever else writes. */
import fc from 'fast-check';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { log } from '../../../../src/app/telemetry/log.ts';
import { CreatedShards } from '../../../support/created-shards.ts';

log.level = 'silent';

const SCHEMA = `
  create table users (id bigint primary key, email varchar(40) unique, phone bigint unique, name text, hits int not null default 1);
  create table plain (id bigint primary key, code text)`;

let shards: CreatedShards;

beforeAll(async () => {
  shards = await CreatedShards.start(3, SCHEMA, {
    tables: {
      'public.users': { kind: 'sharded', key: 'id' },
      'public.plain': { kind: 'sharded', key: 'id' },
    },
    unique: ['public.users.email', 'public.users.phone', 'public.plain.code'],
  });
});
afterAll(() => shards?.remove());
beforeEach(async () => {
  await shards.pool.query('delete from users');
  await shards.one.query('delete from users');
});

const rowsOf = async (on: Pick<typeof shards.one, 'query'>) =>
  (await on.query('select * from users order by id')).rows;

/** That each value is known, at the key of its row. */
async function expectLookups(): Promise<void> {
  const rows = await rowsOf(shards.pool);
  for (const [i, column] of (['email', 'phone'] as const).entries()) {
    const found = await shards.servers.everywhere(
      `select value::text, key from ${shards.lookups[i]}`,
    );
    const known = found
      .flatMap(one => one.rows.map(({ value, key }) => [value, key].join(' ')))
      .sort();
    const wanted = rows.flatMap(row =>
      row[column] === null ? [] : [[row[column], row.id].join(' ')],
    );
    expect(known).toEqual(wanted.sort());
  }
}

const outcome = (work: Promise<{ rowCount: number | null; command: string; rows: unknown[] }>) =>
  work.then(
    ({ rowCount, command, rows }) => ({ rowCount, command, rows }),
    (error: { code?: string; constraint?: string }) => ({
      code: error.code,
      constraint: error.constraint,
    }),
  );

describe('by itself', () => {
  test('rows come back in the order in which they were given', async () => {
    const upsert = (from: number) =>
      shards.pool.query(
        `insert into users (id, email) values ${[0, 1, 2, 3, 4, 5].map(i => `(${from + i}, 'mail${(i * 5) % 6}')`).join(', ')}
          on conflict (email) do update set hits = users.hits + 1 returning email, hits, id::int`,
      );
    await upsert(1);
    const { rows } = await upsert(101);
    expect(rows.map(({ email }) => email)).toEqual([0, 5, 4, 3, 2, 1].map(i => `mail${i}`));
    expect(rows.map(({ id, hits }) => [id, hits])).toEqual([1, 2, 3, 4, 5, 6].map(id => [id, 2]));
  });

  test.each([
    [
      "insert into users (id, email) select 1, 'a' on conflict (email) do nothing",
      /rows of a query/,
    ],
    [
      "insert into users (id, email) values (1, lower('A')) on conflict (email) do nothing",
      /computed/,
    ],
    [
      "insert into users (id, email) values (1, 'a') on conflict (email) do update set phone = excluded.id",
      /excluded.id/,
    ],
    [
      "insert into users (id, email) values (1, 'a'), (2, 'b') on conflict (email) do update set email = excluded.name",
      /changes email itself/,
    ],
    [
      "with w as (insert into users (id, email) values (1, 'a') on conflict (email) do nothing) select 1",
      /WITH/,
    ],
    [
      "insert into plain (id, code) values (1, 'a') on conflict (code) do nothing",
      /no unique index/,
    ],
  ])('%s is refused', async (text, words) => {
    await expect(shards.pool.query(text)).rejects.toThrow(words);
    expect(await rowsOf(shards.pool)).toEqual([]);
  });
});

describe('a value that another row of the statement gives up', () => {
  const ids = Array.from({ length: 8 }, (_, i) => i + 1);

  // On whichever shard the two are, and whichever of them is sent first.
  test.each([
    'on conflict (phone) do update set email = excluded.email',
    'on conflict (id) do update set email = excluded.email',
  ])('is taken after it, not before: %s', async conflict => {
    for (const id of ids) {
      const write = (text: string) =>
        Promise.all([shards.one, shards.pool].map(on => on.query(text)));
      const given = `(${id}, null, ${id})`;
      const taken = `(${id + 20}, 'mail${id}', null)`;
      await write(
        `insert into users (id, email, phone) values (${id}, 'mail${id}', ${id}), (${id + 20}, null, ${id + 20})`,
      );
      const insert = (rows: string[]) =>
        write(`insert into users (id, email, phone) values ${rows.join(', ')} ${conflict}`);
      if (conflict.includes('phone')) await write(`delete from users where id = ${id + 20}`);
      const text = `insert into users (id, email, phone) values ${taken}, ${given} ${conflict}`;
      for (const on of [shards.one, shards.pool]) {
        await expect(on.query(text)).rejects.toMatchObject({ constraint: 'users_email_key' });
      }
      await insert([given, taken]);
    }
    expect(await rowsOf(shards.pool)).toEqual(await rowsOf(shards.one));
    await expectLookups();
  });
});

test('what MERGE writes is claimed as well', async () => {
  const merge = (id: number, email: string) =>
    shards.pool.query(
      `merge into users u using (values ($1::bigint, $2::text)) s(id, email) on u.id = s.id
        when matched then update set email = s.email
        when not matched then insert (id, email) values (s.id, s.email)`,
      [id, email],
    );
  await merge(1, 'a');
  await merge(2, 'b');
  await merge(1, 'c');
  await expectLookups();
  await expect(merge(3, 'b')).rejects.toMatchObject({
    code: '23505',
    constraint: 'users_email_key',
  });
  await merge(3, 'a');
  await expectLookups();
});

test('of many at once none is told of a conflict, and each counts once', {
  timeout: 120_000,
}, async () => {
  const emails = ['x', 'y', 'z'];
  await Promise.all(
    Array.from({ length: 30 }, (_, i) =>
      shards.pool.query(
        'insert into users (id, email) values ($1, $2) on conflict (email) do update set hits = users.hits + 1',
        [1_000 + i, emails[i % 3]],
      ),
    ),
  );
  const rows = await rowsOf(shards.pool);
  expect(rows.map(({ email, hits }) => [email, hits]).sort()).toEqual(
    emails.map(email => [email, 10]),
  );
  await expectLookups();
  expect(await shards.servers.prepared()).toEqual([[], [], []]);
});

describe('one after the other', () => {
  const row = fc.record({
    id: fc.integer({ min: 1, max: 12 }),
    email: fc.option(fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f'), { freq: 8 }),
    phone: fc.option(fc.integer({ min: 1, max: 6 }), { freq: 3 }),
  });
  const CONFLICTS = [
    'on conflict do nothing',
    'on conflict (email) do nothing',
    'on conflict (phone) do nothing',
    "on conflict (email) do update set name = excluded.email || '!', hits = users.hits + 1",
    'on conflict (phone) do update set email = excluded.email',
    'on conflict on constraint users_email_key do update set phone = excluded.phone',
    'on conflict (email) do update set hits = users.hits + 1 where users.hits < 2',
    'on conflict (id) do update set email = excluded.email',
    'on conflict (phone) do update set phone = excluded.phone, email = excluded.email',
    'on conflict (id) do update set phone = excluded.phone, email = excluded.email',
    'on conflict (id) do nothing',
    '',
  ];
  const step = fc.record({
    rows: fc.array(row, { minLength: 1, maxLength: 4 }),
    conflict: fc.constantFrom(...CONFLICTS),
    returns: fc.boolean(),
    isInTransaction: fc.boolean(),
  });

  test('statements give, and leave, what they do on one server', { timeout: 120_000 }, async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 5 }), async steps => {
        await shards.pool.query('delete from users');
        await shards.one.query('delete from users');
        for (const { rows, conflict, returns, isInTransaction } of steps) {
          const values: unknown[] = [];
          const tuples = rows.map(({ id, email, phone }) => {
            values.push(id, email, phone);
            return `($${values.length - 2}, $${values.length - 1}, $${values.length})`;
          });
          const text = `insert into users (id, email, phone) values ${tuples.join(', ')} ${conflict}${returns ? ' returning *' : ''}`;
          const many = await outcome(
            isInTransaction
              ? shards.pool.transaction(client => client.query(text, values))
              : shards.pool.query(text, values),
          );
          // What is said to be refused was not done.
          if ('code' in many && many.code === 'UNIQUE_CONFLICT_REFUSED') continue;
          const one = await outcome(shards.one.query(text, values));
          const sorted = (all: unknown[]) => all.map(each => JSON.stringify(each)).sort();
          if ('rows' in one && 'rows' in many) {
            expect({ ...many, rows: sorted(many.rows) }, text).toEqual({
              ...one,
              rows: sorted(one.rows),
            });
          } else {
            // Of several rows that fail, which one is told first is not determined.
            expect('code' in one && 'code' in many, `${text}: ${JSON.stringify([one, many])}`).toBe(
              true,
            );
            expect(['23505', '21000'], text).toContain('code' in many && many.code);
          }
          expect(await rowsOf(shards.pool), text).toEqual(await rowsOf(shards.one));
        }
        await expectLookups();
      }),
      { numRuns: 40, interruptAfterTimeLimit: 60_000, markInterruptAsFailure: false },
    );
  });
});
