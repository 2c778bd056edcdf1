/**
 * What the database's log tells: the words of this room.
 *
 * Glossary
 * - *change*: what happened to one row, or to a table as a whole.
 * - *transaction*: the changes that were committed together, in the order in which they were made.
 * - *gap*: a part of the log that nobody can tell any more. What happened in it is unknown.
 * - *event*: a transaction or a gap.
 * - *slot*: the server's memory of how far a reader has got; it keeps the log from there on.
 * - *identity*: the columns of the old row that the log tells of an UPDATE or DELETE (REPLICA IDENTITY): the primary
 *   key, or all of them.
 */
import type { Lsn } from '../database/timelines.ts';

export type { Lsn };

/** Values as PostgreSQL prints them. A column that is missing is not known: see {@link Change}. */
export type Row = Readonly<Record<string, string | null>>;

export interface Change {
  readonly schema: string;
  readonly table: string;
  /**
   * `whole`: the transaction was too large to be told row by row; anything may have happened to rows of this table.
   */
  readonly kind: 'insert' | 'update' | 'delete' | 'truncate' | 'whole';
  /** The columns of the table's identity. */
  readonly key: readonly string[];
  /**
   * Of an UPDATE or DELETE, the old row as far as it is known: the columns of `key`. With REPLICA IDENTITY FULL
   * that is all of them.
   */
  readonly before?: Row;
  /**
   * Of an INSERT or UPDATE, the new row. Missing is a large value (TOAST) that an UPDATE left as it was, unless the
   * old row is known whole.
   */
  readonly after?: Row;
}

export interface Transaction {
  readonly kind: 'transaction';
  /** With its epoch: an `xid8`. */
  readonly xid: bigint;
  /** Where its commit record begins. */
  readonly commitLsn: Lsn;
  /** Where its commit record ends: what is to be acknowledged. */
  readonly endLsn: Lsn;
  readonly committedAt: Date;
  readonly changes: readonly Change[];
}

/**
 * - `first`: nobody has read with this slot before.
 * - `vanished`: the slot is gone, or another of the same name has taken its place, as after a failover to a server
 *   that did not have it.
 * - `invalidated`: the server gave up the log that was kept for it (`max_slot_wal_keep_size`).
 * - `diverged`: the server's history left ours: it was restored, or lost what an earlier primary had told.
 * - `other-cluster`: the rows are on another cluster than before.
 * - `unreadable`: the server could not read its own log for this slot, several times.
 */
export type GapReason =
  | 'first'
  | 'vanished'
  | 'invalidated'
  | 'diverged'
  | 'other-cluster'
  | 'unreadable';

export interface Gap {
  readonly kind: 'gap';
  readonly reason: GapReason;
  /** The last place up to which all was told, if it is known. Of `other-cluster`, on the former one. */
  readonly from: Lsn | undefined;
  /**
   * From here on all is told. A query that begins after the gap was told sees all that was committed before it.
   */
  readonly endLsn: Lsn;
}

export type ChangeEvent = Transaction | Gap;

/** As PostgreSQL prints a position: `16/B374D848`. */
export function formatLsn(lsn: Lsn): string {
  return `${(lsn >> 32n).toString(16).toUpperCase()}/${(lsn & 0xffff_ffffn).toString(16).toUpperCase()}`;
}
