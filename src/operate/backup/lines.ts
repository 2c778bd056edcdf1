/**
 * Lines: what became of the database with each restore. Pure.
 *
 * A restore to 11:00, done at 12:10, begins a new line: it is what was until 11:00, and then what was written from
 * 12:10 on. What was written in between belongs to the line that was left, and is still in the repository: asked for
 * the database of 11:30, it is that line's. Asked for 12:30, no backup that was made between 11:00 and 12:10 may be
 * used: it holds what the restore took back.
 *
 *     line 0  ──────────●─────────┤            timelines 1, 2 (a failover), left at 12:10
 *                       └ ─ ─ ─ ─ ├──────────  line 1: timeline 3 and on
 *                     11:00     12:10
 *
 * Holds true here: lines follow each other in time without a gap, the last is the present one, and its timelines have
 * higher numbers than all before (PostgreSQL takes the number after the highest in the archive).
 */

export interface Line {
  /** When it came into force; ISO 8601. */
  since: string;
  /** What it began as: another line as that was at a moment. Undefined for the first. */
  base?: { line: number; at: string };
  /** Its last timeline; undefined while it is the present one. */
  timeline?: number;
}

/** Of a database that was never restored. */
export const FIRST_LINES: readonly Line[] = [{ since: new Date(0).toISOString() }];

/** The line that was in force at a moment. */
export function lineAt(lines: readonly Line[], moment: Date): number {
  const found = lines.findLastIndex(({ since }) => new Date(since) <= moment);
  return Math.max(0, found);
}

/** What can be looked for among backups. */
interface Span {
  startedAt: Date;
  endedAt: Date;
}

/**
 * The newest of these backups that leads to a line as it was at a moment.
 * @param backups the oldest first
 */
export function backupFor<T extends Span>(
  backups: readonly T[],
  lines: readonly Line[],
  line: number,
  moment: Date,
): T | undefined {
  const times = timesOf(lines, line, moment);
  return backups.findLast(({ startedAt, endedAt }) =>
    times.some(({ from, to }) => startedAt >= from && endedAt <= to),
  );
}

/** When the line, up to a moment, was what ran: its own time, and those parts of others that it goes back to. */
export function timesOf(
  lines: readonly Line[],
  line: number,
  moment: Date,
): { from: Date; to: Date }[] {
  const { since, base } = lines[line]!;
  const from = new Date(since);
  const before = base
    ? timesOf(lines, base.line, new Date(Math.min(new Date(base.at).getTime(), moment.getTime())))
    : [];
  return moment < from ? before : [{ from, to: moment }, ...before];
}

/** The lines after a restore. @param timeline the last one of the line that is left */
export function afterRestore(
  lines: readonly Line[],
  timeline: number,
  base: { line: number; at: Date },
  now: Date,
): Line[] {
  const left = lines.map((each, index) =>
    index === lines.length - 1 ? { ...each, timeline } : each,
  );
  return [
    ...left,
    { since: now.toISOString(), base: { line: base.line, at: base.at.toISOString() } },
  ];
}
