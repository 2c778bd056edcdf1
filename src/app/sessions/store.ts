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

/** `update` tries again when another request was faster; more rounds mean a session in a storm. */
const UPDATE_ROUNDS = 20;

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
  ): Promise<void> {
    await this.#prepare();
    await this.#pool.query(
      `insert into banyan.sessions (id, user_id, data, expires_at)
       values ($1, $2, $3, ${EXPIRES_AT('$4')})`,
      [key, userId ?? null, JSON.stringify(data), this.#ttlMs],
    );
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
   * @returns the data under the new id
   */
  async rotate(
    oldKey: Buffer,
    newKey: Buffer,
    userId: string | undefined,
    { set, removed }: SessionPatch,
  ): Promise<Record<string, unknown>> {
    await this.#prepare();
    const { rows } = await this.#pool.query<Row>(
      `with old as (
         delete from banyan.sessions where id = $1 and expires_at > now() returning data
       )
       insert into banyan.sessions (id, user_id, data, expires_at)
       select $2, $3, (coalesce((select data from old), '{}') || $4::jsonb) - $5::text[],
              ${EXPIRES_AT('$6')}
       returning data`,
      [oldKey, newKey, userId ?? null, JSON.stringify(set), removed, this.#ttlMs],
    );
    return rows[0]!.data;
  }

  /**
   * Changes one value by what it was, never losing what another request does meanwhile: compare the
   * version and set.
   * @returns the session's data afterwards; undefined when the session is gone
   */
  async update(
    key: Buffer,
    name: string,
    change: (value: unknown) => unknown,
  ): Promise<Record<string, unknown> | undefined> {
    for (let round = 0; round < UPDATE_ROUNDS; round++) {
      const row = await this.#load(key);
      if (!row) return undefined;
      const value = change(row.data[name]);
      const changed = await this.#pool.query<Row>(
        `update banyan.sessions
         set data = ${value === undefined ? 'data - $2::text' : 'jsonb_set(data, array[$2::text], $4::jsonb)'},
             version = version + 1
         where id = $1 and version = $3 returning data`,
        [key, name, row.version, ...(value === undefined ? [] : [JSON.stringify(value)])],
      );
      if (changed.rows[0]) return changed.rows[0].data;
    }
    throw new Error(`a session was changed by others ${UPDATE_ROUNDS} times in a row`);
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

  async #load(key: Buffer): Promise<Row | undefined> {
    await this.#prepare();
    const { rows } = await this.#pool.query<Row>(
      `select user_id, data, version,
              extract(epoch from expires_at - now())::float8 * 1000 as remaining_ms
       from banyan.sessions where id = $1 and expires_at > now()`,
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
