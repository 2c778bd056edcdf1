/** The log as a real server tells it. */
import fc from 'fast-check';
import type pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { ChangeEvent, Transaction } from '../../../src/app/changes/change.ts';
import { ChangeReader, type ChangeReaderOptions } from '../../../src/app/changes/reader.ts';
import { removeSlot } from '../../../src/app/changes/remove.ts';
import { TestPostgres } from '../../support/postgres.ts';
import { until } from '../../support/until.ts';

let postgres: TestPostgres;
const open: ChangeReader[] = [];

beforeAll(async () => {
  postgres = await TestPostgres.start();
});
afterAll(async () => {
  for (const reader of open) reader.close();
  await postgres?.remove();
});

/** A database with two tables, and what a reader of it has told. */
async function database() {
  const connectionString = await postgres.database();
  const pool = await postgres.pool({ connectionString });
  await pool.query('create table users (id int primary key, name text, about text)');
  await pool.query(
    'create table likes (user_id int, article_id int, primary key (user_id, article_id))',
  );
  return { connectionString, pool };
}

class Told {
  readonly events: ChangeEvent[] = [];
  readonly reader: ChangeReader;
  failure: unknown;
  readonly ended: Promise<void>;

  constructor(
    connectionString: string,
    options: Partial<ChangeReaderOptions> = {},
    handle?: (event: ChangeEvent, reader: ChangeReader) => Promise<void>,
  ) {
    const name = new URL(connectionString).pathname.slice(1);
    this.reader = new ChangeReader({
      members: () => [{ host: postgres.host, port: postgres.port }],
      connection: { connectionString },
      slot: `slot_${name}`,
      publication: { name: 'watched', tables: 'all' },
      ...options,
    });
    open.push(this.reader);
    this.ended = this.#read(handle ?? ((event, reader) => reader.applied(event)));
  }

  async #read(handle: (event: ChangeEvent, reader: ChangeReader) => Promise<void>) {
    try {
      for await (const event of this.reader.events()) {
        this.events.push(event);
        await handle(event, this.reader);
      }
    } catch (error) {
      this.failure = error;
    }
  }

  get transactions(): Transaction[] {
    return this.events.filter(event => event.kind === 'transaction');
  }

  get gaps(): string[] {
    return this.events.filter(event => event.kind === 'gap').map(({ reason }) => reason);
  }

  async reads(): Promise<this> {
    await until(() => this.reader.progress.state === 'reading', { what: 'the reader reads' });
    return this;
  }

  async count(count: number): Promise<Transaction[]> {
    await until(() => this.transactions.length >= count, { what: `${count} transactions` });
    return this.transactions;
  }
}

const confirmed = async (pool: pg.Pool, slot: string) => {
  const { rows } = await pool.query(
    'select confirmed_flush_lsn - $2::pg_lsn as ahead from pg_replication_slots where slot_name = $1',
    [slot, '0/0'],
  );
  return BigInt(rows[0].ahead);
};

test('transactions are told in commit order, with old keys and new rows', async () => {
  const { connectionString, pool } = await database();
  const told = await new Told(connectionString).reads();
  await pool.query(`insert into users values (1, 'Ada', 'x'), (2, 'Bob', null)`);
  await pool.query('insert into likes values (1, 7)');
  await pool.query(`update users set name = 'Eve' where id = 1`);
  await pool.query('update users set id = 3 where id = 2');
  await pool.query('delete from likes');
  await pool.query('truncate users');
  const all = await told.count(6);
  expect(told.gaps).toEqual(['first']);
  const users = { schema: 'public', table: 'users', key: ['id'] };
  const likes = { schema: 'public', table: 'likes', key: ['user_id', 'article_id'] };
  expect(all.map(({ changes }) => changes)).toEqual([
    [
      { ...users, kind: 'insert', after: { id: '1', name: 'Ada', about: 'x' } },
      { ...users, kind: 'insert', after: { id: '2', name: 'Bob', about: null } },
    ],
    [{ ...likes, kind: 'insert', after: { user_id: '1', article_id: '7' } }],
    [
      {
        ...users,
        kind: 'update',
        before: { id: '1' },
        after: { id: '1', name: 'Eve', about: 'x' },
      },
    ],
    [
      {
        ...users,
        kind: 'update',
        before: { id: '2' },
        after: { id: '3', name: 'Bob', about: null },
      },
    ],
    [{ ...likes, kind: 'delete', before: { user_id: '1', article_id: '7' } }],
    [{ ...users, kind: 'truncate' }],
  ]);
  for (const [i, { xid, commitLsn, endLsn, committedAt }] of all.entries()) {
    expect(endLsn).toBeGreaterThan(commitLsn);
    if (i > 0) expect(commitLsn).toBeGreaterThanOrEqual(all[i - 1]!.endLsn);
    expect(Math.abs(committedAt.getTime() - Date.now())).toBeLessThan(60_000);
    const { rows } = await pool.query('select pg_xact_status($1::xid8) as status', [String(xid)]);
    expect(rows[0].status).toBe('committed');
  }
});

test('a large value that was left as it was is missing, but with a full identity', async () => {
  const { connectionString, pool } = await database();
  await pool.query('alter table users alter about set storage external');
  await pool.query(`insert into users values (1, 'Ada', repeat('x', 100000))`);
  const told = await new Told(connectionString).reads();
  await pool.query(`update users set name = 'Bob'`);
  await pool.query('alter table users replica identity full');
  await pool.query(`update users set name = 'Cid'`);
  const all = await told.count(2);
  expect(all[0]!.changes[0]!.after).toEqual({ id: '1', name: 'Bob' });
  expect(all[1]!.changes[0]!.before!.name).toBe('Bob');
  expect(all[1]!.changes[0]!.after!.about).toHaveLength(100_000);
});

test('what is rolled back is never told, what is prepared when it is committed', async () => {
  const { connectionString, pool } = await database();
  const told = await new Told(connectionString).reads();
  await pool.query(`begin; insert into users values (1); savepoint s; insert into users values (2);
    rollback to s; insert into users values (3); commit`);
  await pool.query('begin; insert into users values (4); rollback');
  await pool.query(`begin; insert into users values (5); prepare transaction 'p_${process.pid}'`);
  await pool.query('insert into users values (6)');
  await pool.query(`commit prepared 'p_${process.pid}'`);
  const all = await told.count(3);
  expect(all.map(({ changes }) => changes.map(({ after }) => after!.id))).toEqual([
    ['1', '3'],
    ['6'],
    ['5'],
  ]);
});

test('a transaction that is too large is told as its tables', async () => {
  const { connectionString, pool } = await database();
  const told = await new Told(connectionString, { maxChanges: 100 }).reads();
  await pool.query('insert into users select i from generate_series(1, 100) i');
  await pool.query(`with u as (insert into users select i from generate_series(101, 1000) i)
    insert into likes select 1, i from generate_series(1, 1000) i`);
  const bytes = await new Told(connectionString, { slot: 'bytes_slot', maxBytes: 1000 }).reads();
  await pool.query(`update users set about = repeat('x', 2000) where id = 1`);
  const all = await told.count(3);
  expect(all[0]!.changes).toHaveLength(100);
  expect(all[1]!.changes.map(({ table, kind }) => [table, kind]).sort()).toEqual([
    ['likes', 'whole'],
    ['users', 'whole'],
  ]);
  expect(all[2]!.changes[0]!.kind).toBe('update');
  expect((await bytes.count(1))[0]!.changes).toEqual([
    { schema: 'public', table: 'users', kind: 'whole', key: ['id'] },
  ]);
  bytes.reader.close();
});

test('what was not acknowledged comes again after the connection broke', async () => {
  const { connectionString, pool } = await database();
  // Takes the first, and only looks at the others.
  const told = await new Told(connectionString, {}, async (event, reader) => {
    if (event.kind === 'gap' || event.changes[0]!.after?.id === '1') await reader.applied(event);
  }).reads();
  for (const id of [1, 2, 3]) await pool.query('insert into users values ($1)', [id]);
  await told.count(3);
  await pool.query(
    `select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1`,
    [`slot_${new URL(connectionString).pathname.slice(1)}`],
  );
  await told.count(5);
  expect(told.transactions.slice(3).map(({ changes }) => changes[0]!.after!.id)).toEqual([
    '2',
    '3',
  ]);
  expect(told.gaps).toEqual(['first']);
  told.reader.close();
});

test('a reader that is killed is followed by the next, and nothing is missed in between', async () => {
  const { connectionString, pool } = await database();
  const slot = `slot_${new URL(connectionString).pathname.slice(1)}`;
  const first = await new Told(connectionString).reads();
  const second = new Told(connectionString);
  await until(() => second.reader.progress.state === 'waiting', { what: 'the second waits' });
  await pool.query('insert into users values (1)');
  await first.count(1);
  first.reader.close();
  await first.ended;
  await pool.query('insert into users values (2)');
  await second.count(1);
  expect(second.gaps).toEqual([]);
  expect(second.transactions.at(-1)!.changes[0]!.after!.id).toBe('2');
  second.reader.close();
  // While nobody reads, the log is kept.
  await pool.query('insert into users values (3)');
  const third = await new Told(connectionString, { slot }).reads();
  await third.count(1);
  expect(third.gaps).toEqual([]);
});

test('the log is not held back while nothing that matters is written, and is by what was not dealt with', async () => {
  const { connectionString, pool } = await database();
  await pool.query('create table noise (id int primary key)');
  const tables = ['public.users'];
  const publication = { name: 'narrow', tables };
  const told = await new Told(connectionString, { publication }, async (event, reader) => {
    if (event.kind === 'gap') await reader.applied(event);
  }).reads();
  const slot = `slot_${new URL(connectionString).pathname.slice(1)}`;
  const before = await confirmed(pool, slot);
  await pool.query('insert into noise select i from generate_series(1, 1000) i');
  await until(async () => (await confirmed(pool, slot)) > before + 50_000n, {
    what: 'the slot goes on without transactions',
  });
  await pool.query('insert into users values (1)');
  const [transaction] = await told.count(1);
  expect(told.reader.progress.pendingSince).toEqual(transaction!.committedAt);
  const { serverLsn } = told.reader.progress;
  await pool.query('insert into noise select i from generate_series(1001, 2000) i');
  await until(() => told.reader.progress.serverLsn! > serverLsn!, { what: 'the server goes on' });
  expect(await confirmed(pool, slot)).toBeLessThanOrEqual(transaction!.commitLsn);
  await told.reader.applied(transaction!);
  await until(async () => (await confirmed(pool, slot)) >= transaction!.endLsn, {
    what: 'the slot goes on',
  });
  expect(told.reader.progress.pendingSince).toBeUndefined();
});

test('a gap is told when the slot is gone, and again until it was dealt with', async () => {
  const { connectionString, pool } = await database();
  const slot = `slot_${new URL(connectionString).pathname.slice(1)}`;
  const first = await new Told(connectionString).reads();
  await pool.query('insert into users values (1)');
  await first.count(1);
  first.reader.close();
  await until(() => pool.query('select pg_drop_replication_slot($1)', [slot]).then(() => true), {
    what: 'the slot is dropped',
  });
  await pool.query('insert into users values (2)');
  const second = await new Told(connectionString, {}, async () => {}).reads();
  await until(() => second.gaps.length > 0);
  second.reader.close();
  const third = await new Told(connectionString).reads();
  await pool.query('insert into users values (3)');
  await third.count(1);
  expect([first.gaps, second.gaps, third.gaps]).toEqual([['first'], ['vanished'], ['vanished']]);
  expect(third.transactions[0]!.changes[0]!.after!.id).toBe('3');
  third.reader.close();
  const fourth = await new Told(connectionString).reads();
  await pool.query('insert into users values (4)');
  await fourth.count(1);
  expect(fourth.gaps).toEqual([]);
});

test('a slot whose log was given up is a gap, and reading goes on', async () => {
  const { connectionString, pool } = await database();
  const slot = `slot_${new URL(connectionString).pathname.slice(1)}`;
  const first = await new Told(connectionString).reads();
  first.reader.close();
  await first.ended;
  await pool.query(`alter system set max_slot_wal_keep_size = '1MB'`);
  await pool.query('select pg_reload_conf()');
  try {
    await until(
      async () => {
        await pool.query('select pg_switch_wal()');
        await pool.query('create table if not exists filler (id int)');
        await pool.query('insert into filler values (1)');
        await pool.query('checkpoint');
        const { rows } = await pool.query(
          'select wal_status from pg_replication_slots where slot_name = $1',
          [slot],
        );
        return rows[0].wal_status === 'lost';
      },
      { what: 'the slot is given up', timeoutMs: 60_000 },
    );
  } finally {
    await pool.query('alter system reset max_slot_wal_keep_size');
    await pool.query('select pg_reload_conf()');
  }
  const second = await new Told(connectionString, {
    publication: { name: 'watched', tables: 'all', withoutIdentity: 'skip' },
  }).reads();
  await pool.query('insert into users values (1)');
  await second.count(1);
  expect(second.gaps).toEqual(['invalidated']);
});

test('the server is killed and comes back: all that was committed is told', async () => {
  const { connectionString, pool } = await database();
  const told = await new Told(connectionString).reads();
  await pool.query('insert into users values (1)');
  await told.count(1);
  await postgres.kill();
  await postgres.start();
  await until(() => pool.query('insert into users values (2)').then(() => true), {
    what: 'it serves again',
  });
  await until(() => told.transactions.some(({ changes }) => changes[0]!.after!.id === '2'));
  expect(told.gaps).toEqual(['first']);
});

test('tables without an identity are refused, left out, or told whole', async () => {
  const { connectionString, pool } = await database();
  await pool.query('create table visits (at int)');
  const refused = new Told(connectionString);
  await refused.ended;
  expect(refused.failure).toMatchObject({ code: 'NO_REPLICA_IDENTITY' });
  expect(String(refused.failure)).toContain('public.visits');
  // Nothing was made that would break its updates.
  await pool.query('insert into visits values (1)');
  await pool.query('update visits set at = 2');
  const publication = { name: 'watched', tables: 'all', withoutIdentity: 'full' } as const;
  const told = await new Told(connectionString, { publication }).reads();
  await pool.query('update visits set at = 3');
  const [transaction] = await told.count(1);
  expect(transaction!.changes[0]).toMatchObject({ before: { at: '2' }, after: { at: '3' } });
  const absent = new Told(connectionString, {
    slot: 'other_slot',
    publication: { name: 'other', tables: ['public.nowhere'] },
  });
  await absent.ended;
  expect(absent.failure).toMatchObject({ code: 'NO_SUCH_TABLE' });
});

test('a table that comes later is told after a refresh', async () => {
  const { connectionString, pool } = await database();
  const told = await new Told(connectionString).reads();
  await pool.query('create table later (id int primary key)');
  await pool.query('insert into later values (1)');
  await told.reader.refreshPublication();
  await pool.query('insert into later values (2)');
  const [transaction] = await told.count(1);
  expect(transaction!.changes[0]!.after).toEqual({ id: '2' });
});

test('who may not read the log is told what to do', async () => {
  const { connectionString, pool } = await database();
  await pool.query(`create role reader_${process.pid} login password 'secret'`);
  const url = new URL(connectionString);
  url.username = `reader_${process.pid}`;
  url.password = 'secret';
  const told = new Told(String(url), { slot: 'forbidden_slot' });
  await told.ended;
  expect(told.failure).toMatchObject({ code: 'MAY_NOT_READ_LOG' });
  url.password = 'wrong';
  const wrong = new Told(String(url), { slot: 'forbidden_slot' });
  await wrong.ended;
  expect(wrong.failure).toMatchObject({ code: 'MAY_NOT_READ_LOG' });
});

test('a removed slot leaves nothing, and is removed twice without harm', async () => {
  const { connectionString, pool } = await database();
  const told = await new Told(connectionString).reads();
  const slot = `slot_${new URL(connectionString).pathname.slice(1)}`;
  told.reader.close();
  const members = [{ host: postgres.host, port: postgres.port }];
  for (let i = 0; i < 2; i++) {
    await removeSlot({ members, connection: { connectionString }, slot, publication: 'watched' });
  }
  const { rows } = await pool.query(
    `select (select count(*) from pg_replication_slots where slot_name = $1)
      + (select count(*) from pg_publication) + (select count(*) from banyan.log_readers) as left`,
    [slot],
  );
  expect(rows[0].left).toBe('0');
});

test('a copy that is kept from the log equals its source, whatever is written and whenever the reader breaks', async () => {
  const { connectionString, pool } = await database();
  const copy = new Map<string, unknown>();
  const told = await new Told(connectionString, { maxChanges: 50 }, async (event, reader) => {
    if (event.kind === 'gap') {
      copy.clear();
      const { rows } = await pool.query('select id::text, name, about from users');
      for (const row of rows) copy.set(row.id, row);
    } else await apply(event, copy, pool);
    await reader.applied(event);
  }).reads();
  const id = fc.integer({ min: 1, max: 12 });
  const write = fc.oneof(
    fc.record({
      sql: fc.constant(`insert into users values ($1, $2)
      on conflict (id) do update set name = excluded.name`),
      values: fc.tuple(id, fc.string().map(clean)),
    }),
    fc.record({
      sql: fc.constant('update users set name = $2 where id = $1'),
      values: fc.tuple(id, fc.string().map(clean)),
    }),
    fc.record({
      sql: fc.constant(
        'update users set id = $2::int where id = $1 and not exists (select from users where id = $2::int)',
      ),
      values: fc.tuple(id, id),
    }),
    fc.record({ sql: fc.constant('delete from users where id = $1'), values: fc.tuple(id) }),
    fc.record({
      sql: fc.constant(
        'insert into users select i, $1 from generate_series(1, 80) i on conflict do nothing',
      ),
      values: fc.tuple(fc.constant('many')),
    }),
    fc.record({ sql: fc.constant('truncate users'), values: fc.constant([]) }),
    fc.record({ sql: fc.constant('break'), values: fc.constant([]) }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(write, { maxLength: 25 }), async writes => {
      for (const { sql, values } of writes) {
        if (sql === 'break') {
          await pool.query(
            'select pg_terminate_backend(active_pid) from pg_replication_slots where database = current_database()',
          );
        } else await pool.query(sql, values as unknown[]);
      }
      const { rows } = await pool.query('select id::text, name, about from users');
      const source = new Map(rows.map(row => [row.id, row]));
      await until(() => equal(copy, source), { what: 'the copy equals its source' });
    }),
    { numRuns: 40 },
  );
  expect(told.failure).toBeUndefined();
});

const clean = (text: string) => text.replaceAll('\0', '');

async function apply(event: Transaction, copy: Map<string, unknown>, pool: pg.Pool) {
  for (const { table, kind, before, after } of event.changes) {
    if (table !== 'users') continue;
    if (kind === 'truncate') copy.clear();
    else if (kind === 'whole') {
      copy.clear();
      const { rows } = await pool.query('select id::text, name, about from users');
      for (const row of rows) copy.set(row.id, row);
    } else {
      if (before) copy.delete(before.id!);
      if (after) copy.set(after.id!, after);
    }
  }
}

function equal(one: Map<string, unknown>, other: Map<string, unknown>): boolean {
  const sorted = (map: Map<string, unknown>) => JSON.stringify([...map].sort());
  return sorted(one) === sorted(other);
}
