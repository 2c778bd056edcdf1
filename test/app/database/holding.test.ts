/** While the database is away requests wait, in their order, up to a limit, and do not fail. */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { DatabaseAway, Holding, isAway } from '../../../src/app/database/holding.ts';
import { createPool, type PoolOptions } from '../../../src/app/database/pool.ts';
import { log } from '../../../src/app/telemetry/log.ts';
import { publishRuntimeMap } from '../../../src/map/map-file.ts';
import { temporaryFolder } from '../../support/deployment.ts';
import { TestPostgres } from '../../support/postgres.ts';
import { until } from '../../support/until.ts';

// The server breaks connections on purpose.
log.level = 'silent';

let server: TestPostgres;
let folder: string;
let mapFile: string;
beforeAll(async () => {
  server = await TestPostgres.start();
  folder = temporaryFolder();
  mapFile = path.join(folder, 'map.json');
  await publish();
});
afterAll(async () => {
  await server.remove();
  await rm(folder, { recursive: true });
});

/** Of the map as it was; with `hold` where one is given. */
function publish(hold?: { id: string; forMs: number }) {
  const { host, port } = server;
  return publishRuntimeMap(mapFile, {
    deployment: 'test',
    dataCentre: 'local',
    database: {
      name: 'postgres',
      shards: [
        { id: '0', members: [{ host, port, dataCentre: 'local' }], ...(hold ? { hold } : {}) },
      ],
    },
    assets: { baseUrl: '' },
  });
}

const holding = (options: PoolOptions = {}) =>
  server.adopt(createPool({ connectionString: server.url(), mapFile, ...options }));

describe.each(['kill', 'stop'] as const)('after a %s', how => {
  test('what comes while it is away waits, and goes on when it is back', async () => {
    const pool = holding({ max: 3 });
    await pool.query('create table if not exists held (value int)');
    await pool.query('truncate held');
    await server[how]();
    const waiting = Array.from({ length: 20 }, (_, value) =>
      pool.query('insert into held values ($1)', [value]),
    );
    const viaCallback = new Promise<number>((resolve, reject) => {
      pool.connect((error, client, done) => {
        if (error || !client) return reject(error);
        client.query('select 7 as seven', (failure, result) => {
          done();
          if (failure) reject(failure);
          else resolve(result.rows[0].seven);
        });
      });
    });
    const transaction = pool.connect().then(async client => {
      await client.query('begin');
      await client.query('insert into held values (99)');
      await client.query('commit');
      client.release();
    });
    await server.start();
    await Promise.all([...waiting, transaction]);
    expect(await viaCallback).toBe(7);
    const { rows } = await pool.query(
      'select count(*)::int as count, count(distinct value)::int as different from held',
    );
    expect(rows).toEqual([{ count: 21, different: 21 }]);
  });
});

test('beyond the limit: a clear error that says that nothing was executed', async () => {
  const pool = holding({ holdTimeoutMs: 200 });
  await server.stop();
  try {
    await expect(pool.query('select 1')).rejects.toMatchObject({
      code: 'DATABASE_AWAY',
      message: expect.stringMatching(
        /not been back for 0.2 s.*Nothing of this request was executed/s,
      ),
    });
  } finally {
    await server.start();
  }
  // On a busy machine 0.2 s may be too short for the first look at a server that is back.
  const rows = await until(async () => (await pool.query('select 1 as one')).rows);
  expect(rows).toEqual([{ one: 1 }]);
});

describe('a hold that the map asks for', () => {
  afterEach(() => publish());

  /** Sessions of the pool, by the server's own account. */
  async function sessions(): Promise<number> {
    const watcher = await server.pool({ connectionString: server.url(), max: 1 });
    const { rows } = await watcher.query<{ count: number }>(
      `select count(*)::int as count from pg_stat_activity where application_name = 'held'`,
    );
    await watcher.end();
    return rows[0]!.count;
  }

  test('what runs ends, nothing new begins, every connection goes; then all goes on', async () => {
    const pool = holding({ application_name: 'held', max: 2 });
    const transaction = await pool.connect();
    await transaction.query('begin');
    const other = await pool.connect();
    const order: number[] = [];
    const ask = (number: number) =>
      pool.query('select $1::int as n', [number]).then(({ rows }) => order.push(rows[0].n));
    // Waits for a connection that is in use when the hold begins.
    const waiting = [ask(0)];
    await publish({ id: 'one', forMs: 60_000 });
    await until(() => pool.isHolding, { what: 'the hold is seen' });
    waiting.push(ask(1), ask(2));
    other.release();
    await transaction.query('commit');
    transaction.release();
    await until(async () => (await sessions()) === 0, { what: 'every connection is closed' });
    expect(order).toEqual([]);
    await publish();
    await Promise.all(waiting);
    expect(order.toSorted()).toEqual([0, 1, 2]);
  });

  test('it ends by itself after its time, and the same hold does not begin again', async () => {
    const pool = holding({ application_name: 'held' });
    await publish({ id: 'two', forMs: 300 });
    await until(() => pool.isHolding, { what: 'the hold is seen' });
    expect((await pool.query('select 1 as one')).rows).toEqual([{ one: 1 }]);
    expect(pool.isHolding).toBe(false);
    const { host, port } = server;
    await publishRuntimeMap(mapFile, {
      deployment: 'test',
      dataCentre: 'local',
      database: {
        name: 'postgres',
        connectionsPerServer: 3,
        shards: [
          {
            id: '0',
            members: [{ host, port, dataCentre: 'local' }],
            hold: { id: 'two', forMs: 60_000 },
          },
        ],
      },
      assets: { baseUrl: '' },
    });
    await until(() => pool.options.max === 3, { what: 'the other map is seen' });
    expect((await pool.query('select 2 as two')).rows).toEqual([{ two: 2 }]);
  });

  test('a process that starts while the map says to hold, holds', async () => {
    await publish({ id: 'three', forMs: 60_000 });
    const pool = holding({ application_name: 'held' });
    const answer = pool.query('select 3 as three');
    expect(pool.isHolding).toBe(true);
    expect(await sessions()).toBe(0);
    await publish();
    expect((await answer).rows).toEqual([{ three: 3 }]);
  });
});

test('the end of the pool ends the waiting', async () => {
  const pool = createPool({ connectionString: server.url(), mapFile });
  await server.stop();
  try {
    const waiting = expect(pool.query('select 1')).rejects.toThrow();
    await pool.end();
    await waiting;
  } finally {
    await server.start();
  }
});

test('a mistake in the statement or the password is told at once, not waited for', async () => {
  await expect(holding().query('selec 1')).rejects.toMatchObject({ code: '42601' });
  const wrong = server.adopt(
    createPool({ connectionString: server.url().replace(/:[^:@]+@/, ':wrong@'), mapFile }),
  );
  await expect(wrong.query('select 1')).rejects.toMatchObject({ code: '28P01' });
});

test('a pool whose clients are all busy is not taken for a database that is away', async () => {
  const pool = server.adopt(
    createPool({ connectionString: server.url(), mapFile, max: 1, connectionTimeoutMillis: 100 }),
  );
  const client = await pool.connect();
  await expect(pool.connect()).rejects.toThrow('timeout exceeded');
  client.release();
});

test('another database than the deployment’s fails at once, as with pg', async () => {
  const pool = server.adopt(createPool({ connectionString: 'postgres://x@127.0.0.1:1/x' }));
  await expect(pool.query('select 1')).rejects.toMatchObject({ code: 'ECONNREFUSED' });
});

describe('Holding', () => {
  const away = () => Promise.reject(Object.assign(new Error('refused'), { code: 'ECONNREFUSED' }));

  test('one probe however many wait; they go on in their order', async () => {
    let isBack = false;
    let probes = 0;
    const hold = new Holding({ timeoutMs: 5_000, most: 100 }, async () => {
      probes++;
      if (!isBack) await away();
    });
    const order: number[] = [];
    const waiting = Array.from({ length: 50 }, async (_, index) => {
      await hold.connect(async () => {
        if (!isBack) await away();
      });
      order.push(index);
    });
    await until(() => (probes >= 3 ? true : undefined), { what: 'several probes' });
    const before = probes;
    isBack = true;
    await Promise.all(waiting);
    expect(order).toEqual(Array.from({ length: 50 }, (_, index) => index));
    expect(probes).toBe(before + 1);
  });

  test('who comes when too many wait is turned away at once', async () => {
    let isBack = false;
    const hold = new Holding({ timeoutMs: 5_000, most: 2 }, async () => {
      if (!isBack) await away();
    });
    const connect = async () => {
      if (!isBack) await away();
    };
    const first = [hold.connect(connect), hold.connect(connect)];
    await until(() => (hold.isHolding ? true : undefined), { what: 'it is known to be away' });
    await expect(hold.connect(connect)).rejects.toThrow(DatabaseAway);
    isBack = true;
    await Promise.all(first);
  });

  test('what says that it is away, and what does not', () => {
    const code = (value: string) => Object.assign(new Error('x'), { code: value });
    for (const each of ['ECONNREFUSED', 'ECONNRESET', '57P03', '57P01', '53300']) {
      expect(isAway(code(each))).toBe(true);
    }
    expect(isAway(new Error('Connection terminated unexpectedly'))).toBe(true);
    for (const each of ['28P01', '3D000', '42601']) expect(isAway(code(each))).toBe(false);
    expect(isAway(new pg.DatabaseError('no', 1, 'error'))).toBe(false);
  });
});
