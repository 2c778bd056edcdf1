/** What became of a COMMIT, asked from real servers after what may happen to them. */
import { randomBytes } from 'node:crypto';
import { chown, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type CommitMark, markCommit, resolveCommit } from '../../../src/app/database/outcome.ts';
import { outcomeFunctions } from '../../../src/app/database/outcome-functions.ts';
import { parseLsn } from '../../../src/app/database/timelines.ts';
import { TestPostgres } from '../../support/postgres.ts';
import {
  freezeReceiver,
  freezeSenders,
  killServer,
  postmasterOf,
} from '../../support/server-processes.ts';
import { StandbyPair } from '../../support/standby.ts';
import { until } from '../../support/until.ts';

const PATIENCE = { timeoutMs: 20_000 };

const SETUP = `
  create role app login password 'app';
  create table notes (text text);
  grant all on notes to app;
  ${outcomeFunctions('app')}`;

/** The same database as an application sees it, which is no superuser. */
function asApp(pool: pg.Pool): pg.Pool {
  const { host, port, database, connectionString } = pool.options;
  const url = connectionString ? new URL(connectionString) : undefined;
  const app = new pg.Pool({
    host: url?.hostname ?? host,
    port: Number(url?.port ?? port),
    database: url?.pathname.slice(1) ?? database,
    user: 'app',
    password: 'app',
    max: 4,
  });
  app.on('error', () => {});
  app.on('connect', client => client.on('error', () => {}));
  return app;
}

interface Written {
  client: pg.PoolClient;
  mark: CommitMark;
  text: string;
}

/** A transaction that wrote and is about to commit. */
async function write(pool: pg.Pool, text: string): Promise<Written> {
  const client = await pool.connect();
  try {
    await client.query('begin');
    await client.query('insert into notes values ($1)', [text]);
    return { client, text, mark: (await markCommit(client))! };
  } catch (error) {
    client.release(true);
    throw error;
  }
}

const commitUnheard = ({ client }: Written) => void client.query('commit').catch(() => {});

const resolve = (pool: pg.Pool, { mark }: Written, patience = PATIENCE) =>
  resolveCommit(mark, () => pool.connect(), patience);

const isThere = async (pool: pg.Pool, { text }: Written) =>
  (await pool.query('select from notes where text = $1', [text])).rowCount === 1;

/** Others commit until one of them has had the number. @returns whether one had it */
async function useNumber(pool: pg.Pool, { mark }: Written): Promise<boolean> {
  for (;;) {
    const { rows } = await pool.query<{ xid: string }>(
      "insert into notes values ('another') returning pg_current_xact_id()::text as xid",
    );
    if (BigInt(rows[0]!.xid) === BigInt(mark.xid)) return true;
    if (BigInt(rows[0]!.xid) > BigInt(mark.xid)) return false;
  }
}

const statusOf = async (pool: pg.Pool, { mark }: Written) =>
  (await pool.query('select pg_xact_status($1::xid8) as status', [mark.xid])).rows[0].status;

/** Kills one backend badly: the postmaster lives, and starts all else anew. */
async function killBackend(superuser: pg.Pool): Promise<void> {
  const postmaster = await postmasterOf(superuser);
  const client = await superuser.connect();
  const ignore = () => {};
  client.on('error', ignore);
  const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid');
  process.kill(rows[0]!.pid, 'SIGKILL');
  await client.query('select pg_sleep(60)').catch(ignore);
  client.release(true);
  await until(async () => (await postmasterOf(superuser)) === postmaster, {
    what: 'the server is back, with the same postmaster',
  });
}

describe('the server goes on', () => {
  let postgres: TestPostgres;
  let pool: pg.Pool;

  beforeAll(async () => {
    postgres = await TestPostgres.start();
    const superuser = await postgres.pool();
    await superuser.query(SETUP);
    await superuser.query("alter system set wal_writer_delay = '10s'");
    await superuser.query('select pg_reload_conf()');
    pool = postgres.adopt(asApp(superuser));
  });
  afterAll(() => postgres?.remove());

  test('a transaction that wrote nothing has no mark', async () => {
    const client = await pool.connect();
    await client.query('begin');
    await client.query('select * from notes');
    expect(await markCommit(client)).toBeUndefined();
    await client.query('commit');
    client.release();
  });

  test('one that was committed is committed, one that was rolled back is aborted', async () => {
    const kept = await write(pool, 'kept');
    await kept.client.query('commit');
    const dropped = await write(pool, 'dropped');
    await dropped.client.query('rollback');
    for (const { client } of [kept, dropped]) client.release();
    expect(await resolve(pool, kept)).toBe('committed');
    expect(await resolve(pool, dropped)).toBe('aborted');
  });

  test('one that goes on is waited for, and unknown when time is up', async () => {
    const slow = await write(pool, 'slow');
    expect(await resolve(pool, slow, { timeoutMs: 200 })).toBe('unknown');
    const answer = resolve(pool, slow);
    await slow.client.query('commit');
    slow.client.release();
    expect(await answer).toBe('committed');
  });

  test('a mark from another cluster proves nothing', async () => {
    const one = await write(pool, 'foreign');
    await one.client.query('commit');
    one.client.release();
    const foreign = { ...one, mark: { ...one.mark, system: '1' } };
    expect(await resolve(pool, foreign)).toBe('unknown');
  });

  test('a server that has not heard of the timeline of the mark is not believed', async () => {
    const one = await write(pool, 'deposed');
    await one.client.query('rollback');
    one.client.release();
    const later = { ...one, mark: { ...one.mark, timeline: 2 } };
    expect(await resolve(pool, later, { timeoutMs: 300 })).toBe('unknown');
  });

  test('the functions tell nobody but the application, and only of tokens', async () => {
    const { mark, client } = await write(pool, 'rights');
    await client.query('rollback');
    client.release();
    const short = pool.query('select banyan.log_holds($1::pg_lsn, $2::int[], $3::bytea)', [
      mark.lsn,
      [1],
      mark.token.subarray(1),
    ]);
    await expect(short).rejects.toThrow('a token has 16 bytes');
    const superuser = postgres.adopt(
      new pg.Pool({ connectionString: postgres.url(pool.options.database) }),
    );
    await superuser.query('create role stranger; grant usage on schema banyan to stranger');
    for (const call of [
      'banyan.timeline_history(2)',
      `banyan.log_holds('0/1', '{1}', '\\x${mark.token.toString('hex')}')`,
    ]) {
      await expect(superuser.query(`set role stranger; select ${call}`)).rejects.toMatchObject({
        code: '42501',
      });
      await superuser.query('reset role');
    }
  });
});

describe('the same server is started anew', () => {
  let postgres: TestPostgres;
  let superuser: pg.Pool;
  let pool: pg.Pool;

  beforeAll(async () => {
    postgres = await TestPostgres.start();
    superuser = await postgres.pool();
    // So that what was not committed stays in memory, and is lost with it.
    await superuser.query(SETUP);
    await superuser.query("alter system set wal_writer_delay = '10s'");
    await superuser.query('select pg_reload_conf()');
    pool = postgres.adopt(asApp(superuser));
  });
  afterAll(() => postgres?.remove());

  const restart = async () => {
    await postgres.kill();
    await postgres.start();
  };

  const crashWithin = () => killBackend(superuser);

  test.each([
    ['after SIGKILL', restart],
    ['when one backend dies and the postmaster lives', crashWithin],
  ])('%s a committed one is committed', async (_, crash) => {
    const kept = await write(pool, `kept ${_}`);
    await kept.client.query('commit');
    kept.client.release();
    await crash();
    expect(await resolve(pool, kept)).toBe('committed');
    const now = await write(pool, 'now');
    await now.client.query('rollback');
    now.client.release();
    expect(now.mark.memory).not.toBe(kept.mark.memory);
  });

  test.each([
    ['after SIGKILL', restart],
    ['when one backend dies and the postmaster lives', crashWithin],
  ])("%s one whose number is another's by now is aborted", async (_, crash) => {
    // Something else may have flushed the log, and with it the number, in between. Then it is tried again.
    const lost = await until(
      async () => {
        const one = await write(pool, `lost ${_}`);
        await crash();
        one.client.release(true);
        return (await useNumber(pool, one)) && one;
      },
      { what: 'the number is used again', timeoutMs: 50_000 },
    );
    expect(await statusOf(pool, lost)).toBe('committed');
    expect(await resolve(pool, lost)).toBe('aborted');
    expect(await isThere(pool, lost)).toBe(false);
  });

  test('in order: what was committed is committed, what was not is aborted, also without the functions', async () => {
    await superuser.query('drop schema banyan cascade');
    const kept = await write(pool, 'kept in order');
    await kept.client.query('commit');
    const cut = await write(pool, 'cut in order');
    await postgres.stop();
    for (const { client } of [kept, cut]) client.release(true);
    await postgres.start();
    expect(await resolve(pool, kept)).toBe('committed');
    expect(await resolve(pool, cut)).toBe('aborted');
    expect(await isThere(pool, cut)).toBe(false);
    await superuser.query(outcomeFunctions('app'));
  });

  /** Moves the end of the log to a place on a page, by records of no meaning, in steps of 8 bytes. */
  async function moveLogTo(client: pg.PoolClient, goal: number): Promise<void> {
    for (;;) {
      const { rows } = await client.query<{ at: number }>(
        "select ((pg_current_wal_insert_lsn() - '0/0') % 8192)::int as at",
      );
      const distance = (goal - rows[0]!.at + 8192) % 8192;
      if (distance === 0) return;
      // Such a record has 57 bytes and what it says; no more than 240 in all, and no less is left over.
      const size = Math.min(240, distance < 304 ? distance : distance - 64);
      await client.query("select pg_logical_emit_message(false, '123456', $1::bytea)", [
        Buffer.alloc(Math.max(64, size) - 57),
      ]);
    }
  }

  const holds = async ({ lsn, token }: CommitMark) => {
    const { rows } = await pool.query(
      'select banyan.log_holds($1::pg_lsn, $2::int[], $3::bytea) as holds',
      [lsn, [1], token],
    );
    return rows[0].holds;
  };

  // 80 bytes of record and 24 of the next page's header behind it.
  test.each([
    ['in the middle of a page', 4_000, 4_080],
    ['at its end', 8_112, 0],
    ['over two pages, the token but for a byte before the header', 8_120, 32],
    ['over two pages, the token on both sides of the header', 8_128, 40],
    ['over two pages, the token after the header', 8_144, 56],
  ])('a marker is found %s, and no other in its place', async (_, start, end) => {
    const mark = await until(async () => {
      const client = await pool.connect();
      await client.query('begin');
      await client.query("insert into notes values ('placed')");
      await moveLogTo(client, start);
      const made = (await markCommit(client))!;
      await client.query('commit');
      client.release();
      // Unless some other process has written in between.
      return Number(parseLsn(made.lsn) % 8192n) === end && made;
    });
    expect(await holds(mark)).toBe(true);
    expect(await holds({ ...mark, token: randomBytes(16) })).toBe(false);
  });

  test('without the functions nothing is proven', async () => {
    const kept = await write(pool, 'managed');
    await kept.client.query('commit');
    kept.client.release();
    await superuser.query('drop schema banyan cascade');
    expect(await resolve(pool, kept)).toBe('committed');
    await restart();
    expect(await resolve(pool, kept)).toBe('unknown');
    await superuser.query(outcomeFunctions('app'));
    expect(await resolve(pool, kept)).toBe('committed');
  });
});

describe('another server takes over', () => {
  let pair: StandbyPair;
  let app: pg.Pool;
  let promoted: pg.Pool;
  const written: Record<string, Written> = {};

  beforeAll(async () => {
    pair = await StandbyPair.start();
    await pair.primary.query(SETUP);
    app = asApp(pair.primary);

    written.committed = await write(app, 'committed');
    commitUnheard(written.committed);
    written.arrived = await write(app, 'arrived');
    // Not only in the log of the primary, but sent.
    await pair.primary.query("insert into notes values ('after')");
    await pair.caughtUp();
    await freezeSenders(pair.primary);
    commitUnheard(written.arrived);
    // Two that the standby never hears of, one of which the primary has committed.
    written.reused = await write(app, 'reused');
    await written.reused.client.query('commit');
    written.last = await write(app, 'last');
    await killServer(pair.primary);
    for (const { client } of Object.values(written)) client.release(true);
    await pair.standby.query('select pg_promote()');
    promoted = asApp(pair.standby);
    // Takes writes, too, when it is promoted.
    await until(() => useNumber(promoted, written.reused!), { what: 'the number is used again' });
  });
  afterAll(async () => {
    await Promise.all([app?.end(), promoted?.end()]);
    await pair?.remove();
  });

  test('what arrived with its COMMIT is committed', async () => {
    expect(await resolve(promoted, written.committed!)).toBe('committed');
    expect(await isThere(promoted, written.committed!)).toBe(true);
  });

  test('what arrived without its COMMIT is aborted', async () => {
    expect(await resolve(promoted, written.arrived!)).toBe('aborted');
    expect(await isThere(promoted, written.arrived!)).toBe(false);
  });

  test('what never arrived is aborted, though somebody else has committed with its number', async () => {
    expect(await statusOf(promoted, written.reused!)).toBe('committed');
    expect(await resolve(promoted, written.reused!)).toBe('aborted');
    expect(await isThere(promoted, written.reused!)).toBe(false);
  });

  test('what never arrived is aborted, whose number nobody has used', async () => {
    expect(await resolve(promoted, written.last!)).toBe('aborted');
    expect(await isThere(promoted, written.last!)).toBe(false);
  });

  test('and so it is after the next failover', async () => {
    const second = await write(promoted, 'second');
    await second.client.query('commit');
    second.client.release();
    expect(second.mark.timeline).toBe(2);
    await promoteAgain(pair.standby);
    const { rows } = await pair.standby.query('select banyan.timeline_history(3) as history');
    expect(rows[0].history).toMatch(/^1\t.*\n\n?2\t/);
    expect(await resolve(promoted, second)).toBe('committed');
    expect(await resolve(promoted, written.committed!)).toBe('committed');
    for (const name of ['arrived', 'reused', 'last']) {
      expect([name, await resolve(promoted, written[name]!)]).toEqual([name, 'aborted']);
    }
  });

  test('when that part of the log is gone, the history alone proves what was left behind', async () => {
    await until(async () => {
      await pair.standby.query('select pg_switch_wal()');
      await pair.standby.query('checkpoint');
      return (await resolve(promoted, written.committed!)) === 'unknown';
    });
    expect(await resolve(promoted, written.reused!)).toBe('aborted');
  });
});

/** Makes the server a standby that nobody sends anything, and promotes it: a timeline more. */
async function promoteAgain(pool: pg.Pool): Promise<void> {
  const { rows } = await pool.query("select current_setting('data_directory') as folder");
  const signal = path.join(rows[0].folder, 'standby.signal');
  const { uid, gid } = await stat(rows[0].folder);
  await writeFile(signal, '');
  await chown(signal, uid, gid);
  await killServer(pool);
  await until(async () => (await pool.query('select pg_promote()')).rowCount, {
    what: 'the server is back and promoted',
  });
}

describe('with a synchronous standby', () => {
  let pair: StandbyPair;
  let app: pg.Pool;

  beforeAll(async () => {
    pair = await StandbyPair.start();
    app = asApp(pair.primary);
    await pair.primary.query(SETUP);
    await pair.caughtUp();
    await pair.primary.query("alter system set synchronous_standby_names = '*'");
    await pair.primary.query('select pg_reload_conf()');
    await until(async () => {
      const { rows } = await pair.primary.query('select sync_state from pg_stat_replication');
      return rows[0]?.sync_state === 'sync';
    });
  });
  afterAll(async () => {
    await app?.end();
    await pair?.remove();
  });

  const somebodyWaits = () =>
    until(async () => {
      const { rowCount } = await pair.primary.query(
        "select from pg_stat_activity where wait_event = 'SyncRep'",
      );
      return rowCount === 1;
    });

  test('a COMMIT that waits for it is neither known nor disturbed', async () => {
    const waiting = await write(app, 'waiting');
    const goOn = await freezeSenders(pair.primary);
    const committed = waiting.client.query('commit');
    await somebodyWaits();
    expect(await resolve(app, waiting, { timeoutMs: 500 })).toBe('unknown');
    const answer = resolve(app, waiting);
    goOn();
    expect(await answer).toBe('committed');
    expect((await committed).command).toBe('COMMIT');
    waiting.client.release();
    expect(await isThere(pair.standby, waiting)).toBe(true);
  });

  test('a COMMIT whose wait was cancelled is not called committed until the standby has it', async () => {
    const cancelled = await write(app, 'cancelled');
    const goOn = await freezeSenders(pair.primary);
    const committed = cancelled.client.query('commit');
    await somebodyWaits();
    await pair.primary.query(
      "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'",
    );
    // So PostgreSQL says, with a warning that nobody reads.
    expect((await committed).command).toBe('COMMIT');
    cancelled.client.release();
    expect(await resolve(app, cancelled, { timeoutMs: 500 })).toBe('unknown');
    goOn();
    expect(await resolve(app, cancelled)).toBe('committed');
  });

  test('a COMMIT that only the dead primary had is not called committed until the standby has it', async () => {
    const alone = await write(app, 'alone');
    const goOn = await freezeReceiver(pair.standby);
    commitUnheard(alone);
    await somebodyWaits();
    await killServer(pair.primary);
    alone.client.release(true);
    // A start from the log shows it without waiting for anyone.
    await until(() => isThere(pair.primary, alone), { what: 'the primary is back' });
    expect(await resolve(app, alone, { timeoutMs: 1_000 })).toBe('unknown');
    expect(await isThere(pair.standby, alone)).toBe(false);
    goOn();
    expect(await resolve(app, alone)).toBe('committed');
    expect(await isThere(pair.standby, alone)).toBe(true);
  });

  test('a crash that the postmaster survives is noticed by this version, too', async () => {
    const kept = await write(app, 'kept');
    await kept.client.query('commit');
    await killBackend(pair.primary);
    kept.client.release(true);
    const later = await until(() => write(app, 'later'));
    later.client.release(true);
    expect(later.mark.memory).not.toBe(kept.mark.memory);
    expect(await resolve(app, kept)).toBe('committed');
  });
});
