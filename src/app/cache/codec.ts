/**
 * Values as bytes: MessagePack with dates, bytes, bigints, maps, sets and undefined.
 *
 * Holds true here:
 * - What comes out is equal to what went in; what could not be is refused, with its place in the value.
 *   (`-0` comes out as `0`.)
 * - What comes out is frozen, as far as JavaScript can: it is shared by all who ask for it.
 */
import { promisify } from 'node:util';
import { constants, zstdCompress, zstdDecompress } from 'node:zlib';
import { Packr } from 'msgpackr';
import { NotStorable } from './errors.ts';

const packr = new Packr({
  useRecords: true,
  moreTypes: true,
  useBigIntExtension: true,
  copyBuffers: true,
});

const compress = promisify(zstdCompress);
const decompress = promisify(zstdDecompress);
/** The fastest level: a cache that costs more than a query is none. */
const COMPRESSION = { params: { [constants.ZSTD_c_compressionLevel]: 1 } };

/** @throws NotStorable */
export function encode(value: unknown): Buffer {
  assertStorable(value, 'value', new Set());
  // A list, since a single undefined is no text of MessagePack's.
  return packr.pack([value]);
}

export function decode<T>(bytes: Uint8Array): T {
  const value = (packr.unpack(bytes) as [T])[0];
  freeze(value);
  return value;
}

export async function compressed(bytes: Buffer): Promise<Buffer> {
  return compress(bytes, COMPRESSION);
}

export async function decompressed(bytes: Uint8Array): Promise<Buffer> {
  return decompress(bytes);
}

const KINDS = new Map<unknown, 'leaf' | 'map' | 'set'>([
  [Date.prototype, 'leaf'],
  [Uint8Array.prototype, 'leaf'],
  [Buffer.prototype, 'leaf'],
  [Map.prototype, 'map'],
  [Set.prototype, 'set'],
]);

/** @param above the objects that it is within */
function assertStorable(value: unknown, path: string, above: Set<object>): void {
  if (typeof value === 'function') throw new NotStorable(path, 'a function');
  if (typeof value === 'symbol') throw new NotStorable(path, 'a symbol');
  if (typeof value !== 'object' || value === null) return;
  if (above.has(value)) throw new NotStorable(path, 'the value that it is within');
  const prototype: unknown = Object.getPrototypeOf(value);
  const kind = KINDS.get(prototype);
  if (kind === 'leaf') return;
  above.add(value);
  if (kind === 'map') {
    for (const [key, item] of value as Map<unknown, unknown>) {
      assertStorable(key, `${path}.key(${String(key)})`, above);
      assertStorable(item, `${path}.get(${String(key)})`, above);
    }
  } else if (kind === 'set') {
    for (const item of value as Set<unknown>) assertStorable(item, `${path}.member`, above);
  } else if (Array.isArray(value)) {
    for (const [i, item] of value.entries()) assertStorable(item, `${path}[${i}]`, above);
  } else if (prototype === Object.prototype || prototype === null) {
    for (const key of Object.keys(value)) {
      // MessagePack's reader takes it out of reach of prototypes, under another name.
      if (key === '__proto__') throw new NotStorable(`${path}.${key}`, 'a name that objects have');
      assertStorable((value as Record<string, unknown>)[key], `${path}.${key}`, above);
    }
  } else {
    const name = (prototype as { constructor?: { name?: string } }).constructor?.name;
    throw new NotStorable(path, `of the class ${name ?? 'without a name'}`);
  }
  above.delete(value);
}

function freeze(value: unknown): void {
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return;
  if (value instanceof Map) {
    for (const [key, item] of value) {
      freeze(key);
      freeze(item);
    }
  } else if (value instanceof Set) {
    for (const item of value) freeze(item);
  } else if (Array.isArray(value)) {
    for (const item of value) freeze(item);
  } else if (!(value instanceof Date)) {
    for (const key in value) freeze((value as Record<string, unknown>)[key]);
  }
  Object.freeze(value);
}
