/**
 * The log in the servers' own folders (`pg_wal`): what of it the repository lacks.
 *
 * Two cases need it. A primary dies before it has archived its last segments; who takes over has received them and
 * does not archive them, since it did not write them (PostgreSQL's documentation, 27.2.9). And all servers are
 * lost while a disk can still be read: the last segments, among them the one that was being written, are in no archive.
 */
import { execFile } from 'node:child_process';
import { open, readdir, readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { parseHistory, parseLsn, type TimelineHistory } from '../../app/database/timelines.ts';
import { parseSegment, SEGMENT_BYTES } from './log-coverage.ts';

const PAGE_BYTES = 8_192;
/** xlp_pageaddr in XLogPageHeaderData, src/include/access/xlog_internal.h. */
const PAGE_ADDRESS_AT = 8;

/** A segment as one server has it. */
export interface FoundSegment {
  name: string;
  file: string;
  /**
   * How many bytes of it were written: what follows is of an older segment, whose file was taken again, or zeros after
   * a switch to the next. So less than a segment says nothing about whether it is complete.
   */
  writtenBytes: number;
}

/** The file that tells what a timeline came from. */
export function historyName(timeline: number): string {
  return `${timeline.toString(16).toUpperCase().padStart(8, '0')}.history`;
}

/** All whole segments and histories in a data folder's log; nothing when it cannot be read. */
export async function logFilesIn(
  dataFolder: string,
): Promise<{ segments: string[]; histories: string[] }> {
  const names = await readdir(path.join(dataFolder, 'pg_wal')).catch(() => []);
  return {
    segments: names.filter(name => /^[0-9A-F]{24}$/.test(name)).sort(),
    histories: names.filter(name => /^[0-9A-F]{8}\.history$/.test(name)).sort(),
  };
}

/** The course of a server's timeline, from its own folder. */
export async function historyIn(dataFolder: string, timeline: number): Promise<TimelineHistory> {
  if (timeline <= 1) return [];
  const file = path.join(dataFolder, 'pg_wal', historyName(timeline));
  return parseHistory(await readFile(file, 'utf8'));
}

/** @returns undefined for a file that holds nothing of this segment yet */
export async function examineSegment(
  dataFolder: string,
  name: string,
): Promise<FoundSegment | undefined> {
  const segment = parseSegment(name);
  if (!segment) return undefined;
  const file = path.join(dataFolder, 'pg_wal', name);
  const { size } = await stat(file);
  const begin = BigInt(segment.number) * BigInt(SEGMENT_BYTES);
  const handle = await open(file, 'r');
  try {
    const header = Buffer.alloc(PAGE_ADDRESS_AT + 8);
    let pages = 0;
    for (; (pages + 1) * PAGE_BYTES <= size; pages++) {
      await handle.read(header, 0, header.length, pages * PAGE_BYTES);
      const address = header.readBigUInt64LE(PAGE_ADDRESS_AT);
      if (address !== begin + BigInt(pages * PAGE_BYTES)) break;
    }
    return pages === 0 ? undefined : { name, file, writtenBytes: pages * PAGE_BYTES };
  } finally {
    await handle.close();
  }
}

/**
 * Of several servers' files of the same segment the one that goes the furthest: by its pages, and when these are equal
 * by its records.
 * @param bin with PostgreSQL's programs
 */
export async function furthest(
  found: readonly FoundSegment[],
  bin: string,
): Promise<FoundSegment | undefined> {
  const most = Math.max(...found.map(({ writtenBytes }) => writtenBytes));
  const candidates = found.filter(({ writtenBytes }) => writtenBytes === most);
  if (candidates.length < 2 || most === SEGMENT_BYTES) return candidates[0];
  const ends = await Promise.all(candidates.map(({ file }) => endOfRecords(file, bin)));
  const last = ends.toSorted((a, b) => (a < b ? -1 : 1)).at(-1)!;
  return candidates[ends.indexOf(last)];
}

/** Where the last record that can be read ends. */
async function endOfRecords(file: string, bin: string): Promise<bigint> {
  try {
    await promisify(execFile)(path.join(bin, 'pg_waldump'), ['--quiet', file]);
    return BigInt(Number.MAX_SAFE_INTEGER);
  } catch (error) {
    // "error in WAL record at 0/50000D8: invalid record length at 0/5000110: wanted 24, got 0"
    const text = String((error as { stderr?: string }).stderr ?? '');
    const lsn = /error in WAL record at ([0-9A-F]+\/[0-9A-F]+)/i.exec(text)?.[1];
    return lsn ? parseLsn(lsn) : 0n;
  }
}
