/**
 * Tells whoever wants to know what a function reads from the database: the cache, of a loader.
 *
 * Holds true here:
 * - It belongs to the asynchronous context: of what a function and all that it awaits send, everything is told.
 * - Who runs the statement says where it runs *before* it is sent, and may have to wait: what the watcher wants to
 *   know of the server has to be of before the read.
 * - What cannot be told spoils the watch, with a reason: it is never left out.
 * - While nobody watches, it costs one comparison.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import type pg from 'pg';

/** One database cluster's pool, as identity. */
export type Watched = pg.Pool;

export interface ReadWatch {
  /**
   * A statement is about to be sent to the primary.
   * @param address `host:port` of the connection, where it is known
   * @returns a promise when it has to wait. Never fails
   */
  atPrimary(pool: Watched, address?: string): Promise<void> | undefined;
  /** A read is about to be sent to a standby. @param lsn what it is known to have replayed */
  atStandby(pool: Watched, lsn: bigint | undefined): void;
  /** Further reads belong on the primary: the first was there. */
  staysOnPrimary(pool: Watched): boolean;
  /** It has been answered. @param result as pg gives it */
  answered(
    pool: Watched,
    text: string,
    values: readonly unknown[] | undefined,
    result: unknown,
  ): void;
  /** Something is read of which nothing is known. @param why completes "it …" */
  spoil(why: string): void;
}

const watches = new AsyncLocalStorage<ReadWatch | undefined>();
let isUsed = false;

/** Runs a function, and tells `watch` of its reads. */
export function watchReads<T>(watch: ReadWatch, fn: () => T): T {
  isUsed = true;
  return watches.run(watch, fn);
}

/** Runs a function whose reads are nobody's business. */
export function unwatched<T>(fn: () => T): T {
  return isUsed ? watches.run(undefined, fn) : fn();
}

export function currentWatch(): ReadWatch | undefined {
  return isUsed ? watches.getStore() : undefined;
}

/** The text and values of what `query` was given. */
export function partsOf(
  config: unknown,
  values: unknown,
): { text: string; values: readonly unknown[] | undefined } {
  if (typeof config === 'string') return { text: config, values: listOf(values) };
  const { text = '', values: own } = (config ?? {}) as { text?: string; values?: unknown[] };
  return { text, values: listOf(values) ?? own };
}

function listOf(values: unknown): readonly unknown[] | undefined {
  return Array.isArray(values) ? values : undefined;
}
