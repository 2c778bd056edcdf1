/**
 * Reads the messages of `pgoutput`, PostgreSQL's own decoding plugin, in version 1 of its protocol. Pure.
 *
 * Holds true here: values stay texts, and a message that is cut short or unknown throws: half a change is worse
 * than none. (https://www.postgresql.org/docs/15/protocol-logicalrep-message-formats.html,
 * src/backend/replication/logical/proto.c)
 */
import type { Lsn } from '../database/timelines.ts';

/** A table as the log knew it at that moment. */
export interface Relation {
  readonly oid: number;
  readonly schema: string;
  readonly table: string;
  /** `d`: the primary key, `i`: an index, `f`: all columns, `n`: nothing. */
  readonly identity: string;
  readonly columns: readonly { readonly name: string; readonly isKey: boolean }[];
}

/** One value for each column; undefined for a large one that was not changed and is not told. */
export type Tuple = readonly (string | null | undefined)[];

export type Message =
  | {
      readonly kind: 'begin';
      /** Where the commit record begins. */
      readonly commitLsn: Lsn;
      readonly committedAt: Date;
      /** Of 32 bits, without its epoch. */
      readonly xid: number;
    }
  | { readonly kind: 'commit'; readonly endLsn: Lsn }
  | { readonly kind: 'relation'; readonly relation: Relation }
  | { readonly kind: 'insert'; readonly oid: number; readonly after: Tuple }
  | {
      readonly kind: 'update';
      readonly oid: number;
      /** Undefined when no column of the identity was changed. */
      readonly before: Tuple | undefined;
      readonly after: Tuple;
    }
  | { readonly kind: 'delete'; readonly oid: number; readonly before: Tuple }
  | { readonly kind: 'truncate'; readonly oids: readonly number[] }
  /** An origin, a type, a message of somebody: nothing that changes a row. */
  | { readonly kind: 'other' };

/** 2000-01-01 in milliseconds: where PostgreSQL's clock begins. */
export const POSTGRES_EPOCH_MS = 946_684_800_000;

class Reader {
  readonly #bytes: Buffer;
  #at: number;

  constructor(bytes: Buffer, at: number) {
    this.#bytes = bytes;
    this.#at = at;
  }

  byte(): number {
    return this.#bytes.readUInt8(this.#at++);
  }

  letter(): string {
    return String.fromCharCode(this.byte());
  }

  int16(): number {
    const value = this.#bytes.readInt16BE(this.#at);
    this.#at += 2;
    return value;
  }

  uint32(): number {
    const value = this.#bytes.readUInt32BE(this.#at);
    this.#at += 4;
    return value;
  }

  int64(): bigint {
    const value = this.#bytes.readBigInt64BE(this.#at);
    this.#at += 8;
    return value;
  }

  lsn(): Lsn {
    return BigInt.asUintN(64, this.int64());
  }

  date(): Date {
    return dateOf(this.int64());
  }

  string(): string {
    const end = this.#bytes.indexOf(0, this.#at);
    if (end < 0) throw new RangeError('a text of the log does not end');
    const text = this.#bytes.toString('utf8', this.#at, end);
    this.#at = end + 1;
    return text;
  }

  text(): string {
    const length = this.uint32();
    const end = this.#at + length;
    if (end > this.#bytes.length) throw new RangeError('a value of the log is cut short');
    const text = this.#bytes.toString('utf8', this.#at, end);
    this.#at = end;
    return text;
  }

  tuple(): Tuple {
    return Array.from({ length: this.int16() }, () => {
      const kind = this.letter();
      if (kind === 't') return this.text();
      if (kind === 'n') return null;
      if (kind === 'u') return undefined;
      throw new RangeError(`a value of an unknown kind in the log: ${kind}`);
    });
  }
}

/** @param micros since 2000 */
export function dateOf(micros: bigint): Date {
  return new Date(POSTGRES_EPOCH_MS + Number(micros / 1000n));
}

/** @throws RangeError on what is not version 1 of pgoutput */
export function parseMessage(bytes: Buffer): Message {
  const read = new Reader(bytes, 1);
  switch (String.fromCharCode(bytes[0] ?? 0)) {
    case 'B': {
      const commitLsn = read.lsn();
      const committedAt = read.date();
      return { kind: 'begin', commitLsn, committedAt, xid: read.uint32() };
    }
    case 'C': {
      read.byte();
      read.lsn();
      return { kind: 'commit', endLsn: read.lsn() };
    }
    case 'R':
      return { kind: 'relation', relation: relationOf(read) };
    case 'I': {
      const oid = read.uint32();
      expectLetter(read.letter(), 'N');
      return { kind: 'insert', oid, after: read.tuple() };
    }
    case 'U': {
      const oid = read.uint32();
      let letter = read.letter();
      let before: Tuple | undefined;
      if (letter === 'K' || letter === 'O') {
        before = read.tuple();
        letter = read.letter();
      }
      expectLetter(letter, 'N');
      return { kind: 'update', oid, before, after: read.tuple() };
    }
    case 'D': {
      const oid = read.uint32();
      expectLetter(read.letter(), 'K', 'O');
      return { kind: 'delete', oid, before: read.tuple() };
    }
    case 'T': {
      const count = read.uint32();
      read.byte();
      return { kind: 'truncate', oids: Array.from({ length: count }, () => read.uint32()) };
    }
    case 'O':
    case 'Y':
    case 'M':
      return { kind: 'other' };
    default:
      throw new RangeError(`an unknown message in the log: ${bytes.toString('hex', 0, 16)}`);
  }
}

function relationOf(read: Reader): Relation {
  const oid = read.uint32();
  const schema = read.string() || 'pg_catalog';
  const table = read.string();
  const identity = read.letter();
  const columns = Array.from({ length: read.int16() }, () => {
    const isKey = (read.byte() & 1) === 1;
    const name = read.string();
    // Its type and the type's modifier.
    read.uint32();
    read.uint32();
    return { name, isKey };
  });
  return { oid, schema, table, identity, columns };
}

function expectLetter(letter: string, ...expected: string[]): void {
  if (!expected.includes(letter)) {
    throw new RangeError(`an unexpected part of a change in the log: ${letter}`);
  }
}
