/**
 * Timelines: what became of a place in the log when another server took over. Pure.
 *
 * Holds true here: a server's history is a path. Its log is that of the first timeline up to where the second
 * left it, then that of the second, and so on to its own; nothing that was written to a timeline after it
 * was left is part of it.
 *
 * The file `pg_wal/0000000N.history` of timeline N has a line for each timeline before it: its number, the
 * position where it was left, and why. Timeline 1 has no file. (src/backend/access/transam/timeline.c)
 */

/** What a primary writes on now, in SQL. A standby refuses it. */
export const CURRENT_TIMELINE =
  "('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int";

/** A position in the log, in bytes: PostgreSQL's `pg_lsn`. */
export type Lsn = bigint;

/** The timelines that a server went through before its own, the oldest first. */
export type TimelineHistory = readonly { timeline: number; leftAt: Lsn }[];

/** @param text as PostgreSQL prints it: `16/B374D848` */
export function parseLsn(text: string): Lsn {
  const [, high, low] = /^([0-9A-F]{1,8})\/([0-9A-F]{1,8})$/i.exec(text) ?? [];
  if (!high || !low) throw new TypeError(`not a position in the log: ${text}`);
  return (BigInt(`0x${high}`) << 32n) | BigInt(`0x${low}`);
}

/** @param file the text of a `.history` file */
export function parseHistory(file: string): TimelineHistory {
  return file
    .split('\n')
    .map(line => line.trim())
    .filter(line => line !== '' && !line.startsWith('#'))
    .map(line => {
      const [timeline = '', leftAt = ''] = line.split(/\s+/);
      return { timeline: Number(timeline), leftAt: parseLsn(leftAt) };
    });
}

/**
 * Where a server's history left a timeline.
 * @param history of the server's own timeline, `current`
 * @returns `'never'` for its own timeline; undefined when the timeline is no part of its history
 */
export function leftAt(
  history: TimelineHistory,
  current: number,
  timeline: number,
): Lsn | 'never' | undefined {
  if (timeline === current) return 'never';
  return history.find(entry => entry.timeline === timeline)?.leftAt;
}
