/** Over several shards the pool and its clients are to the application what pg's are over one server. */
import { once } from 'node:events';
import fc from 'fast-check';
import pg from 'pg';
import Cursor from 'pg-cursor';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { Pool } from '../../../../src/app/database/pool.ts';
import { log } from '../../../../src/app/telemetry/log.ts';
import { HintedPools } from '../../../support/hinted-shards.ts';
import { ShardServers } from '../../../support/shard-servers.ts';
import { until } from '../../../support/until.ts';

log.level = 'silent';

const SHARDS = 2;

let shards: ShardServers;
let hinted: HintedPools;
let pool: Pool;

beforeAll(async () => {
  shards = await ShardServers.start(SHARDS, { servers: SHARDS });
  await shards.everywhere('create table notes (key int primary key, text text)');
  hinted = HintedPools.of(shards);
  await hinted.publish();
  pool = hinted.pool({}, { deadlockTimeoutMs: 200 });
});
afterAll(async () => {
  await hinted?.remove();
  await shards?.remove();
});
beforeEach(async () => {
  await shards.everywhere('truncate notes');
});

const keys = async () =>
  (await shards.everywhere('select key from notes order by key')).map(({ rows }) =>
    rows.map(({ key }) => key),
  );

async function withClient<T>(body: (client: pg.PoolClient) => Promise<T>): Promise<T> {
  const client = await pool.connect();
  try {
    return await body(client);
  } finally {
    client.release();
  }
}

describe('statements by themselves', () => {
  test('go where the planner says, by promise and by callback', async () => {
    expect(pool).toBeInstanceOf(pg.Pool);
    await pool.query('/* 1 */ insert into notes values ($1)', [1]);
    const result = await new Promise<pg.QueryResult>((resolve, reject) => {
      pool.query(
        '/* 1 */ select key from notes',
        (error: Error | undefined, answer: pg.QueryResult) =>
          error ? reject(error) : resolve(answer),
      );
    });
    expect(result.rows).toEqual([{ key: 1 }]);
    expect(await keys()).toEqual([[], [1]]);
    expect(pool.totalCount).toBeGreaterThan(0);
  });

  test('that write to all shards are all or nothing', async () => {
    await pool.query('/* all */ insert into notes values (1)');
    expect(await keys()).toEqual([[1], [1]]);
    await pool.query('/* 1 */ insert into notes values (2)');
    await expect(pool.query('/* all */ insert into notes values (2)')).rejects.toMatchObject({
      code: '23505',
    });
    expect(await keys()).toEqual([[1], [1, 2]]);
    expect(await shards.prepared()).toEqual([[], []]);
  });

  test('an error is that of PostgreSQL', async () => {
    await expect(pool.query('/* 1 */ select 1 / 0')).rejects.toMatchObject({ code: '22012' });
    await expect(pool.query('selec 1')).rejects.toMatchObject({ code: '42601', position: '1' });
  });

  test('a text with a transaction of its own is one', async () => {
    await pool.query(
      'begin; /* 1 */ insert into notes values (3); /* 0 */ insert into notes values (4); commit',
    );
    expect((await keys()).flat().sort()).toEqual([3, 4]);
    await expect(
      pool.query('begin; insert into notes values (5); select 1 / 0; commit'),
    ).rejects.toMatchObject({ code: '22012' });
    expect((await keys()).flat().sort()).toEqual([3, 4]);
  });
});

describe('transactions', () => {
  test('commit on all shards', () =>
    withClient(async client => {
      expect((await client.query('begin')).command).toBe('BEGIN');
      await client.query('/* 0 */ insert into notes values (1)');
      await client.query('/* 1 */ insert into notes values (2)');
      expect(await keys()).toEqual([[], []]);
      expect((await client.query('commit')).command).toBe('COMMIT');
      expect(await keys()).toEqual([[1], [2]]);
      expect(await shards.prepared()).toEqual([[], []]);
    }));

  test('roll back on all shards; also by a release', async () => {
    await withClient(async client => {
      await client.query('begin');
      await client.query('/* all */ insert into notes values (1)');
      await client.query('rollback');
      await client.query('begin');
      await client.query('/* all */ insert into notes values (2)');
    });
    await pool.query('/* all */ insert into notes values (2)');
    expect(await keys()).toEqual([[2], [2]]);
  });

  test('have their modes on each shard', () =>
    withClient(async client => {
      await client.query('begin isolation level serializable');
      const { rows } = await client.query('/* all */ show transaction_isolation');
      expect(rows).toEqual(Array(SHARDS).fill({ transaction_isolation: 'serializable' }));
      await client.query('commit');
      await client.query('begin read only');
      await expect(client.query('/* 1 */ insert into notes values (1)')).rejects.toMatchObject({
        code: '25006',
      });
      await client.query('rollback');
    }));

  test('fail as a whole', () =>
    withClient(async client => {
      await client.query('begin');
      await client.query('/* 0 */ insert into notes values (1)');
      await expect(client.query('/* 1 */ select 1 / 0')).rejects.toMatchObject({ code: '22012' });
      expect((client as unknown as { getTransactionStatus(): string }).getTransactionStatus()).toBe(
        'E',
      );
      await expect(client.query('/* 0 */ select 1')).rejects.toMatchObject({ code: '25P02' });
      expect((await client.query('commit')).command).toBe('ROLLBACK');
      expect(await keys()).toEqual([[], []]);
    }));

  test('with a setting have it on shards that join later', () =>
    withClient(async client => {
      await client.query('begin');
      await client.query("set local application_name = 'mine'");
      const shown = (await client.query('/* 1 */ show application_name')).rows;
      expect(shown).toEqual([{ application_name: 'mine' }]);
      await client.query("select set_config('my.user', $1, true)", ['ann']);
      const { rows } = await client.query("/* all */ select current_setting('my.user') as who");
      expect(rows).toEqual([{ who: 'ann' }, { who: 'ann' }]);
      await client.query('commit');
      const after = await client.query("/* all */ select current_setting('my.user', true) as who");
      expect(after.rows.filter(({ who }) => who)).toEqual([]);
    }));

  test('chained go on with the same modes', () =>
    withClient(async client => {
      await client.query('begin isolation level repeatable read');
      await client.query('/* 0 */ insert into notes values (1)');
      await client.query('commit and chain');
      const { rows } = await client.query('/* 1 */ show transaction_isolation');
      expect(rows).toEqual([{ transaction_isolation: 'repeatable read' }]);
      await client.query('rollback');
      expect(await keys()).toEqual([[1], []]);
    }));

  test('in a circle of locks: one is told, or both go through by pool.transaction', async () => {
    await pool.query('/* all */ insert into notes values (1)');
    let attempts = 0;
    const met = Promise.withResolvers<void>();
    const work = (first: number, second: number) =>
      pool.transaction(
        async client => {
          await client.query(`/* ${first} */ update notes set text = coalesce(text, '') || 'x'`);
          if (++attempts === 2) met.resolve();
          await met.promise;
          await client.query(`/* ${second} */ update notes set text = coalesce(text, '') || 'x'`);
        },
        { timeoutMs: 30_000, retries: 20 },
      );
    await Promise.all([work(0, 1), work(1, 0)]);
    expect(attempts).toBeGreaterThan(2);
    const texts = await shards.everywhere('select text from notes');
    expect(texts.map(({ rows }) => rows)).toEqual([[{ text: 'xx' }], [{ text: 'xx' }]]);
  });

  test('pool.transaction commits, and rolls back with what was thrown', async () => {
    const value = await pool.transaction(async client => {
      await client.query('/* all */ insert into notes values (1)');
      return 'done';
    });
    expect(value).toBe('done');
    await expect(
      pool.transaction(async client => {
        await client.query('/* all */ insert into notes values (2)');
        throw new Error('no');
      }),
    ).rejects.toThrow('no');
    await expect(
      pool.transaction(async client => {
        await client.query('/* all */ insert into notes values (3)');
        await client.query('commit');
        await client.query('begin');
      }),
    ).rejects.toMatchObject({ code: 'TRANSACTION_ENDED_WITHIN' });
    expect(await keys()).toEqual([
      [1, 3],
      [1, 3],
    ]);
  });

  test('two-phase statements of the application are refused', () =>
    withClient(async client => {
      await client.query('begin');
      await expect(client.query("prepare transaction 'mine'")).rejects.toMatchObject({
        code: 'SHARDED_SESSION_REFUSED',
      });
      await client.query('rollback');
    }));
});

describe('sessions', () => {
  test('what is set holds on every shard, and is not left to others', async () => {
    await withClient(async client => {
      await client.query("set application_name = 'mine'");
      expect((await client.query('/* all */ show application_name')).rows).toEqual(
        Array(SHARDS).fill({ application_name: 'mine' }),
      );
      await client.query('begin');
      expect((await client.query('/* 1 */ show application_name')).rows).toEqual([
        { application_name: 'mine' },
      ]);
      await client.query('commit');
      await expect(client.query('set no_such_setting = 1')).rejects.toMatchObject({
        code: '42704',
      });
    });
    for (let i = 0; i < 10; i++) {
      const { rows } = await pool.query('/* all */ show application_name');
      expect(rows).not.toContainEqual({ application_name: 'mine' });
    }
  });

  test('notifications arrive, also from within a transaction over shards', () =>
    withClient(async client => {
      await client.query('listen news');
      const heard = once(client, 'notification');
      await withClient(async other => {
        await other.query('begin');
        await other.query('/* 1 */ insert into notes values (1)');
        await other.query("notify news, 'hello'");
        await other.query('commit');
      });
      expect((await heard)[0]).toMatchObject({ channel: 'news', payload: 'hello' });
      expect(await keys()).toEqual([[], [1]]);
    }));

  test('an advisory lock is held until the release', async () => {
    const take = 'select pg_try_advisory_lock(17) as taken';
    await withClient(async client => {
      expect((await client.query(take)).rows).toEqual([{ taken: true }]);
      expect((await withClient(other => other.query(take))).rows).toEqual([{ taken: false }]);
    });
    await until(async () => (await withClient(other => other.query(take))).rows[0].taken);
  });

  test('a temporary table is there for the session', () =>
    withClient(async client => {
      await client.query('create temporary table mine (id int)');
      await client.query('insert into mine values (1)');
      await client.query('begin');
      await client.query('insert into mine values (2)');
      await client.query('/* 1 */ insert into notes values (1)');
      await client.query('commit');
      expect((await client.query('select count(*)::int from mine')).rows).toEqual([{ count: 2 }]);
    }));

  test('statements prepared by SQL are refused', () =>
    withClient(async client => {
      await expect(client.query('prepare q as select * from notes')).rejects.toThrow(/PREPARE/);
    }));

  test('a cursor reads from one shard', () =>
    withClient(async client => {
      await pool.query('/* 1 */ insert into notes select generate_series(1, 5)');
      const cursor = client.query(
        new Cursor('/* 1 */ select key from notes where key > $1 order by key', [1]),
      );
      expect(await cursor.read(2)).toEqual([{ key: 2 }, { key: 3 }]);
      await cursor.close();
      const across = client.query(new Cursor('/* all */ select key from notes'));
      expect(await across.read(2)).toHaveLength(2);
      await across.close();
      expect((await client.query('/* 1 */ select 1 as one')).rows).toEqual([{ one: 1 }]);
    }));
});

/** A program of a session: what each step gives, and what is there in the end, is as on one server. */
const name = fc.constantFrom('a', 'b');
const step = fc.oneof(
  {
    weight: 5,
    arbitrary: fc
      .record({ shard: fc.nat(SHARDS - 1), key: fc.integer({ min: 1, max: 6 }) })
      .map(({ shard, key }) => `/* ${shard} */ insert into notes values (${key * SHARDS + shard})`),
  },
  {
    weight: 2,
    arbitrary: fc
      .nat(SHARDS - 1)
      .map(shard => `/* ${shard} */ delete from notes where key % ${SHARDS} = ${shard}`),
  },
  { weight: 1, arbitrary: fc.nat(SHARDS - 1).map(shard => `/* ${shard} */ select 1 / 0`) },
  {
    weight: 1,
    arbitrary: fc.integer({ min: 1, max: 9 }).map(ms => `set local statement_timeout = '${ms}min'`),
  },
  {
    weight: 2,
    arbitrary: fc.nat(SHARDS - 1).map(shard => `/* ${shard} */ show statement_timeout`),
  },
  { weight: 3, arbitrary: name.map(one => `savepoint ${one}`) },
  { weight: 2, arbitrary: name.map(one => `rollback to savepoint ${one}`) },
  { weight: 1, arbitrary: name.map(one => `release savepoint ${one}`) },
  {
    weight: 2,
    arbitrary: fc.constantFrom(
      'begin',
      'commit',
      'rollback',
      'commit and chain',
      'rollback and chain',
    ),
  },
);

test('a session over shards answers as one on a single server', { timeout: 120_000 }, async () => {
  const single = await shards.servers[0]!.pool();
  await single.query('create table notes (key int primary key, text text)');
  const run = async (client: pg.PoolClient, steps: string[]) => {
    const answers: unknown[] = [];
    for (const text of steps) {
      answers.push(
        await client.query(text).then(
          ({ command, rows }) => ({ command, rows }),
          error => error.code,
        ),
      );
    }
    return answers;
  };
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 14 }), async steps => {
      const program = ['begin', ...steps, 'commit'];
      await single.query('truncate notes');
      await shards.everywhere('truncate notes');
      const one = await single.connect();
      const expected = await run(one, program).finally(() => one.release());
      const many = await withClient(client => run(client, program));
      expect(many).toEqual(expected);
      const { rows } = await single.query('select key from notes order by key');
      expect((await keys()).flat().sort((a, b) => a - b)).toEqual(rows.map(({ key }) => key));
    }),
    { numRuns: 150 },
  );
});
