/** COPY of tables on several shards leaves, and gives, what it does on one PostgreSQL: whatever is copied. */
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import fc from 'fast-check';
import type pg from 'pg';
import { from as copyFrom, to as copyTo } from 'pg-copy-streams';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { log } from '../../../../src/app/telemetry/log.ts';
import { CreatedShards } from '../../../support/created-shards.ts';
import { until } from '../../../support/until.ts';

log.level = 'silent';

const SCHEMA = `
  create table users (id bigint primary key, email text unique, name text);
  create table notes (owner varchar(12), id int, body text, primary key (owner, id));
  create table devices (kind text, id uuid primary key);
  create table numbered (id serial, owner bigint, primary key (owner, id));
  create table tags (code text primary key, name text);
  create table stamped (id serial primary key, name text);
  create table settings (name text primary key, value text)`;

let shards: CreatedShards;

beforeAll(async () => {
  shards = await CreatedShards.start(3, SCHEMA, {
    tables: {
      'public.users': { kind: 'sharded', key: 'id' },
      'public.notes': { kind: 'sharded', key: 'owner' },
      'public.devices': { kind: 'sharded', key: 'id' },
      'public.numbered': { kind: 'sharded', key: 'owner' },
      'public.tags': { kind: 'reference' },
      'public.stamped': { kind: 'reference' },
    },
    unique: ['public.users.email'],
  });
});
afterAll(() => shards?.remove());

const TABLES = ['users', 'notes', 'devices', 'tags', 'settings'];
beforeEach(async () => {
  for (const table of TABLES) {
    await shards.pool.query(`delete from ${table}`);
    await shards.one.query(`delete from ${table}`);
  }
});

/** @returns how many rows were copied */
async function copyIn(on: pg.ClientBase, text: string, data: Buffer | Buffer[]): Promise<number> {
  const stream = on.query(copyFrom(text));
  await pipeline(Readable.from(Array.isArray(data) ? data : [data]), stream);
  return stream.rowCount;
}

async function copyOut(on: pg.ClientBase, text: string): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of on.query(copyTo(text))) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

async function onBoth<T>(body: (client: pg.PoolClient) => Promise<T>): Promise<[one: T, many: T]> {
  const client = await shards.one.connect();
  try {
    return [await body(client), await shards.withClient(body)];
  } finally {
    client.release();
  }
}

const outcome = (work: Promise<unknown>) =>
  work.then(
    value => ({ value }),
    (error: { code?: string }) => ({ code: error.code ?? String(error) }),
  );

const read = (on: Pick<pg.Pool, 'query'>, table: string) =>
  on
    .query(`select * from ${table}`)
    .then(({ rows }) => rows.map(row => JSON.stringify(row)).sort());

async function expectSame(table: string): Promise<void> {
  expect(await read(shards.pool, table)).toEqual(await read(shards.one, table));
}

const lines = (rows: (string | number)[][]) =>
  Buffer.from(`${rows.map(row => row.join('\t')).join('\n')}\n`);

describe('COPY FROM STDIN', () => {
  test('is split by key, and a stream may be as long as it likes', async () => {
    const rows = Array.from({ length: 20_000 }, (_, i) => [
      i,
      i % 7 ? `mail${i}@example.org` : '\\N',
      'x'.repeat(50),
    ]);
    const counts = await onBoth(client => copyIn(client, 'copy users from stdin', lines(rows)));
    expect(counts).toEqual([20_000, 20_000]);
    await expectSame('users');
    const each = await shards.servers.everywhere('select count(*)::int as count from users');
    for (const {
      rows: [row],
    } of each)
      expect(row.count).toBeGreaterThan(5_000);
    // Values that are unique over all shards are known, and taken.
    const known = await shards.servers.everywhere(`select from ${shards.lookups[0]}`);
    expect(known.reduce((sum, { rowCount }) => sum + rowCount!, 0)).toBe(
      rows.filter(([, email]) => email !== '\\N').length,
    );
    await expect(
      shards.pool.query("insert into users values (100001, 'mail8@example.org')"),
    ).rejects.toMatchObject({ code: '23505', constraint: 'users_email_key' });
  });

  test('of a value that is taken on another shard fails as a whole', async () => {
    await shards.pool.query("insert into users values (1, 'ann', 'Ann')");
    await shards.one.query("insert into users values (1, 'ann', 'Ann')");
    const rows = Array.from({ length: 50 }, (_, i) => [i + 10, i === 40 ? 'ann' : `m${i}`, 'n']);
    const results = await onBoth(client =>
      outcome(copyIn(client, 'copy users from stdin', lines(rows))),
    );
    expect(results).toEqual([{ code: '23505' }, { code: '23505' }]);
    await expectSame('users');
    expect(await shards.servers.prepared()).toEqual([[], [], []]);
  });

  test('is a part of its transaction', async () => {
    await shards.withClient(async client => {
      await client.query('begin');
      await client.query("insert into users values (1, 'ann', 'Ann')");
      await copyIn(
        client,
        'copy users (id, name) from stdin',
        lines([
          [2, 'b'],
          [3, 'c'],
          [4, 'd'],
        ]),
      );
      expect((await client.query('select count(*)::int as count from users')).rows).toEqual([
        { count: 4 },
      ]);
      await client.query('rollback');
      await client.query('begin');
      await copyIn(
        client,
        'copy users (id, name) from stdin',
        lines([
          [2, 'b'],
          [3, 'c'],
          [4, 'd'],
        ]),
      );
      await client.query('commit');
      await client.query('begin');
      await expect(
        copyIn(
          client,
          'copy users (id, name) from stdin',
          lines([
            [5, 'e'],
            [6, 'f'],
            [2, 'again'],
          ]),
        ),
      ).rejects.toMatchObject({ code: '23505' });
      await expect(client.query('select 1')).rejects.toMatchObject({ code: '25P02' });
      await client.query('rollback');
      expect((await client.query('select id::int from users order by id')).rows).toEqual([
        { id: 2 },
        { id: 3 },
        { id: 4 },
      ]);
    });
  });

  test('that breaks off keeps nothing, and leaves the client usable', async () => {
    await shards.withClient(async client => {
      const stream = client.query(copyFrom('copy users (id, name) from stdin'));
      stream.on('error', () => {});
      await new Promise<void>(resolve => {
        stream.write(lines(Array.from({ length: 100 }, (_, i) => [i, 'x'])), () => resolve());
      });
      stream.destroy(new Error('the file ended'));
      expect((await client.query('select count(*)::int as count from users')).rows).toEqual([
        { count: 0 },
      ]);
    });
  });

  test('of a reference table is on every shard, of another on the first', async () => {
    await shards.withClient(client =>
      copyIn(client, 'copy tags from stdin csv', Buffer.from('a,A\nb,B\n')),
    );
    for (const { rows } of await shards.servers.everywhere('select code from tags order by code')) {
      expect(rows).toEqual([{ code: 'a' }, { code: 'b' }]);
    }
    await shards.withClient(client =>
      copyIn(client, 'copy settings from stdin', Buffer.from('a\tA\n')),
    );
    expect((await shards.pool.query('select value from settings')).rows).toEqual([{ value: 'A' }]);
  });

  test('by the pool itself', async () => {
    await copyIn(
      shards.pool as unknown as pg.ClientBase,
      'copy users (id, name) from stdin',
      lines([
        [1, 'a'],
        [2, 'b'],
        [3, 'c'],
      ]),
    );
    expect((await shards.pool.query('select count(*)::int as count from users')).rows).toEqual([
      { count: 3 },
    ]);
  });

  test.each([
    ['copy numbered (owner) from stdin', /leaves id to a sequence/],
    ['copy users (name) from stdin', /shard key id/],
    ['copy stamped (name) from stdin', /leaves id to its default/],
    ["copy users from '/tmp/users'", /COPY … FROM STDIN/],
    ["copy users from stdin (encoding 'latin1')", /UTF-8/],
    ["copy users from stdin (default 'x')", /DEFAULT/],
    ['copy (select * from users order by id) to stdout', /order/],
  ])('%s is refused', async (text, words) => {
    await shards.withClient(async client => {
      await expect(copyIn(client, text, Buffer.from('1\n'))).rejects.toThrow(words);
      expect((await client.query('select 1 as one')).rows).toEqual([{ one: 1 }]);
    });
    await expect(shards.pool.query('copy users from stdin')).rejects.toThrow(/pg-copy-streams/);
  });
});

describe('COPY TO STDOUT', () => {
  test.each(['', '(format csv, header)', '(format binary)'])(
    '%s gives the rows of all shards once',
    async options => {
      const rows = Array.from({ length: 3_000 }, (_, i) => [
        `o${i % 40}`,
        i,
        i % 3 ? 'text' : '\\N',
      ]);
      await onBoth(client => copyIn(client, 'copy notes from stdin', lines(rows)));
      const copied = await shards.withClient(client =>
        copyOut(client, `copy notes to stdout ${options}`),
      );
      await shards.one.query('delete from notes');
      const client = await shards.one.connect();
      expect(await copyIn(client, `copy notes from stdin ${options}`, copied)).toBe(3_000);
      client.release();
      await expectSame('notes');
    },
  );

  test('of a query, of one key, of nothing', async () => {
    await onBoth(client =>
      copyIn(
        client,
        'copy notes from stdin',
        lines([
          ['a', 1, 'x'],
          ['b', 2, 'y'],
          ['c', 3, 'z'],
        ]),
      ),
    );
    const sorted = (text: Buffer) => String(text).split('\n').sort();
    for (const text of [
      'copy (select id, body from notes where id > 1) to stdout',
      "copy (select * from notes where owner = 'b') to stdout csv",
      'copy notes (body) to stdout',
      'copy (select 1) to stdout',
      'copy devices to stdout (format csv, header)',
    ]) {
      const [one, many] = await onBoth(client => copyOut(client, text));
      expect(sorted(many), text).toEqual(sorted(one));
    }
    const [one, many] = await onBoth(client => copyOut(client, 'copy devices to stdout binary'));
    expect(many).toEqual(one);
  });

  test('that nobody reads to its end gives its connections back with the client', async () => {
    await onBoth(client =>
      copyIn(
        client,
        'copy notes from stdin',
        lines(Array.from({ length: 9_000 }, (_, i) => [`o${i}`, i, 'x'.repeat(200)])),
      ),
    );
    const client = await shards.pool.connect();
    for await (const chunk of client.query(copyTo('copy notes to stdout'))) {
      expect((chunk as Buffer).length).toBeGreaterThan(0);
      break;
    }
    client.release(true);
    await until(() => shards.pool.idleCount === shards.pool.totalCount);
    expect((await shards.pool.query('select count(*)::int as count from notes')).rows).toEqual([
      { count: 9_000 },
    ]);
  });
});

// ---- anything, in any format

const TEXT = fc.string({
  unit: fc.constantFrom('a', 'B', 'é', ' ', '\\', '"', ',', '\t', '\n', '\r', '.', 'N', "'"),
  maxLength: 6,
});
const ROW = fc.record({
  owner: fc.option(TEXT, { freq: 20 }),
  id: fc.integer({ min: 0, max: 400 }),
  body: fc.option(TEXT, { freq: 4 }),
});

/** PostgreSQL itself writes them, so that what is tried is what it can read. */
async function written(
  rows: { owner: string | null; id: number; body: string | null }[],
  options: string,
) {
  const client = await shards.one.connect();
  try {
    await client.query('create temporary table source (owner text, id int, body text)');
    await client.query(
      'insert into source select * from unnest($1::text[], $2::int[], $3::text[])',
      [rows.map(({ owner }) => owner), rows.map(({ id }) => id), rows.map(({ body }) => body)],
    );
    return await copyOut(client, `copy source to stdout ${options}`);
  } finally {
    await client.query('drop table if exists source');
    client.release();
  }
}

const FORMATS = [
  '',
  "(format text, delimiter '|', null 'a')",
  '(format csv)',
  '(format csv, header)',
  "(format csv, quote '''', escape '\\', delimiter ';')",
  "(format csv, null 'a')",
  '(format binary)',
];

test('whatever is copied, in any format, in any pieces, is as on one PostgreSQL', {
  timeout: 120_000,
}, async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(ROW, { maxLength: 25 }),
      fc.constantFrom(...FORMATS),
      fc.constantFrom('\n', '\r\n', '\r'),
      fc.integer({ min: 1, max: 40 }),
      fc.option(
        fc.record({
          at: fc.nat(400),
          byte: fc.constantFrom('\\', '"', '\n', '\r', ',', '\t', 'x'),
        }),
        { freq: 3 },
      ),
      async (rows, options, lineEnd, size, spoiled) => {
        let data = await written(rows, options);
        // A line end within quotes is changed as well, in both alike.
        if (lineEnd !== '\n' && !options.includes('binary')) {
          data = Buffer.from(data.toString('latin1').replaceAll('\n', lineEnd), 'latin1');
        }
        if (spoiled && data.length > 0) data[spoiled.at % data.length] = spoiled.byte.charCodeAt(0);
        const pieces: Buffer[] = [];
        for (let at = 0; at < data.length; at += size) pieces.push(data.subarray(at, at + size));
        await shards.pool.query('delete from notes');
        await shards.one.query('delete from notes');
        const text = `copy notes from stdin ${options}`;
        const [one, many] = await onBoth(client =>
          outcome(
            copyIn(
              client,
              text,
              pieces.map(piece => Buffer.from(piece)),
            ),
          ),
        );
        // Of several errors each shard may find another first.
        if ('code' in one && 'code' in many) expect(many.code).not.toBe('ROW_BELONGS_ELSEWHERE');
        else expect(many).toEqual(one);
        await expectSame('notes');
      },
    ),
    { numRuns: 120, interruptAfterTimeLimit: 60_000, markInterruptAsFailure: false },
  );
});
