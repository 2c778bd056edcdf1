/**
 * PostgreSQL's protocol, from the server's side: the messages of a driver read, those of a server written. As much of it
 * as cursors, streams and copies use. Pure.
 *
 * Source: "Message Formats" of PostgreSQL's manual.
 */
import type pg from 'pg';
import type { RawRow } from '../merge/gathered.ts';

export interface Message {
  /** Its letter; empty for that with which a session begins. */
  readonly type: string;
  readonly body: Buffer;
}

/** Cuts a stream of bytes into messages. */
export class MessageReader {
  #bytes: Buffer = Buffer.alloc(0);
  #isBegun = false;

  /** @returns the messages that are whole by now, each once */
  *take(chunk: Buffer): Generator<Message> {
    this.#bytes = this.#bytes.length > 0 ? Buffer.concat([this.#bytes, chunk]) : chunk;
    for (;;) {
      const head = this.#isBegun ? 1 : 0;
      if (this.#bytes.length < head + 4) return;
      const length = this.#bytes.readUInt32BE(head);
      if (this.#bytes.length < head + length) return;
      const type = this.#isBegun ? String.fromCharCode(this.#bytes[0]!) : '';
      const body = this.#bytes.subarray(head + 4, head + length);
      this.#bytes = this.#bytes.subarray(head + length);
      this.#isBegun = true;
      yield { type, body };
    }
  }
}

/** Reads the fields of a message, in their order. */
export class FieldReader {
  readonly #body: Buffer;
  #at = 0;

  constructor(body: Buffer) {
    this.#body = body;
  }

  text(): string {
    const end = this.#body.indexOf(0, this.#at);
    const text = this.#body.toString('utf8', this.#at, end);
    this.#at = end + 1;
    return text;
  }

  int16(): number {
    this.#at += 2;
    return this.#body.readInt16BE(this.#at - 2);
  }

  int32(): number {
    this.#at += 4;
    return this.#body.readInt32BE(this.#at - 4);
  }

  bytes(length: number): Buffer {
    this.#at += length;
    return this.#body.subarray(this.#at - length, this.#at);
  }
}

/** The values of a Bind message: text, or bytes where they were sent as such. */
export function readBind(body: Buffer): (string | Buffer | null)[] {
  const reader = new FieldReader(body);
  reader.text();
  reader.text();
  const formats = Array.from({ length: reader.int16() }, () => reader.int16());
  return Array.from({ length: reader.int16() }, (_, i) => {
    const length = reader.int32();
    if (length < 0) return null;
    const bytes = reader.bytes(length);
    const format = formats.length === 1 ? formats[0] : formats[i];
    return format === 1 ? Buffer.from(bytes) : bytes.toString('utf8');
  });
}

const int16 = (value: number) => {
  const bytes = Buffer.alloc(2);
  bytes.writeInt16BE(value);
  return bytes;
};
const int32 = (value: number) => {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(value);
  return bytes;
};
const text = (value: string) => Buffer.from(`${value}\0`);

function message(type: string, ...parts: Buffer[]): Buffer {
  const length = parts.reduce((sum, part) => sum + part.length, 4);
  return Buffer.concat([Buffer.from(type), int32(length), ...parts]);
}

export const AUTHENTICATED = message('R', int32(0));
export const PARSED = message('1');
export const BOUND = message('2');
export const CLOSED = message('3');
export const NO_DATA = message('n');
export const SUSPENDED = message('s');
export const COPY_DONE = message('c');

/** @param status `I`, `T` or `E`, as PostgreSQL has it */
export const ready = (status: string): Buffer => message('Z', Buffer.from(status));
export const complete = (tag: string): Buffer => message('C', text(tag));
export const copyData = (chunk: Buffer): Buffer => message('d', chunk);

/** @param isBinary of the whole copy */
export function copyResponse(type: 'G' | 'H', columns: number, isBinary: boolean): Buffer {
  const format = isBinary ? 1 : 0;
  const each = Array.from({ length: columns }, () => int16(format));
  return message(type, Buffer.from([format]), int16(columns), ...each);
}

export function rowDescription(fields: readonly pg.FieldDef[]): Buffer {
  const parts = fields.flatMap(field => [
    text(field.name),
    int32(field.tableID | 0),
    int16(field.columnID),
    int32(field.dataTypeID | 0),
    int16(field.dataTypeSize),
    int32(field.dataTypeModifier),
    int16(0),
  ]);
  return message('T', int16(fields.length), ...parts);
}

export function dataRow(row: RawRow, width: number): Buffer {
  const parts: Buffer[] = [int16(width)];
  for (let i = 0; i < width; i++) {
    const value = row[i] ?? null;
    if (value === null) parts.push(int32(-1));
    else {
      const bytes = Buffer.from(value);
      parts.push(int32(bytes.length), bytes);
    }
  }
  return message('D', ...parts);
}

/** @param routine by which the receiver knows the error again */
export function errorResponse(error: unknown, routine: string): Buffer {
  const { message: what = String(error), code } = (error ?? {}) as {
    message?: string;
    code?: unknown;
  };
  const sqlState = typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code) ? code : 'XX000';
  const field = (letter: string, value: string) => text(letter + value.replaceAll('\0', ''));
  return message(
    'E',
    field('S', 'ERROR'),
    field('C', sqlState),
    field('M', what),
    field('R', routine),
    Buffer.from([0]),
  );
}
