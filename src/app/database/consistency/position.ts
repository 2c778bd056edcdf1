/**
 * How far a database has got: the words of this room.
 *
 * Glossary
 * - *position*: a timeline and an LSN on it. Positions of different timelines do not compare.
 * - *token*: the position that a reader has to be shown, at least.
 * - *scope*: those who share a token: an HTTP request, or, outside of requests, the process.
 * - *tick*: a number for a moment in this process. Two moments of the same microsecond have different ones.
 *
 * Holds true here: a token is asked from the primary after the write was acknowledged
 * (`pg_current_wal_insert_lsn`, which counts what is not flushed yet, so it is right with
 * `synchronous_commit = off` too). On a primary "the log is past the commit" does not mean that the commit is
 * visible; on a standby, where visibility follows replay, it does.
 */

export interface Position {
  readonly timeline: number;
  readonly lsn: bigint;
}

/** What has replayed up to `at` shows all that `token` asks for. */
export function covers(at: Position, token: Position): boolean {
  return at.timeline === token.timeline && at.lsn >= token.lsn;
}

/** XLOG_BLCKSZ. Of a server that was built with another size, positions are a few bytes too strict at times. */
const PAGE_BYTES = 8_192n;
/** SizeOfXLogShortPHD and SizeOfXLogLongPHD, src/include/access/xlog_internal.h. */
const PAGE_HEADER_BYTES = 24n;
const SEGMENT_HEADER_BYTES = 40n;

/**
 * From where the next record will begin to where the last one ended. When the last one ends with its page,
 * PostgreSQL counts the next page's header into the insert position (`XLogBytePosToRecPtr`, xlog.c), which a
 * standby reaches only with the next record: on a quiet primary, never.
 * @param segmentBytes `wal_segment_size`
 */
export function endOfLastRecord(insertLsn: bigint, segmentBytes: bigint): bigint {
  if (insertLsn % segmentBytes === SEGMENT_HEADER_BYTES) return insertLsn - SEGMENT_HEADER_BYTES;
  if (insertLsn % PAGE_BYTES === PAGE_HEADER_BYTES) return insertLsn - PAGE_HEADER_BYTES;
  return insertLsn;
}

let ticks = 0;

/** The number of this moment. Whoever got a lower one was earlier. */
export function tick(): number {
  return ++ticks;
}
