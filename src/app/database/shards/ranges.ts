/**
 * Which shard owns a hash.
 *
 * Holds true here: each of the 2⁶⁴ hashes has exactly one owner. Ranges that leave a gap or overlap are refused
 * when the map is read, so no statement can fall through or be answered twice.
 *
 * Ranges are split, not counted modulo: one more shard then takes from one other, and all else stays where it is.
 * They need not be in the order of the shards: a split gives half of a range to a shard that joins at the end.
 */
import { BanyanError } from '../../../errors.ts';
import { type Hash, hashKey, type KeyType } from './hash.ts';

/** Signed 64-bit numbers in decimal, both ends included. */
export interface HashRange {
  from: string;
  to: string;
}

const LOWEST = -(2n ** 63n);
const HIGHEST = 2n ** 63n - 1n;

/** A map's ranges leave hashes without an owner, or with two. */
export class InvalidRanges extends BanyanError {
  constructor(reason: string) {
    super('INVALID_RANGES', {
      what: `The shards' ranges cannot be used: ${reason}`,
      where: 'database.shards of the runtime map',
      remedy: 'Run `banyan up` again: it writes the map anew',
    });
  }
}

/** The space of hashes in `shards` parts of the same size, in order. */
export function evenRanges(shards: number): HashRange[] {
  const edge = (part: number) => LOWEST + (2n ** 64n * BigInt(part)) / BigInt(shards);
  return Array.from({ length: shards }, (_, shard) => ({
    from: String(edge(shard)),
    to: String(edge(shard + 1) - 1n),
  }));
}

export class Ranges {
  /** The ranges' lower ends, ascending, in halves. */
  readonly #high: Int32Array;
  readonly #low: Uint32Array;
  /** The shard of each range. */
  readonly #owners: Int32Array;

  /**
   * @param ranges of the map's shards, in their order. Undefined: all of it for a single shard, nothing for
   * one of several
   * @throws InvalidRanges
   */
  constructor(ranges: readonly (HashRange | undefined)[]) {
    const sorted = inOrder(ranges);
    this.#high = Int32Array.from(sorted, ({ from }) => Number(from >> 32n));
    this.#low = Uint32Array.from(sorted, ({ from }) => Number(BigInt.asUintN(32, from)));
    this.#owners = Int32Array.from(sorted, ({ shard }) => shard);
  }

  /** @returns the index into the map's shards */
  shardOf(hash: bigint): number {
    return this.#find(Number(hash >> 32n), Number(BigInt.asUintN(32, hash)));
  }

  /** As `shardOf`. */
  shardOfHash({ high, low }: Hash): number {
    return this.#find(high, low);
  }

  /**
   * As `shardOf`, of a key's value.
   * @returns undefined when no row can have this key: see `hashKey`
   * @throws UnhashableKey
   */
  shardOfKey(type: KeyType, value: unknown): number | undefined {
    const hash = hashKey(type, value);
    return hash && this.#find(hash.high, hash.low);
  }

  /** The last range that begins at or below it. */
  #find(high: number, low: number): number {
    let first = 0;
    let end = this.#owners.length;
    while (end - first > 1) {
      const middle = (first + end) >>> 1;
      const edge = this.#high[middle]!;
      if (edge < high || (edge === high && this.#low[middle]! <= low)) first = middle;
      else end = middle;
    }
    return this.#owners[first]!;
  }
}

interface OwnedRange {
  from: bigint;
  to: bigint;
  shard: number;
}

function inOrder(ranges: readonly (HashRange | undefined)[]): OwnedRange[] {
  if (ranges.length === 1 && !ranges[0]) return [{ from: LOWEST, to: HIGHEST, shard: 0 }];
  const owned = ranges.flatMap((range, shard) =>
    range ? [{ from: BigInt(range.from), to: BigInt(range.to), shard }] : [],
  );
  owned.sort((one, other) => (one.from < other.from ? -1 : 1));
  let expected = LOWEST;
  for (const { from, to, shard } of owned) {
    if (from > expected) throw new InvalidRanges(`no shard owns the hashes from ${expected} on`);
    if (from < expected) {
      throw new InvalidRanges(`shard ${shard} begins at ${from}, which another owns`);
    }
    if (to < from) throw new InvalidRanges(`shard ${shard} ends before it begins`);
    expected = to + 1n;
  }
  if (expected !== HIGHEST + 1n) {
    throw new InvalidRanges(
      expected > HIGHEST
        ? 'the last ends above the highest hash'
        : `no shard owns the hashes from ${expected} on`,
    );
  }
  return owned;
}
