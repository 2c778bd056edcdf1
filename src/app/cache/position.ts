/**
 * Where a database was: what the positions of entries and of transactions are, and which of them sees which.
 *
 * Holds true here: pure, and conservative. A transaction that is not certain to be seen is not seen.
 */
import { fullXid, hasEnded, type Snapshot } from '../changes/snapshot.ts';

/** What an entry's reads in one cluster saw, at least. */
export type Position =
  /**
   * Of a primary. `lsn`: where its log ended just after the snapshot was taken, or less: nothing that ended later is
   * seen. (A transaction id that a crash took back may be given again; what has it then ends later.)
   * `before`: where its log ended just before the snapshot was taken, or less: what was acknowledged while the log was
   * shorter is seen.
   */
  | {
      readonly kind: 'snapshot';
      readonly snapshot: Snapshot;
      readonly lsn: bigint;
      readonly before: bigint;
    }
  /** Of a standby: all that it had replayed. Also of a cluster that was not read from: where its feed was. */
  | { readonly kind: 'replayed'; readonly lsn: bigint };

/** By the cluster's name. */
export type Positions = Readonly<Record<string, Position>>;

/** One that committed. */
export interface Commit {
  /** As pgoutput tells it: the lower 32 bits. Undefined for what has none (explicit tags). */
  readonly xid: number | undefined;
  /** Where its commit record ends. */
  readonly lsn: bigint;
}

/** Whether a reader at `position` sees what the transaction did. */
export function sees(position: Position | undefined, commit: Commit): boolean {
  if (!position) return false;
  if (commit.lsn > position.lsn) return false;
  if (position.kind === 'replayed') return true;
  const { snapshot } = position;
  return commit.xid !== undefined && hasEnded(fullXid(commit.xid, snapshot), snapshot);
}

/**
 * What sees only what both see; undefined where that cannot be said: one of a primary and one of a standby. (What
 * has been replayed on a standby need not be visible on the primary yet.)
 */
export function weaker(a: Position, b: Position): Position | undefined {
  const lsn = least(a.lsn, b.lsn);
  if (a.kind === 'replayed' && b.kind === 'replayed') return { kind: 'replayed', lsn };
  if (a.kind === 'replayed' || b.kind === 'replayed') return undefined;
  const snapshot = {
    xmin: least(a.snapshot.xmin, b.snapshot.xmin),
    xmax: least(a.snapshot.xmax, b.snapshot.xmax),
    running: new Set([...a.snapshot.running, ...b.snapshot.running]),
  };
  return { kind: 'snapshot', snapshot, lsn, before: least(a.before, b.before) };
}

/** The same, that sees nothing that ended after `lsn`. */
export function capped(position: Position, lsn: bigint): Position {
  if (position.kind === 'replayed') {
    return position.lsn <= lsn ? position : { kind: 'replayed', lsn };
  }
  const { snapshot } = position;
  return {
    kind: 'snapshot',
    snapshot,
    lsn: least(position.lsn, lsn),
    before: least(position.before, lsn),
  };
}

/**
 * Whether a reader at `position` saw all that had been acknowledged when the log ended at `lsn`. On a primary the end of the log
 * *before* the snapshot decides: between a snapshot and the look at the log after it something may have been committed and acknowledged,
 * and more written behind it.
 */
export function covers(position: Position | undefined, lsn: bigint): boolean {
  if (!position) return false;
  // Strictly: a log that was not longer may have been looked at before the acknowledgement.
  return position.kind === 'replayed' ? position.lsn >= lsn : position.before > lsn;
}

function least(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}

/** 16 hexadecimal digits: texts compare as the numbers do, in Lua too, where numbers are doubles. */
export function lsnText(lsn: bigint): string {
  return lsn.toString(16).padStart(16, '0');
}

export function parseLsnText(text: string): bigint {
  return BigInt(`0x${text}`);
}
