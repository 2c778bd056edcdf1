/**
 * The hash of a shard key, bit for bit as PostgreSQL computes it: `hashint8extended(key, 0)`,
 * `hashtextextended(key, 0)`, `uuid_hash_extended(key, 0)`. So any `psql` finds a row's shard with the same
 * expression, and the guard on each table and a publication's row filter can use it.
 *
 * Holds true here:
 * - A value that is written in another way than the server would print it (`' 042 '`, `{A0EE…}`) has the hash of
 *   what the server reads.
 * - `undefined` means: no row can have this key. It is NULL, or the server refuses it for the key's type. Any one
 *   shard gives the right answer to a statement with it, and the right error.
 * - All arithmetic is on 32-bit halves. BigInt is an allocation for each step, and this runs for each statement.
 *
 * Text is hashed by its bytes in UTF-8: right for databases in UTF8 and columns of a deterministic collation
 * (all but those of `CREATE COLLATION … deterministic = false`); `banyan doctor` refuses others as keys.
 *
 * Source: src/common/hashfn.c (hash_bytes_extended, after Bob Jenkins' lookup3) and
 * src/backend/access/hash/hashfunc.c of PostgreSQL, unchanged from 11 to 18.
 */
import { BanyanError } from '../../../errors.ts';

/** The types that a shard key may have. */
export const KEY_TYPES = ['int2', 'int4', 'int8', 'text', 'varchar', 'uuid'] as const;
export type KeyType = (typeof KEY_TYPES)[number];

/** The 64 bits of a hash, in halves. */
export interface Hash {
  /** The upper half, with the sign: −2³¹ to 2³¹ − 1. */
  readonly high: number;
  /** The lower half, without: 0 to 2³² − 1. */
  readonly low: number;
}

/** The value of a shard key came in a form of which it is not known what the server would make of it. */
export class UnhashableKey extends BanyanError {
  constructor(type: KeyType, value: unknown) {
    const found = Object.prototype.toString.call(value).slice(8, -1);
    super('UNHASHABLE_SHARD_KEY', {
      what: `The value of a shard key of type ${type} is of the JavaScript type ${found}`,
      where: 'a parameter of the statement',
      remedy: 'Nothing was sent. Pass a string, a number or a bigint',
    });
  }
}

/**
 * The server's function for keys of a type, as it is written in SQL.
 * @param key an SQL expression of that type
 */
export function hashExpression(type: KeyType, key: string): string {
  if (type === 'uuid') return `uuid_hash_extended(${key}, 0)`;
  if (type === 'text' || type === 'varchar') return `hashtextextended(${key}, 0)`;
  return `hashint8extended(${key}, 0)`;
}

/**
 * @param value what a statement has for the key: a parameter as given to pg, or a constant's text
 * @returns undefined when no row can have this key
 * @throws UnhashableKey for an object, an array, a date, bytes
 */
export function hashKey(type: KeyType, value: unknown): Hash | undefined {
  if (value === null || value === undefined) return undefined;
  const isObject = typeof value === 'object';
  if (isObject || typeof value === 'function' || typeof value === 'symbol') {
    throw new UnhashableKey(type, value);
  }
  if (type === 'text' || type === 'varchar') return hashText(String(value));
  if (type === 'uuid') return hashUuid(String(value));
  return hashInteger(type, value as string | number | bigint | boolean);
}

/** The hash as one signed number, as the server shows it. */
export function hashToBigInt({ high, low }: Hash): bigint {
  return (BigInt(high) << 32n) | BigInt(low);
}

const LIMITS = { int2: 2 ** 15, int4: 2 ** 31 };

function hashInteger(
  type: 'int2' | 'int4' | 'int8',
  value: string | number | bigint | boolean,
): Hash | undefined {
  if (typeof value === 'number' && Number.isSafeInteger(value)) return hashSafe(type, value);
  if (typeof value === 'string' && PLAIN_INTEGER.test(value)) return hashSafe(type, Number(value));
  const whole = typeof value === 'bigint' ? value : readInteger(String(value));
  if (whole === undefined) return undefined;
  if (BigInt.asIntN(53, whole) === whole) return hashSafe(type, Number(whole));
  if (type !== 'int8' || BigInt.asIntN(64, whole) !== whole) return undefined;
  return hashHalves(Number(whole >> 32n), Number(BigInt.asUintN(32, whole)));
}

/** @param value a safe integer, which a double holds exactly */
function hashSafe(type: 'int2' | 'int4' | 'int8', value: number): Hash | undefined {
  if (type !== 'int8') {
    const limit = LIMITS[type];
    if (value < -limit || value >= limit) return undefined;
  }
  return hashHalves(Math.floor(value / 2 ** 32), value >>> 0);
}

/** The halves are folded such that an int4 has the hash of the int8 of the same value (hashint8extended). */
function hashHalves(high: number, low: number): Hash {
  return hashWord(low ^ (high < 0 ? ~high : high));
}

/** Nearly all integers that come as text, and none that a double does not hold exactly. */
const PLAIN_INTEGER = /^-?\d{1,15}$/;

const SPACE = '[ \\t\\n\\v\\f\\r]*';
/** What pg_strtoint64_safe reads. Bases and underscores came with version 16; older servers refuse them. */
const INTEGER = new RegExp(
  `^${SPACE}([-+]?)(\\d+(?:_\\d+)*|0[xX](?:_?[\\da-fA-F]+)+|0[oO](?:_?[0-7]+)+|0[bB](?:_?[01]+)+)${SPACE}$`,
);
/** Far more digits than any integer has, leading zeros included; longer text costs a server's error at most. */
const LONGEST_INTEGER = 1_000;

function readInteger(text: string): bigint | undefined {
  if (text.length > LONGEST_INTEGER) return undefined;
  const [, sign, digits] = INTEGER.exec(text) ?? [];
  if (digits === undefined) return undefined;
  const size = BigInt(digits.replaceAll('_', ''));
  return sign === '-' ? -size : size;
}

/** Grows to the longest key that was seen. Reading and hashing happen in one go, so one serves all. */
let bytes = Buffer.allocUnsafe(1_024);

/** @returns undefined for text with a NUL character, which PostgreSQL has no place for */
function hashText(text: string): Hash | undefined {
  if (text.includes('\0')) return undefined;
  // A UTF-16 unit makes three bytes of UTF-8 at most.
  if (text.length * 3 > bytes.length) bytes = Buffer.allocUnsafe(text.length * 3);
  return hashBytes(bytes, bytes.write(text, 'utf8'));
}

/** The value of each hexadecimal digit by its character; 16 and more for what is none. */
const DIGITS = Uint8Array.from({ length: 128 }, (_, code) => {
  const digit = Number.parseInt(String.fromCharCode(code), 16);
  return Number.isNaN(digit) ? 16 : digit;
});

/** string_to_uuid: a hyphen may stand after any group of four digits, braces around the whole. */
function hashUuid(text: string): Hash | undefined {
  const hasBraces = text.startsWith('{');
  let at = hasBraces ? 1 : 0;
  for (let i = 0; i < 16; i++) {
    const high = DIGITS[text.charCodeAt(at)] ?? 16;
    const low = DIGITS[text.charCodeAt(at + 1)] ?? 16;
    if (high > 15 || low > 15) return undefined;
    bytes[i] = (high << 4) | low;
    at += 2;
    if (i % 2 === 1 && i < 15 && text[at] === '-') at++;
  }
  if (hasBraces && text[at++] !== '}') return undefined;
  return at === text.length ? hashBytes(bytes, 16) : undefined;
}

/** hash_bytes_uint32_extended with the seed 0. */
function hashWord(word: number): Hash {
  return finish((start(4) + word) | 0, start(4), start(4));
}

/** hash_bytes_extended with the seed 0, as a little-endian machine computes it. */
function hashBytes(from: Buffer, length: number): Hash {
  let a = start(length);
  let b = a;
  let c = a;
  let at = 0;
  for (; length - at >= 12; at += 12) {
    a = (a + word(from, at)) | 0;
    b = (b + word(from, at + 4)) | 0;
    c = (c + word(from, at + 8)) | 0;
    // mix()
    a = ((a - c) ^ rotate(c, 4)) | 0;
    c = (c + b) | 0;
    b = ((b - a) ^ rotate(a, 6)) | 0;
    a = (a + c) | 0;
    c = ((c - b) ^ rotate(b, 8)) | 0;
    b = (b + a) | 0;
    a = ((a - c) ^ rotate(c, 16)) | 0;
    c = (c + b) | 0;
    b = ((b - a) ^ rotate(a, 19)) | 0;
    a = (a + c) | 0;
    c = ((c - b) ^ rotate(b, 4)) | 0;
    b = (b + a) | 0;
  }
  const left = length - at;
  // The lowest byte of c is kept for the length.
  if (left > 10) c = (c + (from[at + 10]! << 24)) | 0;
  if (left > 9) c = (c + (from[at + 9]! << 16)) | 0;
  if (left > 8) c = (c + (from[at + 8]! << 8)) | 0;
  b = (b + partOfWord(from, at + 4, left - 4)) | 0;
  a = (a + partOfWord(from, at, left)) | 0;
  return finish(a, b, c);
}

function start(length: number): number {
  return (0x9e3779b9 + length + 3_923_095) | 0;
}

function word(from: Buffer, at: number): number {
  return from[at]! | (from[at + 1]! << 8) | (from[at + 2]! << 16) | (from[at + 3]! << 24);
}

/** The first `count` bytes of a word, all of it from 4 on, nothing below 1. */
function partOfWord(from: Buffer, at: number, count: number): number {
  let part = 0;
  for (let i = Math.min(count, 4) - 1; i >= 0; i--) part = (part << 8) | from[at + i]!;
  return part;
}

function rotate(word: number, by: number): number {
  return (word << by) | (word >>> (32 - by));
}

/** final() */
function finish(a: number, b: number, c: number): Hash {
  c = ((c ^ b) - rotate(b, 14)) | 0;
  a = ((a ^ c) - rotate(c, 11)) | 0;
  b = ((b ^ a) - rotate(a, 25)) | 0;
  c = ((c ^ b) - rotate(b, 16)) | 0;
  a = ((a ^ c) - rotate(c, 4)) | 0;
  b = ((b ^ a) - rotate(a, 14)) | 0;
  c = ((c ^ b) - rotate(b, 24)) | 0;
  return { high: b, low: c >>> 0 };
}
