/** The database as the rest of the application knows it, and what its errors mean. */
import type { Cache, Pool, Queue } from 'banyan';
import { type AnyColumn, type SQL, sql } from 'drizzle-orm';
import { drizzle, type NodePgDatabase } from 'drizzle-orm/node-postgres';
import type { PoolClient } from 'pg';

export type Database = ReturnType<typeof openDatabase>;
export type Transaction = NodePgDatabase;

/** What is read by many, or often: from the cache, else from the database. */
export interface Store {
  db: Database;
  cache: Cache;
}

/** What is written, and what is to be done about it: published in a transaction, both are there or neither. */
export interface Desk {
  db: Database;
  queue: Queue;
}

export function openDatabase(pool: Pool) {
  return drizzle({ client: pool });
}

/** Drizzle on a connection that is in a transaction. */
export function onClient(client: PoolClient): Transaction {
  return drizzle({ client });
}

/**
 * Runs `body` in the pool's transaction: again, if it lost a deadlock or its connection. What `body` publishes belongs
 * to it.
 */
export function inTransaction<T>(db: Database, body: (tx: Transaction) => Promise<T>): Promise<T> {
  return db.$client.transaction(client => body(onClient(client)));
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
