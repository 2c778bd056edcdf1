/** `pool.transaction` on a real server, over a line that breaks where the test wants it to. */
import { setTimeout as delay } from 'node:timers/promises';
import { eq, sql } from 'drizzle-orm';
import { drizzle } from 'drizzle-orm/node-postgres';
import { integer, pgTable } from 'drizzle-orm/pg-core';
import type pg from 'pg';
import { from as copyFrom } from 'pg-copy-streams';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { OutcomeUnknown, TransactionBroken } from '../../../src/app/database/errors.ts';
import { outcomeFunctions } from '../../../src/app/database/outcome-functions.ts';
import { createPool, type Pool, type PoolOptions } from '../../../src/app/database/pool.ts';
import type { TransactionOptions } from '../../../src/app/database/transaction.ts';
import {
  InvalidTransactionOption,
  NestedTransaction,
  NotYoursToRelease,
  QueriesStillRunning,
  StatementFailed,
  TransactionEndedWithin,
  TransactionOver,
  TransactionTimeout,
} from '../../../src/app/database/transaction-errors.ts';
import { log } from '../../../src/app/telemetry/log.ts';
import { CutLine } from '../../support/cut-line.ts';
import { TestPostgres } from '../../support/postgres.ts';
import { until } from '../../support/until.ts';

// Connections break on purpose.
log.level = 'silent';

let postgres: TestPostgres;
let url: string;
/** Straight to the server, to see what is there. */
let direct: pg.Pool;
let line: CutLine;
/** What is tested, over the line. */
let pool: Pool;

function poolOverLine(options: PoolOptions = {}): Pool {
  const over = new URL(url);
  over.port = String(line.port);
  return postgres.adopt(createPool({ connectionString: over.href, ...options }));
}

beforeAll(async () => {
  postgres = await TestPostgres.start();
  url = await postgres.database();
  direct = await postgres.pool({ connectionString: url });
  await direct.query(`create role app; ${outcomeFunctions('app')}`);
  await direct.query('create table notes (text text); create table counters (id int, n int)');
  line = await CutLine.to(postgres.port);
  pool = poolOverLine();
});
afterAll(async () => {
  await line?.close();
  await postgres?.remove();
});
beforeEach(async () => {
  await direct.query('truncate notes, counters; insert into counters values (1, 0), (2, 0)');
});

async function notes(): Promise<string[]> {
  const { rows } = await direct.query<{ text: string }>('select text from notes order by text');
  return rows.map(({ text }) => text);
}

/** A function for a transaction, that counts how often it runs. */
function noting(text: string) {
  let runs = 0;
  const fn = async (client: pg.PoolClient) => {
    runs++;
    await client.query('insert into notes values ($1)', [text]);
    return `${text} in run ${runs}`;
  };
  return {
    fn,
    get runs() {
      return runs;
    },
  };
}

describe('nothing goes wrong', () => {
  test('what the function returns is returned, and what it did is kept', async () => {
    expect(await pool.transaction(noting('a').fn)).toBe('a in run 1');
    expect(await notes()).toEqual(['a']);
  });

  test('what it throws is thrown, the very same, and nothing is kept', async () => {
    const error = new Error('no');
    const attempt = pool.transaction(async client => {
      await client.query("insert into notes values ('a')");
      throw error;
    });
    expect(await attempt.catch(thrown => thrown)).toBe(error);
    expect(await notes()).toEqual([]);
  });

  test('an error of one of several queries at once does not let the others be kept', async () => {
    const attempt = pool.transaction(client =>
      Promise.all([client.query('select 1 / 0'), client.query("insert into notes values ('a')")]),
    );
    await expect(attempt).rejects.toMatchObject({ code: '22012' });
    expect(await notes()).toEqual([]);
  });

  test('an error of COMMIT itself is thrown as it is', async () => {
    await direct.query('create table once (id int unique deferrable initially deferred)');
    const attempt = pool.transaction(client => client.query('insert into once values (1), (1)'));
    await expect(attempt).rejects.toMatchObject({ code: '23505' });
    expect((await direct.query('select * from once')).rows).toEqual([]);
  });

  test.each<[TransactionOptions, string]>([
    [{}, 'read committed, off, off'],
    [{ isolation: 'repeatable read' }, 'repeatable read, off, off'],
    [{ isolation: 'serializable', readOnly: true, deferrable: true }, 'serializable, on, on'],
  ])('%o begins it in that mode', async (options, expected) => {
    const modes = await pool.transaction(async client => {
      const { rows } = await client.query(`select current_setting('transaction_isolation') || ', '
        || current_setting('transaction_read_only') || ', '
        || current_setting('transaction_deferrable') as modes`);
      return rows[0].modes;
    }, options);
    expect(modes).toBe(expected);
  });

  test.each([[{ isolation: 'dirty' }], [{ retries: -1 }], [{ timeoutMs: 0 }]])(
    '%o is refused',
    async options => {
      const attempt = pool.transaction(async () => {}, options as TransactionOptions);
      await expect(attempt).rejects.toBeInstanceOf(InvalidTransactionOption);
    },
  );

  test('its client is what SQL libraries take', async () => {
    const counters = pgTable('counters', { id: integer(), n: integer() });
    await pool.transaction(async client => {
      const db = drizzle(client);
      await db.update(counters).set({ n: sql`n + 1` }).where(eq(counters.id, 1));
      const { promise, resolve } = Promise.withResolvers<void>();
      client.query("insert into notes values ('by callback')", () => resolve());
      await promise;
      const copy = client.query(copyFrom('copy notes from stdin'));
      const copied = new Promise((done, fail) => copy.once('finish', done).once('error', fail));
      copy.end('by copy\n');
      await copied;
    });
    expect(await notes()).toEqual(['by callback', 'by copy']);
    const { rows } = await direct.query('select n from counters where id = 1');
    expect(rows).toEqual([{ n: 1 }]);
  });
});

describe('the line breaks', () => {
  test('after COMMIT arrived: it is found committed, and not done again', async () => {
    const work = noting('a');
    line.cut('answer');
    expect(await pool.transaction(work.fn)).toBe('a in run 1');
    expect(await notes()).toEqual(['a']);
  });

  test('before COMMIT arrived: it is found aborted, and done again', async () => {
    const work = noting('a');
    line.cut('request');
    expect(await pool.transaction(work.fn)).toBe('a in run 2');
    expect(await notes()).toEqual(['a']);
  });

  test('with a pool of one connection it is found out as well', async () => {
    const narrow = poolOverLine({ max: 1 });
    line.cut('answer');
    expect(await narrow.transaction(noting('a').fn)).toBe('a in run 1');
    line.cut('request');
    expect(await narrow.transaction(noting('b').fn)).toBe('b in run 2');
    expect(await notes()).toEqual(['a', 'b']);
  });

  test('at every COMMIT: it gives up after the last attempt, and nothing is kept', async () => {
    const work = noting('a');
    const attempt = pool.transaction(
      client => {
        line.cut('request');
        return work.fn(client);
      },
      { retries: 2 },
    );
    const error = await attempt.catch(thrown => thrown);
    expect(error).toBeInstanceOf(TransactionBroken);
    expect(error).toMatchObject({ code: 'TRANSACTION_BROKEN', safeToRetry: true });
    expect(work.runs).toBe(3);
    expect(await notes()).toEqual([]);
  });

  test('at a COMMIT of what wrote nothing: it is done again', async () => {
    let runs = 0;
    line.cut('answer');
    await pool.transaction(async client => {
      runs++;
      await client.query('select * from notes');
    });
    expect(runs).toBe(2);
  });

  test.each([false, true])('in the middle: it is done again (read only: %s)', async readOnly => {
    let runs = 0;
    await pool.transaction(
      async client => {
        await client.query('select 1');
        if (++runs === 1) line.breakAll();
        await client.query('select 2');
      },
      { readOnly },
    );
    expect(runs).toBe(2);
  });

  test('in the middle, and the function does not notice: it is done again', async () => {
    let runs = 0;
    await pool.transaction(async client => {
      await client.query("insert into notes values ('a')");
      if (++runs > 1) return;
      line.breakAll();
      await client.query('select 1').catch(() => {});
    });
    expect(await notes()).toEqual(['a']);
    expect(runs).toBe(2);
  });

  test('in the middle, and the function has an error of its own: that is thrown', async () => {
    const attempt = pool.transaction(async client => {
      await client.query("insert into notes values ('a')");
      line.breakAll();
      await client.query('select 1').catch(() => {});
      throw new Error('sold out');
    });
    await expect(attempt).rejects.toThrow('sold out');
    expect(await notes()).toEqual([]);
  });

  test('an error of another connection in the function is no reason to do it again', async () => {
    let runs = 0;
    const attempt = pool.transaction(async () => {
      runs++;
      throw Object.assign(new Error('elsewhere'), { code: 'ECONNRESET' });
    });
    await expect(attempt).rejects.toThrow('elsewhere');
    expect(runs).toBe(1);
  });

  test('says the pool, which has kept the client: it is done again when nothing was kept', async () => {
    let runs = 0;
    await pool.transaction(async () => {
      if (++runs === 1) throw new TransactionBroken(new Error('gone'));
    });
    expect(runs).toBe(2);
    const kept = new TransactionBroken(new Error('gone'), { safeToRetry: false });
    const attempt = pool.transaction(async () => {
      throw kept;
    });
    expect(await attempt.catch(thrown => thrown)).toBe(kept);
  });

  test.each([
    ['answer', 'a in run 1'],
    ['request', 'a in run 2'],
  ] as const)(
    'and the server with it, which comes back (%s lost): exactly one is kept',
    async (side, result) => {
      line.cut(side, async () => {
        await postgres.kill();
        await postgres.start();
      });
      expect(await pool.transaction(noting('a').fn, { timeoutMs: 60_000 })).toBe(result);
      expect(await notes()).toEqual(['a']);
    },
  );

  test('and the server stays away: the outcome is unknown, and it is not done again', async () => {
    const work = noting('a');
    line.cut('answer', () => postgres.kill());
    const error = await pool.transaction(work.fn, { timeoutMs: 5_000 }).catch(thrown => thrown);
    await postgres.start();
    expect(error).toBeInstanceOf(OutcomeUnknown);
    expect(error).toMatchObject({ code: 'OUTCOME_UNKNOWN', safeToRetry: false });
    expect(error.cause).toBeInstanceOf(Error);
    expect(work.runs).toBe(1);
    expect(await notes()).toEqual(['a']);
  });
});

describe('transactions get into each other’s way', () => {
  test('many serializable increments at once all succeed, and the sum is right', async () => {
    const increments = Array.from({ length: 40 }, () =>
      pool.transaction(
        async client => {
          const { rows } = await client.query('select n from counters where id = 1');
          await client.query('update counters set n = $1 where id = 1', [rows[0].n + 1]);
        },
        { isolation: 'serializable', retries: 1_000, timeoutMs: 50_000 },
      ),
    );
    await Promise.all(increments);
    const { rows } = await direct.query('select n from counters where id = 1');
    expect(rows).toEqual([{ n: 40 }]);
  });

  test('the victim of a deadlock is done again', async () => {
    // Each waits for the other to have its first row, the first time.
    const first = [1, 2].map(() => Promise.withResolvers<void>());
    const both = Promise.all(first.map(({ promise }) => promise));
    let runs = 0;
    const change = (own: number, other: number) =>
      pool.transaction(async client => {
        runs++;
        await client.query('update counters set n = n + 1 where id = $1', [own]);
        first[own - 1]!.resolve();
        await both;
        await client.query('update counters set n = n + 1 where id = $1', [other]);
      });
    await Promise.all([change(1, 2), change(2, 1)]);
    // Of the same two there may be another.
    expect(runs).toBeGreaterThan(2);
    const { rows } = await direct.query('select n from counters');
    expect(rows).toEqual([{ n: 2 }, { n: 2 }]);
  });

  test('a conflict that a library wrapped is one', async () => {
    let runs = 0;
    await pool.transaction(async () => {
      const cause = Object.assign(new Error('conflict'), { code: '40001' });
      if (++runs === 1) throw new Error('Failed query', { cause });
    });
    expect(runs).toBe(2);
  });

  test('a conflict in every attempt is thrown as it is', async () => {
    const error = Object.assign(new Error('conflict'), { code: '40001' });
    let runs = 0;
    const attempt = pool.transaction(async () => {
      runs++;
      throw error;
    });
    expect(await attempt.catch(thrown => thrown)).toBe(error);
    expect(runs).toBe(6);
  });
});

describe('time', () => {
  test('a transaction that takes too long is rolled back', async () => {
    const attempt = pool.transaction(
      async client => {
        await client.query("insert into notes values ('a')");
        await new Promise(() => {});
      },
      { timeoutMs: 300 },
    );
    await expect(attempt).rejects.toBeInstanceOf(TransactionTimeout);
    expect(await notes()).toEqual([]);
    await until(async () => {
      const { rows } = await direct.query(
        "select from pg_stat_activity where state = 'idle in transaction'",
      );
      return rows.length === 0;
    });
  });

  test('the wait for a connection counts, and one that comes too late goes back', async () => {
    const narrow = poolOverLine({ max: 1 });
    const client = await narrow.connect();
    const attempt = narrow.transaction(async () => {}, { timeoutMs: 100 });
    await expect(attempt).rejects.toBeInstanceOf(TransactionTimeout);
    client.release();
    expect((await narrow.query('select 1 as n')).rows).toEqual([{ n: 1 }]);
  });

  test('a signal ends it, before and while it runs', async () => {
    const reason = new Error('the user left');
    let runs = 0;
    const early = pool.transaction(async () => void runs++, { signal: AbortSignal.abort(reason) });
    expect(await early.catch(thrown => thrown)).toBe(reason);
    expect(runs).toBe(0);
    const leaving = new AbortController();
    const attempt = pool.transaction(
      async client => {
        await client.query("insert into notes values ('a')");
        leaving.abort(reason);
        await delay(10);
      },
      { signal: leaving.signal },
    );
    expect(await attempt.catch(thrown => thrown)).toBe(reason);
    expect(await notes()).toEqual([]);
  });

  test('a signal that comes while COMMIT is under way is too late', async () => {
    const leaving = new AbortController();
    line.cut('answer', async () => leaving.abort(new Error('the user left')));
    expect(await pool.transaction(noting('a').fn, { signal: leaving.signal })).toBe('a in run 1');
    expect(await notes()).toEqual(['a']);
  });
});

describe('a mistake in the function is told', () => {
  test.each<[string, (client: pg.PoolClient) => Promise<unknown>, unknown]>([
    ['a transaction within', () => pool.transaction(async () => {}), NestedTransaction],
    [
      'a transaction on the client',
      async client => (client as unknown as Pool).transaction(async () => {}),
      NestedTransaction,
    ],
    ['a release', async client => client.release(), NotYoursToRelease],
    [
      'a query that is not waited for',
      async client => void client.query("insert into notes values ('a')"),
      QueriesStillRunning,
    ],
    [
      'a callback that is not waited for',
      async client => client.query("insert into notes values ('a')", () => {}),
      QueriesStillRunning,
    ],
    [
      'an error that is swallowed',
      async client => {
        await client.query("insert into notes values ('a')");
        await client.query('select 1 / 0').catch(() => {});
      },
      StatementFailed,
    ],
    ['a rollback', client => client.query('rollback'), TransactionEndedWithin],
    ['a rollback in a chain', client => client.query('rollback and chain'), TransactionEndedWithin],
    ['another begin', client => client.query('rollback; begin'), TransactionEndedWithin],
  ])('%s', async (_, fn, kind) => {
    const attempt = pool.transaction(fn);
    await expect(attempt).rejects.toBeInstanceOf(kind);
    expect(await notes()).toEqual([]);
  });

  test('a commit: it was kept, and the error says so', async () => {
    const attempt = pool.transaction(async client => {
      await client.query("insert into notes values ('a')");
      await client.query('commit');
    });
    await expect(attempt).rejects.toThrow(/What it committed itself.* was kept/);
    expect(await notes()).toEqual(['a']);
  });

  test('an error that is swallowed in a read-only transaction', async () => {
    const attempt = pool.transaction(client => client.query('select 1 / 0').catch(() => {}), {
      readOnly: true,
    });
    await expect(attempt).rejects.toBeInstanceOf(StatementFailed);
  });

  test('a commit in a read-only transaction', async () => {
    const attempt = pool.transaction(client => client.query('commit'), { readOnly: true });
    await expect(attempt).rejects.toBeInstanceOf(TransactionEndedWithin);
  });

  test('a client that is kept: nothing gets through to whoever has the connection then', async () => {
    let kept: pg.PoolClient | undefined;
    await pool.transaction(async client => {
      kept = client;
    });
    expect(() => kept!.query("insert into notes values ('a')")).toThrow(TransactionOver);
    expect(await notes()).toEqual([]);
  });

  test('after each of them the connection is as new, and a transaction beside another is allowed', async () => {
    const later = Promise.withResolvers<void>();
    let background: Promise<unknown> | undefined;
    await pool.transaction(async () => {
      background = later.promise.then(() => pool.transaction(noting('after').fn));
    });
    later.resolve();
    await background;
    await Promise.all([pool.transaction(noting('b').fn), pool.transaction(noting('c').fn)]);
    expect(await notes()).toEqual(['after', 'b', 'c']);
    expect(pool.idleCount).toBe(pool.totalCount);
  });
});
