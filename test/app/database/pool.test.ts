import { rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { eq } from 'drizzle-orm';
import { drizzle } from 'drizzle-orm/node-postgres';
import { integer, pgTable, text } from 'drizzle-orm/pg-core';
import { Kysely, PostgresDialect } from 'kysely';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { createPool, DatabaseNotConfigured } from '../../../src/app/database/pool.ts';
import { log } from '../../../src/app/telemetry/log.ts';
import { publishRuntimeMap } from '../../../src/map/map-file.ts';
import { InvalidRuntimeMap, RuntimeMapMissing } from '../../../src/map/runtime-map.ts';
import { temporaryFolder } from '../../support/deployment.ts';
import { TestPostgres } from '../../support/postgres.ts';
import { until } from '../../support/until.ts';

// The servers break connections on purpose.
log.level = 'silent';

let one: TestPostgres;
let two: TestPostgres;
let folder: string;
let mapFile: string;

beforeAll(async () => {
  folder = temporaryFolder();
  mapFile = path.join(folder, 'map.json');
  [one, two] = await Promise.all([TestPostgres.start(), TestPostgres.start()]);
});
afterAll(async () => {
  await Promise.all([one?.remove(), two?.remove()]);
  await rm(folder, { recursive: true });
});
beforeEach(() => publish(one));
afterEach(() => vi.unstubAllEnvs());

function publish({ host, port }: TestPostgres) {
  return publishRuntimeMap(mapFile, {
    deployment: 'test',
    dataCentre: 'local',
    database: {
      name: 'postgres',
      shards: [{ id: '1', members: [{ host, port, dataCentre: 'local' }] }],
    },
    assets: { baseUrl: '' },
  });
}

/** Both servers have the same password, as a database that moved has. */
function follow(options: pg.PoolConfig = {}) {
  return one.adopt(createPool({ connectionString: one.url(), mapFile, ...options }));
}

async function portOf(client: pg.Pool | pg.PoolClient): Promise<number> {
  const { rows } = await client.query<{ port: number }>('select inet_server_port() as port');
  return rows[0]!.port;
}

const fails = (work: Promise<unknown>): Promise<boolean> =>
  work.then(
    () => false,
    () => true,
  );

describe('the libraries that applications use work on it', () => {
  test('plain pg: promises, callbacks, parameters, transactions, events', async () => {
    const pool = follow();
    expect(pool).toBeInstanceOf(pg.Pool);
    expect((await pool.query('select $1::int + 1 as n', [1])).rows).toEqual([{ n: 2 }]);
    const { promise, resolve } = Promise.withResolvers<unknown>();
    pool.query('select 3 as n', (_error, result) => resolve(result?.rows));
    expect(await promise).toEqual([{ n: 3 }]);
    const client = await pool.connect();
    await client.query('begin');
    await client.query('create temporary table t (x int) on commit drop');
    await client.query('commit');
    client.release();
    expect(pool.totalCount).toBeGreaterThan(0);
  });

  test('Drizzle: queries, and a transaction that rolls back', async () => {
    const pool = follow({ connectionString: await one.database() });
    await pool.query('create table users (id int primary key, name text not null)');
    const users = pgTable('users', { id: integer().primaryKey(), name: text().notNull() });
    const db = drizzle(pool);
    await db.insert(users).values({ id: 1, name: 'Ada' });
    const change = db.transaction(async tx => {
      await tx.update(users).set({ name: 'Bob' }).where(eq(users.id, 1));
      throw new Error('no');
    });
    await expect(change).rejects.toThrow('no');
    expect(await db.select().from(users)).toEqual([{ id: 1, name: 'Ada' }]);
  });

  test('Kysely: queries, transactions, and its destroy() ends the pool', async () => {
    const pool = createPool({ connectionString: await one.database(), mapFile });
    await pool.query('create table users (id int primary key, name text not null)');
    const db = new Kysely<{ users: { id: number; name: string } }>({
      dialect: new PostgresDialect({ pool }),
    });
    await db.transaction().execute(async tx => {
      await tx.insertInto('users').values({ id: 1, name: 'Ada' }).execute();
    });
    expect(await db.selectFrom('users').selectAll().execute()).toEqual([{ id: 1, name: 'Ada' }]);
    await db.destroy();
    expect(pool.ended).toBe(true);
  });
});

describe('where it connects to', () => {
  test('host and port come from the map, everything else from DATABASE_URL', async () => {
    vi.stubEnv('DATABASE_URL', one.url().replace(String(one.port), '1'));
    vi.stubEnv('BANYAN_MAP', mapFile);
    vi.stubEnv('BANYAN_UNIT', 'web-7');
    const pool = one.adopt(createPool());
    expect(await portOf(pool)).toBe(one.port);
    const { rows } = await pool.query('show application_name');
    expect(rows).toEqual([{ application_name: 'web-7' }]);
  });

  test("another database than the deployment's own is left where its URL says", async () => {
    vi.stubEnv('DATABASE_URL', one.url());
    vi.stubEnv('BANYAN_MAP', mapFile);
    const other = one.adopt(createPool({ connectionString: two.url() }));
    expect(await portOf(other)).toBe(two.port);
    const { hostname: host, port, username: user, password } = new URL(two.url());
    const byHost = createPool({ host, port: Number(port), user, password, database: 'postgres' });
    expect(await portOf(one.adopt(byHost))).toBe(two.port);
  });

  test('nothing to connect to, a map that is not there and a damaged map are errors at once', async () => {
    vi.stubEnv('DATABASE_URL', undefined);
    expect(() => createPool()).toThrow(DatabaseNotConfigured);
    const connectionString = one.url();
    const missing = path.join(folder, 'no-map.json');
    expect(() => createPool({ connectionString, mapFile: missing })).toThrow(RuntimeMapMissing);
    const damaged = path.join(folder, 'damaged.json');
    await writeFile(damaged, '{"format": 1, "epo');
    expect(() => createPool({ connectionString, mapFile: damaged })).toThrow(InvalidRuntimeMap);
  });
});

test('when the map moves the database, what is in use finishes and everything new goes to the new place', async () => {
  const pool = follow({ max: 6 });
  const transaction = await pool.connect();
  await transaction.query('begin');
  // Connections that lie idle at the old place.
  await Promise.all([portOf(pool), portOf(pool), portOf(pool)]);

  let moving = true;
  const ports = new Set<number>();
  const users = Array.from({ length: 4 }, async () => {
    while (moving) ports.add(await portOf(pool));
  });
  await until(() => ports.has(one.port));
  await publish(two);
  await until(() => ports.has(two.port));
  moving = false;
  await Promise.all(users);

  expect(await portOf(pool)).toBe(two.port);
  expect(await portOf(transaction)).toBe(one.port);
  await transaction.query('commit');
  transaction.release();
  const watcher = await one.pool();
  await until(
    async () => {
      const { rows } = await watcher.query(
        `select from pg_stat_activity where application_name = 'app'`,
      );
      return rows.length === 0;
    },
    { what: 'no connection to the old place is left' },
  );
});

test('a map that is damaged later changes nothing, and the next good one counts', async () => {
  const pool = follow();
  expect(await portOf(pool)).toBe(one.port);
  await writeFile(mapFile, 'rubbish');
  expect(await portOf(pool)).toBe(one.port);
  await publish(two);
  await until(async () => (await portOf(pool)) === two.port);
});

describe('a restart of PostgreSQL', () => {
  let server: TestPostgres;
  beforeAll(async () => {
    server = await TestPostgres.start();
  });
  afterAll(() => server.remove());

  test.each(['stop', 'kill'] as const)(
    '%s: idle connections break without an error in the process, and the pool works again',
    async how => {
      const pool = server.adopt(createPool({ connectionString: server.url() }));
      await Promise.all([portOf(pool), portOf(pool)]);
      await server[how]();
      // The backends of a killed server live for a moment longer.
      await until(() => fails(pool.query('select 1')));
      await server.start();
      expect(await portOf(pool)).toBe(server.port);
    },
  );

  test('a client in use between two queries breaks without ending the process', async () => {
    const pool = server.adopt(createPool({ connectionString: server.url() }));
    const client = await pool.connect();
    await client.query('begin');
    // As any application would: no listener of its own on the client.
    await server.kill();
    await until(() => fails(client.query('select 1')));
    client.release();
    await server.start();
    expect(await portOf(pool)).toBe(server.port);
  });
});

test('an ended pool no longer watches: the process can end', async () => {
  const pool = createPool({ connectionString: one.url(), mapFile });
  await portOf(pool);
  await pool.end();
  const byCallback = createPool({ connectionString: one.url(), mapFile });
  await new Promise<void>(resolve => byCallback.end(resolve));
  await publish(two);
  expect(pool.totalCount + byCallback.totalCount).toBe(0);
});
