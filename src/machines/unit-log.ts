/**
 * The logs of units: every line to the unit's own rotated file, and to whoever listens.
 *
 * A line in the file is its time (ISO 8601, when the supervisor read it), a blank, and the line as
 * the unit wrote it: so the files of several units can be merged by time. The last lines of all units
 * are kept in memory too, so that a follower gets the past and the present without a gap.
 *
 * A log that cannot be written (a full disk) never stops a unit; the loss is told once.
 */
import { EventEmitter } from 'node:events';
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { StringDecoder } from 'node:string_decoder';
import { createStream, type RotatingFileStream } from 'rotating-file-stream';

export interface LogLine {
  /** ISO 8601. */
  time: string;
  unit: string;
  text: string;
}

export interface LogLimits {
  /** A file is rotated at this size. */
  maxFileMb: number;
  /** Rotated files kept beside the current one. */
  keepFiles: number;
}

/** Enough for a screen of each unit, and bounded. */
const RECENT_LINES = 2_000;
/** A line without an end must not fill the memory. */
const MAX_LINE_CHARS = 64 * 1024;

export class UnitLogs extends EventEmitter<{ line: [LogLine]; trouble: [Error] }> {
  readonly #folder: string;
  readonly #limits: LogLimits;
  readonly #files = new Map<string, RotatingFileStream>();
  readonly #recent: LogLine[] = [];
  #troubleTold = false;
  #closed = false;

  constructor(folder: string, limits: LogLimits) {
    super();
    this.setMaxListeners(0);
    this.#folder = folder;
    this.#limits = limits;
    mkdirSync(folder, { recursive: true, mode: 0o700 });
  }

  /** Reads a unit's output until it ends. */
  attach(unit: string, stream: Readable): void {
    const decoder = new StringDecoder('utf8');
    let rest = '';
    stream.on('data', (chunk: Buffer) => {
      const lines = (rest + decoder.write(chunk)).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) this.write(unit, line);
      if (rest.length > MAX_LINE_CHARS) {
        this.write(unit, rest);
        rest = '';
      }
    });
    stream.on('end', () => {
      if (rest) this.write(unit, rest);
    });
    stream.on('error', () => {});
  }

  write(unit: string, text: string): void {
    const line = { time: new Date().toISOString(), unit, text: text.replace(/\r$/, '') };
    // A pipe that is read late must not open a file again that nobody would close.
    if (!this.#closed) this.#fileOf(unit).write(`${line.time} ${line.text}\n`);
    this.#recent.push(line);
    if (this.#recent.length > RECENT_LINES) this.#recent.splice(0, RECENT_LINES / 10);
    this.emit('line', line);
  }

  /** The last `count` lines, oldest first, of one unit or of all. */
  recent(count: number, unit?: string): LogLine[] {
    const lines = unit ? this.#recent.filter(line => line.unit === unit) : this.#recent;
    return lines.slice(Math.max(0, lines.length - count));
  }

  /** Ends the files; resolves when what was written lies on the disk. */
  async close(): Promise<void> {
    this.#closed = true;
    const files = [...this.#files.values()];
    this.#files.clear();
    await Promise.all(
      files.map(
        file =>
          new Promise<void>(resolve => (file.destroyed ? resolve() : file.end(() => resolve()))),
      ),
    );
  }

  #fileOf(unit: string): RotatingFileStream {
    let file = this.#files.get(unit);
    if (!file) {
      file = createStream(index => (index ? `${unit}.log.${index}` : `${unit}.log`), {
        path: this.#folder,
        size: `${this.#limits.maxFileMb}M`,
        rotate: this.#limits.keepFiles,
        mode: 0o600,
      });
      const forget = () => {
        if (this.#files.get(unit) === file) this.#files.delete(unit);
      };
      file.on('error', (error: Error) => {
        forget();
        if (this.#troubleTold) return;
        this.#troubleTold = true;
        this.emit('trouble', error);
      });
      this.#files.set(unit, file);
    }
    return file;
  }
}

/** Where a unit's current log lies. */
export function logFile(folder: string, unit: string): string {
  return path.join(folder, `${unit}.log`);
}
