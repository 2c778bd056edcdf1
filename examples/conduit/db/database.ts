/** The database as the rest of the application knows it, and what its errors mean. */
import type { Cache, Pool } from 'banyan';
import { type AnyColumn, type SQL, sql } from 'drizzle-orm';
import { drizzle } from 'drizzle-orm/node-postgres';

export type Database = ReturnType<typeof openDatabase>;
export type Transaction = Parameters<Parameters<Database['transaction']>[0]>[0];

/** What is read by many, or often: from the cache, else from the database. */
export interface Store {
  db: Database;
  cache: Cache;
}

export function openDatabase(pool: Pool) {
  return drizzle(pool);
}

/** PostgreSQL ends one of two transactions that wait for each other; it may simply start again. */
const WORTH_ANOTHER_TRY = new Set(['40001', '40P01']);
const TRIES = 3;

/** Runs `body` in a transaction, again if it lost a deadlock. */
export async function inTransaction<T>(
  db: Database,
  body: (tx: Transaction) => Promise<T>,
): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await db.transaction(body);
    } catch (error) {
      const code = postgresError(error)?.code;
      if (attempt === TRIES || !code || !WORTH_ANOTHER_TRY.has(code)) throw error;
    }
  }
}

/**
 * `column = any(array)`: one parameter however many values, so that the statement's text, and with it
 * its plan, stays the same.
 */
export function anyOf(column: AnyColumn, ids: Iterable<bigint>): SQL {
  return sql`${column} = any(${sql.param([...ids])}::bigint[])`;
}

export interface PostgresError extends Error {
  code: string;
  constraint?: string;
}

/** The database's own error, which Drizzle wraps; undefined when it is another's. */
export function postgresError(error: unknown): PostgresError | undefined {
  for (let at = error; at instanceof Error; at = at.cause) {
    if ('code' in at && 'severity' in at) return at as PostgresError;
  }
  return undefined;
}

/** The name of the unique constraint that refused a row. */
export function brokenUnique(error: unknown): string | undefined {
  const cause = postgresError(error);
  return cause?.code === '23505' ? cause.constraint : undefined;
}
