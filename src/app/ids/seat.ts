/**
 * A seat: a number that one process, or one thread, has for itself on this machine, without asking anyone but the file
 * system.
 *
 *     /tmp/banyan-ids/17.4     seat 17, held for the 4th time; in it the last millisecond that its ids may be of
 *
 * Holds true here:
 * - A holder writes how far it may go (the *mark*) before it makes ids of that time, then looks whether its file is
 *   still the newest of the seat. Whoever takes a seat makes the newer file first and reads the older one's mark
 *   then. So either the holder sees the newer file and makes no more ids, or its mark is seen; and the next holder
 *   begins after it. Nobody has to know whether a process is alive, and a clock that was set back does no harm.
 * - A seat may be taken when its mark has passed: its holder ended, or makes no ids, and takes another seat when it
 *   next wants to.
 *
 * What cleans `/tmp` takes files that are not used; a holder whose file is gone takes another seat.
 */
import { randomBytes, randomInt } from 'node:crypto';
import {
  chmodSync,
  closeSync,
  existsSync,
  fstatSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import path from 'node:path';
import { BanyanError, hasCode } from '../../errors.ts';
import { MACHINES, PROCESSES } from './layout.ts';

/** The environment variable that numbers the machine: 0 to 31. */
export const MACHINE_VARIABLE = 'BANYAN_MACHINE';

/** So far ahead a mark is written: one small write in this time. */
const MARK_AHEAD_MS = 10_000;
/** Written with all its digits, so that a write is never seen in half. */
const MARK_DIGITS = 16;

export class NoSeat extends BanyanError {
  constructor(folder: string, cause?: unknown) {
    super('NO_SEAT', {
      what: cause
        ? `Ids cannot be made: ${(cause as Error).message}`
        : `Ids cannot be made: all ${PROCESSES} seats of this machine were used in the last seconds`,
      where: folder,
      remedy: 'The folder must be one that this account may write to; TMPDIR names its place',
      cause,
    });
  }
}

export class MachineNumberWrong extends BanyanError {
  constructor(value: string) {
    super('MACHINE_NUMBER_WRONG', {
      what: `${MACHINE_VARIABLE} is ${JSON.stringify(value)}, and should be a whole number from 0 to ${MACHINES - 1}`,
      where: 'the environment',
      remedy: 'Give each machine, or container, a number of its own',
    });
  }
}

export interface Seat {
  /** Of machine and process together. */
  readonly number: number;
  /** No id of an earlier millisecond may be made on it. */
  readonly firstMs: number;
  /**
   * To be called before an id of that millisecond is made.
   * @returns false when the seat was lost: no more ids may be made on it
   */
  use(ms: number): boolean;
  /** Gives it back. */
  leave(): void;
}

/**
 * @param folder shared by all processes of the machine
 * @param places how many seats there are
 * @throws NoSeat, MachineNumberWrong
 */
export function takeSeat(
  folder = path.join(tmpdir(), 'banyan-ids'),
  now = Date.now,
  places = PROCESSES,
): Seat {
  const machine = machineNumber();
  try {
    makeFolder(folder);
    const seats = newestOf(readdirSync(folder));
    const start = randomInt(places);
    for (let i = 0; i < places; i++) {
      const place = (start + i) % places;
      const seat = FileSeat.take(folder, place, seats.get(place) ?? 0, machine, now());
      if (seat) return seat;
    }
  } catch (error) {
    throw new NoSeat(folder, error);
  }
  throw new NoSeat(folder);
}

class FileSeat implements Seat {
  readonly number: number;
  readonly firstMs: number;
  readonly #file: number;
  readonly #next: string;
  #markMs: number;
  #usedMs = 0;

  private constructor(number: number, firstMs: number, file: number, next: string, markMs: number) {
    this.number = number;
    this.firstMs = firstMs;
    this.#file = file;
    this.#next = next;
    this.#markMs = markMs;
  }

  /** @param newest which time it was taken last; 0: never */
  static take(
    folder: string,
    place: number,
    newest: number,
    machine: number,
    nowMs: number,
  ): FileSeat | undefined {
    const nameOf = (time: number) => path.join(folder, `${place}.${time}`);
    if (newest > 0 && readMark(nameOf(newest)) >= nowMs) return undefined;
    const draft = path.join(folder, `draft-${randomBytes(8).toString('hex')}`);
    const ownMark = nowMs + MARK_AHEAD_MS;
    writeFileSync(draft, digits(ownMark), { flag: 'wx' });
    try {
      // A link is made whole, and only if nobody else was faster.
      linkSync(draft, nameOf(newest + 1));
    } catch (error) {
      if (hasCode(error, 'EEXIST')) return undefined;
      throw error;
    } finally {
      rmSync(draft, { force: true });
    }
    const before = newest > 0 ? readMark(nameOf(newest)) : 0;
    const file = openSync(nameOf(newest + 1), 'r+');
    const seat = new FileSeat(
      machine * PROCESSES + place,
      Math.max(nowMs, before + 1),
      file,
      nameOf(newest + 2),
      ownMark,
    );
    if (before >= ownMark) seat.#write(before + MARK_AHEAD_MS);
    removeQuietly(nameOf(newest));
    return seat;
  }

  use(ms: number): boolean {
    if (ms > this.#markMs) {
      this.#write(ms + MARK_AHEAD_MS);
      if (this.#isLost()) return false;
    }
    this.#usedMs = ms;
    return true;
  }

  leave(): void {
    // The next holder may begin right after what was used.
    if (!this.#isLost()) this.#write(Math.max(this.#usedMs, this.firstMs - 1));
    closeSync(this.#file);
  }

  #write(markMs: number): void {
    writeSync(this.#file, digits(markMs), 0);
    this.#markMs = markMs;
  }

  /** Somebody else took it, or what cleans the folder did. */
  #isLost(): boolean {
    return fstatSync(this.#file).nlink === 0 || existsSync(this.#next);
  }
}

/** `BANYAN_MACHINE`, or a number made of the machine's name. @throws MachineNumberWrong */
function machineNumber(value = process.env[MACHINE_VARIABLE]): number {
  if (value === undefined || value === '') {
    let hash = 0;
    for (const byte of Buffer.from(hostname())) hash = (hash * 31 + byte) % MACHINES;
    return hash;
  }
  const number = Number(value);
  if (!Number.isInteger(number) || number < 0 || number >= MACHINES) {
    throw new MachineNumberWrong(value);
  }
  return number;
}

/** For every account, as `/tmp` itself: files are their makers' alone. */
function makeFolder(folder: string): void {
  try {
    mkdirSync(folder);
  } catch (error) {
    if (hasCode(error, 'EEXIST')) return;
    throw error;
  }
  chmodSync(folder, 0o1777);
}

/** The highest number of times by place. */
function newestOf(names: string[]): Map<number, number> {
  const newest = new Map<number, number>();
  for (const name of names) {
    const [, place, time] = /^(\d+)\.(\d+)$/.exec(name) ?? [];
    if (place === undefined) continue;
    newest.set(Number(place), Math.max(newest.get(Number(place)) ?? 0, Number(time)));
  }
  return newest;
}

/** 0 for a file that is gone: its holder will notice. */
function readMark(file: string): number {
  try {
    return Number(readFileSync(file, 'latin1'));
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return 0;
    // Of another account: taken for held.
    return Number.MAX_SAFE_INTEGER;
  }
}

function digits(ms: number): string {
  return String(ms).padStart(MARK_DIGITS, '0');
}

/** One of another account stays: the newer one counts. */
function removeQuietly(file: string): void {
  try {
    rmSync(file, { force: true });
  } catch {
    // See above.
  }
}
