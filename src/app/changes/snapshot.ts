/**
 * Which transactions have ended, by what PostgreSQL says of its running ones. Pure.
 *
 * Why: a commit is in the log, and may be told from there, **before anybody sees it**: its session flushes the record,
 * waits for the synchronous standby, and only then leaves the list of running transactions. Who looks into the
 * tables because of what the log told would see the old rows, and what a failover loses would have been told.
 * (RecordTransactionCommit, SyncRepWaitForLSN, ProcArrayEndTransaction in src/backend/access/transam/xact.c)
 */

/** A `pg_snapshot`, from `pg_current_snapshot()`. */
export interface Snapshot {
  /** All before it have ended. */
  readonly xmin: bigint;
  /** This and all after it had not begun. */
  readonly xmax: bigint;
  /** Those between the two that were running. */
  readonly running: ReadonlySet<bigint>;
}

/** @param text `xmin:xmax:running,…` */
export function parseSnapshot(text: string): Snapshot {
  const [xmin, xmax, running] = text.split(':');
  if (!xmin || !xmax || running === undefined) throw new TypeError(`not a pg_snapshot: ${text}`);
  return {
    xmin: BigInt(xmin),
    xmax: BigInt(xmax),
    running: new Set(running === '' ? [] : running.split(',').map(BigInt)),
  };
}

/** The text of {@link parseSnapshot}. */
export function renderSnapshot({ xmin, xmax, running }: Snapshot): string {
  return `${xmin}:${xmax}:${[...running].join(',')}`;
}

/** Whether a transaction had ended when the snapshot was taken; its outcome is then seen by all. */
export function hasEnded(xid: bigint, { xmin, xmax, running }: Snapshot): boolean {
  return xid < xmin || (xid < xmax && !running.has(xid));
}

/**
 * The number with its epoch. The log tells the lower half; both numbers are of the same time, so the upper half is the
 * one that brings them nearest to each other.
 */
export function fullXid(short: number, { xmax }: Snapshot): bigint {
  const span = 1n << 32n;
  const near = xmax - (xmax % span) + BigInt(short);
  if (near > xmax + span / 2n && near >= span) return near - span;
  if (near < xmax - span / 2n) return near + span;
  return near;
}
