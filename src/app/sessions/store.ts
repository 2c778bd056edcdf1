/**
 * Sessions in PostgreSQL: the table `banyan.sessions`, made on first use.
 *
 * Holds true here:
 * - A change is a patch of the keys that the request changed, applied in the database: two requests
 *   of one session that change different keys both keep their change.
 * - A stored session is only ever updated, never inserted again: once it is destroyed, a slower request
 *   of it changes nothing and brings nothing back.
 * - The key is a hash of the id (see `cookie.ts`).
 */
import type pg from 'pg';

export interface StoredSession {
  userId: string | undefined;
  data: Record<string, unknown>;
  /** What is left until it expires. */
  remainingMs: number;
}

/** What a request changed. */
export interface SessionPatch {
  set: Record<string, unknown>;
  removed: string[];
}

interface Row {
  user_id: string | null;
  data: Record<string, unknown>;
  version: string;
  remaining_ms: number;
}

type Database = Pick<pg.Pool | pg.PoolClient, 'query'>;

/** Names the lock in `pg_locks` under which the table is made. Arbitrary and ours alone. */
const LOCK = 7_233_402_118_532n;

const SCHEMA = `
  begin;
  select pg_advisory_xact_lock(${LOCK});
  create schema if not exists banyan;
  create table if not exists banyan.sessions (
    id bytea primary key,
    user_id text,
    data jsonb not null,
    version bigint not null default 1,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null
  );
  create index if not exists sessions_user_id on banyan.sessions (user_id) where user_id is not null;
  create index if not exists sessions_expires_at on banyan.sessions (expires_at);
  commit;`;

/**
 * `update` compares and sets; when others were faster this often, the session is in a storm, and
 * the update queues up for the row instead.
 */
const OPTIMISTIC_ROUNDS = 3;

/** The queue moves by one at each commit; who waits for longer than this waits for a fault. */
const LOCK_TIMEOUT_MS = 10_000;

/** Expired rows are deleted in portions, so that no delete holds locks for long. */
const SWEEP_ROWS = 1_000;

const EXPIRES_AT = (parameter: string) => `now() + ${parameter} * interval '1 millisecond'`;

export class SessionStore {
  readonly #pool: pg.Pool;
  readonly #ttlMs: number;
  #prepared: Promise<void> | undefined;

  /** @param ttlMs how long a session lives after its last use */
  constructor(pool: pg.Pool, ttlMs: number) {
    this.#pool = pool;
    this.#ttlMs = ttlMs;
  }

  async load(key: Buffer): Promise<StoredSession | undefined> {
    const row = await this.#load(key);
    return row && toSession(row);
  }

  async create(
    key: Buffer,
    userId: string | undefined,
    data: Record<string, unknown>,
  ): Promise<StoredSession> {
    await this.#prepare();
    await this.#pool.query(
      `insert into banyan.sessions (id, user_id, data, expires_at)
       values ($1, $2, $3, ${EXPIRES_AT('$4')})`,
      [key, userId ?? null, JSON.stringify(data), this.#ttlMs],
    );
    return { userId, data, remainingMs: this.#ttlMs };
  }

  /** Applies what a request changed and extends the session's life. @returns false when it is gone */
  async patch(key: Buffer, { set, removed }: SessionPatch): Promise<boolean> {
    await this.#prepare();
    const { rowCount } = await this.#pool.query(
      `update banyan.sessions
       set data = (data || $2::jsonb) - $3::text[], version = version + 1,
           expires_at = ${EXPIRES_AT('$4')}
       where id = $1 and expires_at > now()`,
      [key, JSON.stringify(set), removed, this.#ttlMs],
    );
    return rowCount === 1;
  }

  /** Extends the session's life. @returns false when it is gone */
  async touch(key: Buffer): Promise<boolean> {
    await this.#prepare();
    const { rowCount } = await this.#pool.query(
      `update banyan.sessions set expires_at = ${EXPIRES_AT('$2')}
       where id = $1 and expires_at > now()`,
      [key, this.#ttlMs],
    );
    return rowCount === 1;
  }

  /**
   * Gives the session a new id in one statement: the old one opens nothing from then on, and what
   * concurrent requests put in before is carried over.
   * @returns undefined when the session is gone: it is not brought back
   */
  async rotate(
    oldKey: Buffer,
    newKey: Buffer,
    { set, removed }: SessionPatch,
  ): Promise<StoredSession | undefined> {
    await this.#prepare();
    const { rows } = await this.#pool.query<Row>(
      `with old as (
         delete from banyan.sessions where id = $1 and expires_at > now() returning user_id, data
       )
       insert into banyan.sessions (id, user_id, data, expires_at)
       select $2, user_id, (data || $3::jsonb) - $4::text[], ${EXPIRES_AT('$5')} from old
       returning user_id, data, $5::float8 as remaining_ms`,
      [oldKey, newKey, JSON.stringify(set), removed, this.#ttlMs],
    );
    return rows[0] && toSession(rows[0]);
  }

  /**
   * As `rotate`, for a user who has just proved who they are: if the session is gone they get a new
   * one, without its data.
   */
  async rotateAtLogin(
    oldKey: Buffer,
    newKey: Buffer,
    userId: string,
    { set, removed }: SessionPatch,
  ): Promise<StoredSession> {
    await this.#prepare();
    const { rows } = await this.#pool.query<Row>(
      `with old as (
         delete from banyan.sessions where id = $1 and expires_at > now() returning data
       )
       insert into banyan.sessions (id, user_id, data, expires_at)
       select $2, $3, (coalesce((select data from old), '{}') || $4::jsonb) - $5::text[],
              ${EXPIRES_AT('$6')}
       returning user_id, data, $6::float8 as remaining_ms`,
      [oldKey, newKey, userId, JSON.stringify(set), removed, this.#ttlMs],
    );
    return toSession(rows[0]!);
  }

  /**
   * Changes one value by what it was, never losing what another request does meanwhile.
   * @returns the session's data afterwards; undefined when the session is gone
   */
  async update(
    key: Buffer,
    name: string,
    change: (value: unknown) => unknown,
  ): Promise<Record<string, unknown> | undefined> {
    for (let round = 0; round < OPTIMISTIC_ROUNDS; round++) {
      const row = await this.#load(key);
      if (!row) return undefined;
      const changed = await this.#compareAndSet(this.#pool, key, name, row, change);
      if (changed) return changed;
    }
    return this.#updateInTurn(key, name, change);
  }

  async #updateInTurn(
    key: Buffer,
    name: string,
    change: (value: unknown) => unknown,
  ): Promise<Record<string, unknown> | undefined> {
    const client = await this.#pool.connect();
    let fault: unknown;
    try {
      await client.query(`begin; set local lock_timeout = ${LOCK_TIMEOUT_MS}`);
      const row = await this.#load(key, client, 'for update');
      const data = row && (await this.#compareAndSet(client, key, name, row, change));
      await client.query('commit');
      return data;
    } catch (error) {
      fault = error;
      throw error;
    } finally {
      // Closed, not kept, after a fault: the transaction goes with it.
      client.release(fault !== undefined);
    }
  }

  async #compareAndSet(
    database: Database,
    key: Buffer,
    name: string,
    { data, version }: Row,
    change: (value: unknown) => unknown,
  ): Promise<Record<string, unknown> | undefined> {
    const value = change(Object.hasOwn(data, name) ? data[name] : undefined);
    const { rows } = await database.query<Row>(
      `update banyan.sessions
       set data = ${value === undefined ? 'data - $2::text' : 'jsonb_set(data, array[$2::text], $4::jsonb)'},
           version = version + 1
       where id = $1 and version = $3 returning data`,
      [key, name, version, ...(value === undefined ? [] : [JSON.stringify(value)])],
    );
    return rows[0]?.data;
  }

  async destroy(key: Buffer): Promise<void> {
    await this.#prepare();
    await this.#pool.query('delete from banyan.sessions where id = $1', [key]);
  }

  /** @returns how many there were */
  async destroyAllOf(userId: string): Promise<number> {
    await this.#prepare();
    const { rowCount } = await this.#pool.query('delete from banyan.sessions where user_id = $1', [
      userId,
    ]);
    return rowCount ?? 0;
  }

  /** Deletes what has expired. Several processes may do so at once. */
  async sweep(): Promise<number> {
    await this.#prepare();
    for (let total = 0; ; ) {
      const { rowCount } = await this.#pool.query(
        `delete from banyan.sessions where id in (
           select id from banyan.sessions where expires_at <= now()
           limit ${SWEEP_ROWS} for update skip locked)`,
      );
      total += rowCount ?? 0;
      if ((rowCount ?? 0) < SWEEP_ROWS) return total;
    }
  }

  async #load(
    key: Buffer,
    database: Database = this.#pool,
    lock: 'for update' | '' = '',
  ): Promise<Row | undefined> {
    await this.#prepare();
    const { rows } = await database.query<Row>(
      `select user_id, data, version,
              extract(epoch from expires_at - now())::float8 * 1000 as remaining_ms
       from banyan.sessions where id = $1 and expires_at > now() ${lock}`,
      [key],
    );
    return rows[0];
  }

  #prepare(): Promise<void> {
    this.#prepared ??= this.#makeTable().catch(error => {
      this.#prepared = undefined;
      throw error;
    });
    return this.#prepared;
  }

  /** Looks first: an account that may only use the table need not be allowed to make it. */
  async #makeTable(): Promise<void> {
    const { rows } = await this.#pool.query<{ found: boolean }>(
      `select to_regclass('banyan.sessions_expires_at') is not null as found`,
    );
    if (!rows[0]?.found) await this.#pool.query(SCHEMA);
  }
}

function toSession({ user_id, data, remaining_ms }: Row): StoredSession {
  return { userId: user_id ?? undefined, data, remainingMs: remaining_ms };
}
