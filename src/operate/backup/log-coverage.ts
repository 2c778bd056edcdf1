/**
 * Which of the log is in the repository, and where something is missing. Pure.
 *
 * A segment's name is timeline, and number in two parts, eight hexadecimal digits each. Of a timeline's history
 * follows, for each number, the one file that a server on that timeline replays. (XLogFileName,
 * src/include/access/xlog_internal.h)
 */
import type { TimelineHistory } from '../../app/database/timelines.ts';

/** Banyan's servers are made with PostgreSQL's default. */
export const SEGMENT_BYTES = 16 * 1024 * 1024;
const SEGMENTS_PER_FILE_ID = 0x1_0000_0000 / SEGMENT_BYTES;

export interface Segment {
  timeline: number;
  number: number;
}

/** @returns undefined for what is no whole segment: history, `.partial`, `.backup` */
export function parseSegment(name: string): Segment | undefined {
  const [, timeline, high, low] =
    /^([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})(?:-|$)/.exec(name) ?? [];
  if (!timeline || !high || !low) return undefined;
  return {
    timeline: Number.parseInt(timeline, 16),
    number: Number.parseInt(high, 16) * SEGMENTS_PER_FILE_ID + Number.parseInt(low, 16),
  };
}

export function segmentName({ timeline, number }: Segment): string {
  const hex = (value: number) => value.toString(16).toUpperCase().padStart(8, '0');
  return `${hex(timeline)}${hex(Math.floor(number / SEGMENTS_PER_FILE_ID))}${hex(number % SEGMENTS_PER_FILE_ID)}`;
}

/** The timeline whose file a server on `current` replays for a number: the last that has a byte of it. */
export function timelineOf(number: number, current: number, history: TimelineHistory): number {
  const end = BigInt(number + 1) * BigInt(SEGMENT_BYTES);
  const older = history.find(({ leftAt }) => leftAt >= end);
  return older?.timeline ?? current;
}

export interface Coverage {
  /** The last number up to which nothing is missing; `from - 1` when the first is. */
  until: number;
  /** Numbers that are missing although later ones are there. */
  missing: number[];
}

/** A long gap is told by its beginning. */
const MISSING_LIMIT = 1_000;

/**
 * @param archived names of the files in the repository
 * @param from number of the first segment that is needed
 * @param current the timeline whose course is followed
 */
export function coverageOf(
  archived: Iterable<string>,
  from: number,
  current: number,
  history: TimelineHistory,
): Coverage {
  const there = new Set<string>();
  let last = from - 1;
  for (const name of archived) {
    const segment = parseSegment(name);
    if (!segment || segment.timeline !== timelineOf(segment.number, current, history)) continue;
    there.add(segmentName(segment));
    last = Math.max(last, segment.number);
  }
  const missing: number[] = [];
  let until: number | undefined;
  for (let number = from; number <= last && missing.length < MISSING_LIMIT; number++) {
    const name = segmentName({ timeline: timelineOf(number, current, history), number });
    if (there.has(name)) continue;
    until ??= number - 1;
    missing.push(number);
  }
  return { until: until ?? last, missing };
}
