/**
 * A write that came to a shard that does not own the row.
 *
 * Each sharded table has a CHECK constraint, the *guard*, on each shard, so nothing was kept. Through the pool it means that
 * this process's map is older than the shards: `map-watch.ts` reads the map again, and the statement is sent where it belongs
 * now. When the map says the same as before, the statement writes the key in a way that nobody could read (a
 * trigger, a rule), and the error is told.
 */
import { BanyanError, hasCode } from '../../../errors.ts';

/** The constraint's name. */
export const GUARD = 'banyan_shard_guard';

/** SQLSTATE of a row that a CHECK constraint refuses. */
const CHECK_VIOLATION = '23514';

export class RowBelongsElsewhere extends BanyanError {
  /** Nothing was kept of the statement; of its transaction neither, once that is rolled back. */
  readonly safeToRetry = true;
  /** The map has been read again since, and is another: what is run now goes where it belongs. */
  isMapNew = false;

  /** @param cause PostgreSQL's error */
  constructor(table: string, shard: string, cause: unknown) {
    super('ROW_BELONGS_ELSEWHERE', {
      what: `A row of ${table} was written to a shard that does not own it`,
      where: `shard ${shard}`,
      remedy:
        'Nothing of the statement was kept. The shards were just changed: run the whole of the transaction again. If it stays, a trigger or a rule changes the shard key',
      cause,
    });
  }
}

/** Whether it is the guard that refused a write. */
export function isMisplaced(error: unknown): error is { schema: string; table: string } {
  return (
    hasCode(error, CHECK_VIOLATION) && (error as { constraint?: unknown }).constraint === GUARD
  );
}

/**
 * The guard's error in words; any other as it is.
 * @param shard its id in the map
 */
export function explainMisplaced(error: unknown, shard: string): unknown {
  if (!isMisplaced(error)) return error;
  return new RowBelongsElsewhere(`${error.schema}.${error.table}`, shard, error);
}
