/** Copies are kept right over two shards, each a server of its own. */
import fc from 'fast-check';
import type pg from 'pg';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { readSchema } from '../../../../src/app/database/shards/declaration/schema.ts';
import { evenRanges, Ranges } from '../../../../src/app/database/shards/ranges.ts';
import type { RuntimeMap } from '../../../../src/map/runtime-map.ts';
import { resolveCopies } from '../../../../src/operate/database/copies/copies.ts';
import { CopyKeeper } from '../../../../src/operate/database/copies/keeper.ts';
import { parseCopy } from '../../../../src/topology/columns.ts';
import { TestPostgres } from '../../../support/postgres.ts';
import { until } from '../../../support/until.ts';

const SCHEMA = `
  create table users (id int primary key, name text, seen int);
  create table comments (id int, article_id int, author_id int, author_name varchar(40),
    primary key (article_id, id));
  create index on comments (author_id);
  alter table users alter name type varchar(40)`;
const TABLES = {
  'public.users': { kind: 'sharded', key: 'id' },
  'public.comments': { kind: 'sharded', key: 'article_id' },
} as const;
const COPY = {
  'public.comments.author_name': parseCopy('users.name via author_id')!,
};
const ranges = evenRanges(2);
const owner = new Ranges(ranges);
const shardOf = (key: number) => owner.shardOfKey('int4', key)!;

let servers: TestPostgres[];
let pools: pg.Pool[];
let shards: RuntimeMap['database']['shards'];
let connection: pg.ClientConfig;
const keepers: CopyKeeper[] = [];

beforeAll(async () => {
  servers = [await TestPostgres.start(), await TestPostgres.start()];
  const urls = await Promise.all(servers.map(server => server.database()));
  pools = await Promise.all(
    servers.map((server, i) => server.pool({ connectionString: urls[i]!, max: 4 })),
  );
  for (const pool of pools) await pool.query(SCHEMA);
  shards = servers.map(({ host, port }, i) => ({
    id: String(i + 1),
    range: ranges[i]!,
    members: [{ host, port, dataCentre: 'local' }],
  }));
  const { username, password, pathname } = new URL(urls[0]!);
  connection = { user: username, password, database: pathname.slice(1) };
  // Before anybody keeps them.
  for (let key = 1; key <= 30; key++) {
    await write(key, `insert into users values ($1, 'user ' || $1::int, 0)`, [key]);
    await write(key, 'insert into comments select i, $1, i from generate_series(1, 40) i', [key]);
  }
});
afterEach(async () => {
  await Promise.all(keepers.splice(0).map(keeper => keeper.close()));
});
afterAll(async () => {
  await Promise.all((servers ?? []).map(server => server.remove()));
});

const write = (key: number, text: string, values: unknown[] = []) =>
  pools[shardOf(key)]!.query(text, values);

async function keep(denormalize = COPY): Promise<CopyKeeper> {
  const { copies, problems } = resolveCopies(
    { denormalize, tables: TABLES, unique: [] },
    await readSchema(pools[0]!),
  );
  expect(problems).toEqual([]);
  const keeper = new CopyKeeper({
    copies,
    shards: () => shards,
    connection,
    onTrouble: () => {},
  }).start();
  keepers.push(keeper);
  return keeper;
}

const untilFilled = (keeper: CopyKeeper) =>
  until(() => keeper.standing().filled.length === 1, { what: 'the copy is filled' });

/** Comments whose copy is not what it should be. */
async function wrong(): Promise<unknown[]> {
  const users = (await Promise.all(pools.map(pool => pool.query('select id, name from users'))))
    .flatMap(({ rows }) => rows)
    .map(({ id, name }) => [id, name] as const);
  const names = new Map(users);
  const comments = await Promise.all(pools.map(pool => pool.query('select * from comments')));
  return comments
    .flatMap(({ rows }) => rows)
    .filter(({ author_id, author_name }) => author_name !== (names.get(author_id) ?? null));
}

const untilRight = () =>
  until(async () => (await wrong()).length === 0, {
    what: 'each copy equals its source',
    timeoutMs: 60_000,
  });

test('rows that were there are filled, later ones follow, and it says how far it is', async () => {
  const keeper = await keep();
  await untilFilled(keeper);
  expect(await wrong()).toEqual([]);
  await write(3, `update users set name = 'Ada' where id = 3`);
  await write(7, 'insert into comments values (100, 7, 3)');
  await untilRight();
  const { rows } = await pools[shardOf(7)]!.query(
    'select author_name from comments where article_id = 7 and id = 100',
  );
  expect(rows).toEqual([{ author_name: 'Ada' }]);
  await until(() => keeper.standing().shards.every(({ lagSeconds }) => lagSeconds === 0), {
    what: 'nothing is left to be done',
  });
  expect(keeper.standing()).toMatchObject({
    filled: ['public.comments.author_name'],
    filling: [],
    shards: [
      { shard: '1', state: 'reading' },
      { shard: '2', state: 'reading' },
    ],
  });
});

test('writes that nobody followed are made up for', async () => {
  await write(4, `update users set name = 'Bob' where id = 4`);
  await write(5, 'delete from users where id = 5');
  await write(9, `update comments set author_id = 4 where article_id = 9 and id < 5`);
  expect(await wrong()).not.toEqual([]);
  await keep();
  await untilRight();
});

test('what somebody else writes into a copy is put right', async () => {
  await keep();
  await write(9, `update comments set author_name = 'wrong' where article_id = 9`);
  await untilRight();
});

test('a gap is made up for by looking at all rows', async () => {
  for (const pool of pools) {
    await until(
      () => pool.query(`select pg_drop_replication_slot('banyan_copies')`).then(() => true),
      { what: 'the slot is dropped' },
    );
  }
  await write(6, `update users set name = 'Cid' where id = 6`);
  await write(2, `insert into comments values (101, 2, 6), (102, 2, null)`);
  await keep();
  await untilRight();
});

const key = fc.integer({ min: 1, max: 12 });
const name = fc.constantFrom('a', 'b', 'c', null);
const action = fc.oneof(
  { weight: 6, arbitrary: fc.tuple(fc.constant('rename'), key, key, name) },
  { weight: 4, arbitrary: fc.tuple(fc.constant('comment'), key, key, name) },
  { weight: 2, arbitrary: fc.tuple(fc.constant('reassign'), key, key, name) },
  { weight: 1, arbitrary: fc.tuple(fc.constant('delete user'), key, key, name) },
  { weight: 1, arbitrary: fc.tuple(fc.constant('delete comments'), key, key, name) },
  { weight: 1, arbitrary: fc.tuple(fc.constant('seen'), key, key, name) },
  { weight: 1, arbitrary: fc.tuple(fc.constant('deface'), key, key, name) },
  { weight: 1, arbitrary: fc.tuple(fc.constant('both'), key, key, name) },
  { weight: 1, arbitrary: fc.tuple(fc.constant('cut'), key, key, name) },
  { weight: 1, arbitrary: fc.tuple(fc.constant('next keeper'), key, key, name) },
);

let id = 1_000;

async function act([what, one, other, text]: [string, number, number, string | null]) {
  switch (what) {
    case 'rename':
      return write(
        one,
        'insert into users values ($1, $2) on conflict (id) do update set name = excluded.name',
        [one, text],
      );
    case 'comment':
      return write(one, 'insert into comments values ($1, $2, $3)', [++id, one, other]);
    case 'reassign':
      return write(one, 'update comments set author_id = $2 where article_id = $1', [one, other]);
    case 'delete user':
      return write(one, 'delete from users where id = $1', [one]);
    case 'delete comments':
      return write(one, 'delete from comments where article_id = $1', [one]);
    case 'seen':
      return write(one, 'update users set seen = seen + 1 where id = $1', [one]);
    case 'deface':
      return write(one, 'update comments set author_name = $2 where article_id = $1', [one, text]);
    case 'both': {
      const client = await pools[shardOf(one)]!.connect();
      try {
        await client.query('begin');
        await client.query('update users set name = $2 where id = $1', [one, text]);
        await client.query('insert into comments values ($1, $2, $2)', [++id, one]);
        await client.query(other % 2 ? 'commit' : 'rollback');
      } finally {
        client.release();
      }
      return undefined;
    }
    case 'cut':
      return pools[one % 2]!.query(
        `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'banyan changes'`,
      );
    default: {
      // The one that was may still have something on its way.
      void keepers.at(-1)?.close();
      await keep();
      return undefined;
    }
  }
}

test('after quiet every copy equals its source, whatever was written and whoever was killed', async () => {
  await keep();
  await fc.assert(
    fc.asyncProperty(fc.array(action, { maxLength: 30 }), async actions => {
      for (const each of actions) await act(each);
      await untilRight();
    }),
    { numRuns: 25 },
  );
}, 240_000);

test('the same while servers are killed', async () => {
  const keeper = await keep();
  await untilFilled(keeper);
  for (let round = 0; round < 2; round++) {
    const server = servers[round]!;
    const writing = (async () => {
      for (let i = 0; i < 60; i++) {
        const [one, other] = [1 + (i % 12), 1 + ((i * 5) % 12)];
        // What fails is not written, and is no matter here.
        await act(['rename', one, other, `r${round} ${i}`]).catch(() => {});
        await act(['comment', other, one, null]).catch(() => {});
        if (i === 20) await server.kill();
        if (i === 40) await server.start();
      }
    })();
    await writing;
    await untilRight();
  }
}, 240_000);
