/**
 * Cuts what COPY is sent into rows, and reads the shard key of each. Pure.
 *
 * Holds true here:
 * - A row ends where PostgreSQL takes it to end (CopyReadLineText of copyfromparse.c), and its bytes are passed on as they
 *   came. What PostgreSQL would find wrong with a row it gets to say itself, on whichever shard.
 * - What only the whole shows is found here: line ends that change on the way, a mark of the end with more after it.
 */
import pg from 'pg';
import type { CopyFormat, CopyKey } from '../plan/copy.ts';

export interface CopiedRow {
  /** Undefined: any shard says what is wrong with it. */
  readonly key: string | undefined;
  readonly bytes: Buffer;
}

export interface RowCutter {
  /** What each shard is sent before its first row; complete when the first row comes. */
  readonly head: Buffer;
  /** What each shard is sent after its last row. */
  readonly tail: Buffer;
  /** The rows that are whole by now. */
  take(chunk: Buffer): Iterable<CopiedRow>;
  /** The last, which may lack its line end. */
  rest(): Iterable<CopiedRow>;
}

export function cutterOf(format: CopyFormat, key: CopyKey | undefined): RowCutter {
  return format.kind === 'binary' ? new BinaryRows(key) : new LineRows(format, key);
}

type LineFormat = Exclude<CopyFormat, { kind: 'binary' }>;

const NEWLINE = 10;
const RETURN = 13;
const BACKSLASH = 92;
const NOTHING = Buffer.alloc(0);

class LineRows implements RowCutter {
  readonly tail = NOTHING;
  readonly #format: LineFormat;
  readonly #key: CopyKey | undefined;
  #head: Buffer = NOTHING;
  #isHeadDue: boolean;
  #bytes: Buffer = NOTHING;
  /** Where the scan goes on. */
  #at = 0;
  #inQuote = false;
  #wasEscape = false;
  #lineEnd: 'lf' | 'crlf' | 'cr' | undefined;
  #isOver = false;

  constructor(format: LineFormat, key: CopyKey | undefined) {
    this.#format = format;
    this.#key = key;
    this.#isHeadDue = format.hasHeader;
  }

  get head(): Buffer {
    return this.#head;
  }

  *take(chunk: Buffer): Generator<CopiedRow> {
    this.#bytes = this.#bytes.length > 0 ? Buffer.concat([this.#bytes, chunk]) : chunk;
    yield* this.#rows(false);
  }

  *rest(): Generator<CopiedRow> {
    yield* this.#rows(true);
    if (this.#bytes.length > 0) yield* this.#row(this.#bytes, this.#bytes.length);
    this.#bytes = NOTHING;
  }

  *#rows(isLast: boolean): Generator<CopiedRow> {
    let start = 0;
    for (let end = this.#next(start, isLast); end >= 0; end = this.#next(start, isLast)) {
      const ends = this.#lineEnd === 'crlf' ? 2 : 1;
      yield* this.#row(this.#bytes.subarray(start, end), end - ends - start);
      start = end;
    }
    // What stays is copied: it must not keep all of the chunk.
    this.#bytes = start > 0 ? Buffer.from(this.#bytes.subarray(start)) : this.#bytes;
    this.#at -= start;
  }

  *#row(bytes: Buffer, length: number): Generator<CopiedRow> {
    if (this.#isOver) return;
    if (length === 2 && bytes[0] === BACKSLASH && bytes[1] === 46) {
      // What a server makes of it in CSV depends on its version.
      if (this.#format.kind === 'csv') throw wrong('a line of CSV that is \\. alone');
      this.#isOver = true;
      return;
    }
    if (this.#isHeadDue) {
      this.#isHeadDue = false;
      this.#head = Buffer.from(bytes);
      return;
    }
    yield { bytes, key: this.#key && this.#keyOf(bytes, length, this.#key) };
  }

  /** The place after the next line end; -1 when it is not there yet. */
  #next(start: number, isLast: boolean): number {
    const bytes = this.#bytes;
    const { kind, quote, escapeByte } = this.#format;
    const isCsv = kind === 'csv';
    const escapes = isCsv && escapeByte !== quote ? escapeByte : -1;
    for (let at = Math.max(this.#at, start); at < bytes.length; at++) {
      const byte = bytes[at]!;
      if (isCsv) {
        if (this.#inQuote && byte === escapes) this.#wasEscape = !this.#wasEscape;
        if (byte === quote && !this.#wasEscape) this.#inQuote = !this.#inQuote;
        if (byte !== escapes) this.#wasEscape = false;
        if (this.#inQuote) continue;
      } else if (byte === BACKSLASH) {
        if (at + 1 >= bytes.length && !isLast) {
          this.#at = at;
          return -1;
        }
        at++;
        continue;
      }
      if (byte === RETURN) {
        if (at + 1 >= bytes.length && !isLast) {
          this.#at = at;
          return -1;
        }
        const isPair = bytes[at + 1] === NEWLINE;
        this.#lineEnd ??= isPair ? 'crlf' : 'cr';
        if (this.#lineEnd === 'lf' || (this.#lineEnd === 'crlf' && !isPair)) {
          throw wrong(
            isCsv
              ? 'unquoted carriage return found in data'
              : 'literal carriage return found in data',
          );
        }
        this.#at = at + (this.#lineEnd === 'crlf' ? 2 : 1);
        return this.#at;
      }
      if (byte === NEWLINE) {
        this.#lineEnd ??= 'lf';
        if (this.#lineEnd !== 'lf') {
          throw wrong(isCsv ? 'unquoted newline found in data' : 'literal newline found in data');
        }
        this.#at = at + 1;
        return this.#at;
      }
    }
    this.#at = bytes.length;
    return -1;
  }

  #keyOf(bytes: Buffer, length: number, key: CopyKey): string | undefined {
    return this.#format.kind === 'csv'
      ? cut(csvField(bytes, length, key.at, this.#format), key)
      : cut(textField(bytes, length, key.at, this.#format), key);
  }
}

/** A field of a row of CSV. @returns undefined for NULL, and where there is none */
function csvField(bytes: Buffer, length: number, place: number, format: LineFormat) {
  const { delimiter, quote, escapeByte } = format;
  let field = 0;
  let isQuoted = false;
  let wasQuoted = false;
  const found: number[] = [];
  for (let at = 0; at < length; at++) {
    const byte = bytes[at]!;
    if (isQuoted) {
      const next = at + 1 < length ? bytes[at + 1] : undefined;
      if (byte === escapeByte && (next === escapeByte || next === quote)) {
        if (field === place) found.push(next!);
        at++;
      } else if (byte === quote) isQuoted = false;
      else if (field === place) found.push(byte);
    } else if (byte === delimiter) {
      if (field === place) break;
      field++;
      wasQuoted = false;
    } else if (byte === quote) {
      isQuoted = true;
      wasQuoted = true;
    } else if (field === place) found.push(byte);
  }
  if (field < place) return undefined;
  const text = Buffer.from(found).toString('utf8');
  if (text !== format.null) return text;
  return wasQuoted ? (format.forceNull ? undefined : text) : format.forceNotNull ? text : undefined;
}

const SPECIAL: Record<string, number> = { b: 8, f: 12, n: 10, r: 13, t: 9, v: 11 };

/** A field of a row of text. @returns undefined for NULL, and where there is none */
function textField(bytes: Buffer, length: number, place: number, format: LineFormat) {
  let field = 0;
  let start = 0;
  let end = length;
  for (let at = 0; at < length; at++) {
    const byte = bytes[at]!;
    if (byte === BACKSLASH) at++;
    else if (byte === format.delimiter) {
      if (field === place) {
        end = at;
        break;
      }
      field++;
      start = at + 1;
    }
  }
  if (field < place) return undefined;
  const raw = bytes.subarray(start, end);
  if (raw.toString('latin1') === Buffer.from(format.null).toString('latin1')) return undefined;
  return raw.includes(BACKSLASH) ? unescaped(raw) : raw.toString('utf8');
}

/** As CopyReadAttributesText does it. */
function unescaped(raw: Buffer): string {
  const made: number[] = [];
  for (let at = 0; at < raw.length; at++) {
    const byte = raw[at]!;
    if (byte !== BACKSLASH || at + 1 >= raw.length) {
      made.push(byte);
      continue;
    }
    const rest = raw.toString('latin1', at + 1, at + 4);
    const [octal] = /^[0-7]{1,3}/.exec(rest) ?? [];
    const [hex] = /^x[0-9a-fA-F]{1,2}/.exec(rest) ?? [];
    if (octal !== undefined) made.push(Number.parseInt(octal, 8) & 255);
    else if (hex !== undefined) made.push(Number.parseInt(hex.slice(1), 16));
    else made.push(SPECIAL[rest[0]!] ?? raw[at + 1]!);
    at += (octal ?? hex ?? ' ').length;
  }
  return Buffer.from(made).toString('utf8');
}

function cut(text: string | undefined, { length }: CopyKey): string | undefined {
  if (text === undefined || length === undefined) return text;
  const characters = [...text];
  const isBlank = characters.slice(length).every(one => one === ' ');
  return characters.length > length && isBlank ? characters.slice(0, length).join('') : text;
}

const SIGNATURE_BYTES = 11;
const END = Buffer.from([0xff, 0xff]);

class BinaryRows implements RowCutter {
  readonly tail = END;
  readonly #key: CopyKey | undefined;
  #head: Buffer | undefined;
  #bytes: Buffer = NOTHING;
  #isOver = false;

  constructor(key: CopyKey | undefined) {
    this.#key = key;
  }

  get head(): Buffer {
    return this.#head ?? this.#bytes;
  }

  *take(chunk: Buffer): Generator<CopiedRow> {
    if (this.#isOver && chunk.length > 0) throw wrong('received copy data after EOF marker');
    const bytes = this.#bytes.length > 0 ? Buffer.concat([this.#bytes, chunk]) : chunk;
    let at = this.#head ? 0 : this.#readHead(bytes);
    while (this.#head && !this.#isOver) {
      const row = this.#row(bytes, at);
      if (!row) break;
      at = row.end;
      yield row;
    }
    this.#bytes = Buffer.from(bytes.subarray(at));
  }

  *rest(): Generator<CopiedRow> {
    // PostgreSQL says what is missing.
    if (this.#bytes.length > 0 && !this.#isOver && this.#head) {
      yield { key: undefined, bytes: this.#bytes };
    }
  }

  #readHead(bytes: Buffer): number {
    if (bytes.length < SIGNATURE_BYTES + 8) return 0;
    const end = SIGNATURE_BYTES + 8 + bytes.readUInt32BE(SIGNATURE_BYTES + 4);
    if (bytes.length < end) return 0;
    this.#head = Buffer.from(bytes.subarray(0, end));
    return end;
  }

  #row(bytes: Buffer, start: number): (CopiedRow & { end: number }) | undefined {
    if (bytes.length < start + 2) return undefined;
    const fields = bytes.readInt16BE(start);
    if (fields === -1) {
      if (bytes.length > start + 2) throw wrong('received copy data after EOF marker');
      this.#isOver = true;
      return undefined;
    }
    // PostgreSQL says that no row is like this.
    if (fields < 0) {
      return { key: undefined, bytes: Buffer.from(bytes.subarray(start)), end: bytes.length };
    }
    let at = start + 2;
    let key: string | undefined;
    for (let i = 0; i < fields; i++) {
      if (bytes.length < at + 4) return undefined;
      const length = Math.max(0, bytes.readInt32BE(at));
      const isNull = bytes.readInt32BE(at) < 0;
      at += 4;
      if (bytes.length < at + length) return undefined;
      if (i === this.#key?.at && !isNull) {
        key = cut(binaryKey(bytes.subarray(at, at + length), this.#key), this.#key);
      }
      at += length;
    }
    return { key, bytes: Buffer.from(bytes.subarray(start, at)), end: at };
  }
}

function binaryKey(value: Buffer, { family }: CopyKey): string | undefined {
  if (family === 'text') return value.toString('utf8');
  if (family === 'uuid') return value.length === 16 ? value.toString('hex') : undefined;
  if (value.length === 2) return String(value.readInt16BE());
  if (value.length === 4) return String(value.readInt32BE());
  return value.length === 8 ? String(value.readBigInt64BE()) : undefined;
}

/** bad_copy_file_format, as PostgreSQL has it. */
function wrong(what: string): Error {
  return Object.assign(new pg.DatabaseError(what, what.length, 'error'), {
    severity: 'ERROR',
    code: '22P04',
  });
}
