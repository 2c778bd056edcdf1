/**
 * The catalog: what of a deployment must be durable and agreed. A few tables in the schema `banyan` of its
 * database: what the web tier should be, the journal of operations, the releases.
 *
 * What *runs* is not in here: that is asked from the machines each time, so it cannot drift.
 */
import type pg from 'pg';
import { createPool } from '../app/database/pool.ts';

/** Names the lock that makes operations wait for each other in `pg_locks`. Arbitrary and ours alone. */
export const OPERATION_LOCK = 7_233_402_118_540n;
const SCHEMA_LOCK = 7_233_402_118_541n;

const SCHEMA = `
  begin;
  select pg_advisory_xact_lock(${SCHEMA_LOCK});
  create schema if not exists banyan;
  create table if not exists banyan.settings (
    key text primary key,
    value jsonb not null,
    changed_at timestamptz not null default now()
  );
  create table if not exists banyan.operations (
    id bigint generated always as identity primary key,
    kind text not null,
    summary text not null,
    before jsonb,
    after jsonb not null,
    state text not null,
    steps jsonb not null default '[]',
    error text,
    controller text not null,
    started_at timestamptz not null default now(),
    ended_at timestamptz
  );
  create table if not exists banyan.releases (
    number int primary key,
    folder text not null,
    details jsonb not null,
    created_at timestamptz not null default now()
  );
  commit;`;

export class Catalog {
  readonly pool: pg.Pool;

  private constructor(pool: pg.Pool) {
    this.pool = pool;
  }

  /**
   * @param url with the owner's credentials
   * @param mapFile the runtime map: an operation that moves the database, or changes its primary, is followed
   */
  static async open(url: string, mapFile?: string): Promise<Catalog> {
    const pool = createPool({
      connectionString: url,
      ...(mapFile ? { mapFile } : {}),
      max: 3,
      application_name: 'banyan',
      connectionTimeoutMillis: 10_000,
    });
    // It goes on through a restart of the database: what fails is the query, not the process.
    pool.on('error', () => {});
    const { rows } = await pool.query<{ found: boolean }>(
      `select to_regclass('banyan.releases') is not null as found`,
    );
    if (!rows[0]?.found) await pool.query(SCHEMA);
    return new Catalog(pool);
  }

  async read<T>(key: string): Promise<T | undefined> {
    const { rows } = await this.pool.query<{ value: T }>(
      'select value from banyan.settings where key = $1',
      [key],
    );
    return rows[0]?.value;
  }

  async write(key: string, value: unknown): Promise<void> {
    await this.pool.query(
      `insert into banyan.settings (key, value) values ($1, $2)
       on conflict (key) do update set value = excluded.value, changed_at = now()`,
      [key, JSON.stringify(value)],
    );
  }

  close(): Promise<void> {
    return this.pool.end();
  }
}
