/**
 * Buckets: parts of the store, each of which is whole in one slot of Redis Cluster (README.md).
 *
 * Holds true here: all processes find the same bucket for a key and the same hash tag for a bucket. The hash tags'
 * slots are spread evenly: each lies in its bucket's part of the 16384.
 */
import { crc32 } from 'node:zlib';

export const SLOTS = 16_384;
/** Sixteen nodes are more than a cache of this kind needs; each batch is sent to each bucket. */
export const CLUSTER_BUCKETS = 16;

export function bucketOf(key: string, buckets: number): number {
  return buckets === 1 ? 0 : crc32(key) % buckets;
}

/** The text between the braces: the first number from 0 whose slot lies in the bucket's part of all. */
export function hashTagOf(bucket: number, buckets: number): string {
  for (let number = 0; ; number++) {
    const tag = String(number);
    if (Math.floor((slotOf(tag) * buckets) / SLOTS) === bucket) return tag;
  }
}

/** The slot of a text without braces: CRC-16 (XMODEM) modulo 16384, as Redis Cluster's specification says. */
export function slotOf(text: string): number {
  let crc = 0;
  for (const byte of Buffer.from(text)) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit++)
      crc = crc & 0x8000 ? ((crc << 1) ^ 0x1021) & 0xffff : crc << 1;
  }
  return crc % SLOTS;
}
