/**
 * Where a database was: what the positions of entries and of transactions are, and which of them sees which.
 *
 * Holds true here: pure, and conservative. A transaction that is not certain to be seen is not seen.
 */

/** `pg_current_snapshot()`: transactions below `xmin` are over, those from `xmax` on had not begun, `inProgress` were running. */
export interface Snapshot {
  readonly xmin: bigint;
  readonly xmax: bigint;
  readonly inProgress: readonly bigint[];
}

/** What an entry's reads in one cluster saw, at least. */
export type Position =
  /**
   * Of a primary. `lsn`: where its log ended just after the snapshot was taken, or less: nothing that ended later is
   * seen. (A transaction id that a crash took back may be given again; what has it then ends later.)
   */
  | { readonly kind: 'snapshot'; readonly snapshot: Snapshot; readonly lsn: bigint }
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

const XID_RANGE = 1n << 32n;
const HALF_RANGE = 1n << 31n;

/** Whether a reader at `position` sees what the transaction did. */
export function sees(position: Position | undefined, commit: Commit): boolean {
  if (!position) return false;
  if (commit.lsn > position.lsn) return false;
  if (position.kind === 'replayed') return true;
  return commit.xid !== undefined && isVisible(position.snapshot, commit.xid);
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
    inProgress: [...new Set([...a.snapshot.inProgress, ...b.snapshot.inProgress])],
  };
  return { kind: 'snapshot', snapshot, lsn };
}

/** The same, that sees nothing that ended after `lsn`. */
export function capped(position: Position, lsn: bigint): Position {
  return position.lsn <= lsn ? position : { ...position, lsn };
}

/** Whether a reader at `position` saw all that had been acknowledged when the log ended at `lsn`. */
export function covers(position: Position | undefined, lsn: bigint): boolean {
  if (!position) return false;
  // Strictly: a log that was not longer may have been looked at before the acknowledgement.
  return position.kind === 'replayed' ? position.lsn >= lsn : position.lsn > lsn;
}

function least(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}

/** @param xid the lower 32 bits: one of two billion around `xmax` is meant */
export function isVisible(snapshot: Snapshot, xid: number): boolean {
  const full = widen(xid, snapshot.xmax);
  if (full < snapshot.xmin) return true;
  return full < snapshot.xmax && !snapshot.inProgress.includes(full);
}

/** The transaction id with these lower 32 bits that is nearest to `near`. */
export function widen(xid: number, near: bigint): bigint {
  const full = near - (near % XID_RANGE) + BigInt(xid);
  if (full - near > HALF_RANGE) return full - XID_RANGE;
  if (near - full > HALF_RANGE) return full + XID_RANGE;
  return full;
}

/** @param text of `pg_current_snapshot()`: `742:746:742,744` */
export function parseSnapshot(text: string): Snapshot {
  const [xmin = '', xmax = '', list = ''] = text.split(':');
  return {
    xmin: BigInt(xmin),
    xmax: BigInt(xmax),
    inProgress: list === '' ? [] : list.split(',').map(BigInt),
  };
}

export function renderSnapshot({ xmin, xmax, inProgress }: Snapshot): string {
  return `${xmin}:${xmax}:${inProgress.join(',')}`;
}

/** 16 hexadecimal digits: texts compare as the numbers do, in Lua too, where numbers are doubles. */
export function lsnText(lsn: bigint): string {
  return lsn.toString(16).padStart(16, '0');
}

export function parseLsnText(text: string): bigint {
  return BigInt(`0x${text}`);
}
