/** The pool over a primary and a replica: where things run, and that it behaves as `pg` does. */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { Kysely, PostgresDialect } from 'kysely';
import type pg from 'pg';
import Cursor from 'pg-cursor';
import QueryStream from 'pg-query-stream';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createPool, type Pool } from '../../../src/app/database/pool.ts';
import { publishRuntimeMap } from '../../../src/map/map-file.ts';
import { temporaryFolder } from '../../support/deployment.ts';
import { StandbyPair } from '../../support/standby.ts';
import { until } from '../../support/until.ts';

let pair: StandbyPair;
let pool: Pool;
const folder = temporaryFolder();

beforeAll(async () => {
  pair = await StandbyPair.start();
  await pair.primary.query('create table items (id int primary key, name text)');
  await pair.primary.query(
    `insert into items select i, 'item ' || i from generate_series(1, 100) i`,
  );
  await pair.caughtUp();
  const { host = '127.0.0.1', user, password } = pair.primary.options;
  const members = [pair.primary, pair.standby].map(({ options }) => ({
    host,
    port: options.port!,
    dataCentre: 'local',
  }));
  const mapFile = path.join(folder, 'map.json');
  await publishRuntimeMap(mapFile, {
    deployment: 'test',
    dataCentre: 'local',
    database: { name: 'postgres', shards: [{ id: '0', members }] },
    assets: { baseUrl: '' },
  });
  pool = createPool({
    connectionString: `postgres://${user}:${password}@${host}:${members[0]!.port}/postgres`,
    mapFile,
    max: 5,
  });
}, 60_000);
afterAll(async () => {
  await pool?.end();
  await pair?.remove();
  await rm(folder, { recursive: true, force: true });
});

/** Lets the replica stand still while `body` runs. */
async function whilePaused(body: () => Promise<void>): Promise<void> {
  await pair.standby.query('select pg_wal_replay_pause()');
  await until(
    async () => {
      const { rows } = await pair.standby.query('select pg_get_wal_replay_pause_state() as state');
      return rows[0].state === 'paused';
    },
    { what: 'the replica stands still' },
  );
  try {
    await body();
  } finally {
    await pair.standby.query('select pg_wal_replay_resume()');
    await pair.caughtUp();
  }
}

const nameOf = async (id: number, asked: Pick<pg.Pool, 'query'> = pool) =>
  (await asked.query('select name from items where id = $1', [id])).rows[0]?.name as string;

describe('where statements run', () => {
  test('a read runs on the replica: it does not see what somebody else wrote while that stands still', async () => {
    await until(
      async () => {
        let seen = '';
        await whilePaused(async () => {
          await pair.primary.query(`update items set name = 'changed' where id = 10`);
          seen = await nameOf(10);
        });
        await pair.primary.query(`update items set name = 'item 10' where id = 10`);
        await pair.caughtUp();
        return seen === 'item 10';
      },
      { what: 'reads go to the replica', timeoutMs: 20_000 },
    );
  });

  test('what was written through the pool is seen all the same: then the primary answers', async () => {
    await whilePaused(async () => {
      await pool.query(`update items set name = 'mine' where id = 11`);
      expect(await nameOf(11)).toBe('mine');
      const client = await pool.connect();
      expect(await nameOf(11, client)).toBe('mine');
      client.release();
      const old = {
        text: 'select name from items where id = 11',
        staleness: '1m',
      } as pg.QueryConfig;
      expect((await pool.query(old)).rows).toEqual([{ name: 'item 11' }]);
    });
  });

  test('a transaction that may write runs on the primary, a read-only one may run on a replica', async () => {
    const client = await pool.connect();
    await client.query('begin');
    const { rows } = await client.query('select pg_is_in_recovery() as standby');
    expect(rows).toEqual([{ standby: false }]);
    await client.query('commit');
    client.release();
    await expect(
      pool.transaction(async inside => {
        await inside.query(`insert into items values (1000, 'x')`);
        return (await inside.query('select name from items where id = 1000')).rows;
      }),
    ).resolves.toEqual([{ name: 'x' }]);
  });

  test('who wrote something sees it, three hundred times', async () => {
    await pool.query('create table counters (id int primary key, n int)');
    await pool.query('insert into counters values (1, 0)');
    for (let n = 1; n <= 300; n++) {
      await pool.query('update counters set n = $1 where id = 1', [n]);
      const { rows } = await pool.query('select n from counters where id = 1');
      expect(rows).toEqual([{ n }]);
    }
  });

  test('a wrong staleness is told', async () => {
    const bad = pool.query({ text: 'select 1', staleness: 'soon' } as pg.QueryConfig);
    await expect(bad).rejects.toMatchObject({ code: 'INVALID_STALENESS' });
  });
});

describe('as with pg', () => {
  test('callbacks, promises, rowMode, named statements, several statements, errors with their SQLSTATE', async () => {
    const called = await new Promise(resolve =>
      pool.query('select $1::int as n', [1], (error, result) =>
        resolve([error ?? null, result.rows]),
      ),
    );
    expect(called).toEqual([null, [{ n: 1 }]]);
    expect((await pool.query({ text: 'select 1, 2', rowMode: 'array' })).rows).toEqual([[1, 2]]);
    for (let i = 0; i < 3; i++) {
      const named = { name: 'by-id', text: 'select id from items where id = $1', values: [i + 1] };
      expect((await pool.query(named)).rows).toEqual([{ id: i + 1 }]);
    }
    const several = (await pool.query(
      'select 1 as a; select 2 as b',
    )) as unknown as pg.QueryResult[];
    expect(several.map(({ rows }) => rows)).toEqual([[{ a: 1 }], [{ b: 2 }]]);
    await expect(pool.query('select 1 / 0')).rejects.toMatchObject({ code: '22012' });
    await expect(pool.query('selec')).rejects.toMatchObject({ code: '42601' });
    await expect(pool.query('insert into items values (1)')).rejects.toMatchObject({
      code: '23505',
    });
  });

  test('a client: settings and temporary tables stay with it, errors leave it usable', async () => {
    const client = await pool.connect();
    try {
      await client.query(`set application_name = 'mine'`);
      expect((await client.query('show application_name')).rows).toEqual([
        { application_name: 'mine' },
      ]);
      await client.query('create temporary table t (n int)');
      await client.query('insert into t values (1)');
      expect((await client.query('select n from t')).rows).toEqual([{ n: 1 }]);
      await client.query('begin');
      await expect(client.query('select 1 / 0')).rejects.toMatchObject({ code: '22012' });
      await expect(client.query('select 1')).rejects.toMatchObject({ code: '25P02' });
      await client.query('rollback');
      expect((await client.query('select 1 as one')).rows).toEqual([{ one: 1 }]);
    } finally {
      client.release();
    }
    expect(() => client.release()).toThrow(/already been released/);
    expect(
      (await pool.query(`select count(*)::int as n from pg_class where relname = 't'`)).rows,
    ).toEqual([{ n: 0 }]);
  });

  test('queries of a client run in their order, also when nobody waits', async () => {
    const client = await pool.connect();
    const order: number[] = [];
    const all = [1, 2, 3, 4].map(n =>
      client.query('select $1::int as n', [n]).then(({ rows }) => order.push(rows[0].n)),
    );
    await Promise.all(all);
    client.release();
    expect(order).toEqual([1, 2, 3, 4]);
  });

  test('notices, cursors, streams', async () => {
    const client = await pool.connect();
    const notices: string[] = [];
    await client.query('begin');
    client.on('notice', notice => notices.push(notice.message ?? ''));
    await client.query(`do $$ begin raise notice 'hello'; end $$`);
    expect(notices).toEqual(['hello']);
    const cursor = client.query(new Cursor('select id from items order by id'));
    expect(await cursor.read(2)).toEqual([{ id: 1 }, { id: 2 }]);
    await cursor.close();
    await client.query('commit');
    const ids: number[] = [];
    for await (const { id } of client.query(
      new QueryStream('select id from items where id <= 50 order by id'),
    )) {
      ids.push(id);
    }
    expect(ids).toHaveLength(50);
    client.release();
  });

  test('Kysely', async () => {
    const db = new Kysely<{ items: { id: number; name: string } }>({
      dialect: new PostgresDialect({ pool }),
    });
    expect(await db.selectFrom('items').select('name').where('id', '=', 3).execute()).toEqual([
      { name: 'item 3' },
    ]);
    const inserted = await db.transaction().execute(async trx => {
      await trx.insertInto('items').values({ id: 2000, name: 'k' }).execute();
      return trx.selectFrom('items').select('name').where('id', '=', 2000).executeTakeFirst();
    });
    expect(inserted).toEqual({ name: 'k' });
  });

  test('events and counts are of all servers; after the end nothing is taken', async () => {
    const { user, password, host } = pair.primary.options;
    const other = createPool({
      connectionString: `postgres://${user}:${password}@${host}:${pair.primary.options.port}/postgres`,
      mapFile: path.join(folder, 'map.json'),
    });
    let connects = 0;
    other.on('connect', () => connects++);
    await other.query('select name from items where id = 1');
    expect(connects).toBeGreaterThan(0);
    await until(() => other.totalCount === connects, { what: 'all connections are there' });
    await other.end();
    await expect(other.query('select 1')).rejects.toThrow(/after calling end/);
  });
});
