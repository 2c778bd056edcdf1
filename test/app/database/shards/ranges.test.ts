import fc from 'fast-check';
import { expect, test } from 'vitest';
import { hashKey, hashToBigInt } from '../../../../src/app/database/shards/hash.ts';
import { evenRanges, InvalidRanges, Ranges } from '../../../../src/app/database/shards/ranges.ts';

const LOWEST = -(2n ** 63n);
const HIGHEST = 2n ** 63n - 1n;

const hash = fc.oneof(fc.bigInt({ min: LOWEST, max: HIGHEST }), fc.constantFrom(LOWEST, HIGHEST));

/** Any partition of the space, its parts in any order, some shards with nothing. */
const partition = fc
  .tuple(fc.uniqueArray(fc.bigInt({ min: LOWEST + 1n, max: HIGHEST }), { maxLength: 12 }), fc.nat())
  .chain(([cuts, empty]) => {
    const edges = [LOWEST, ...cuts.sort((one, other) => (one < other ? -1 : 1)), HIGHEST + 1n];
    const ranges = edges.slice(0, -1).map((from, i) => ({ from, to: edges[i + 1]! - 1n }));
    const gaps = Array.from({ length: ranges.length > 1 ? empty % 3 : 0 }, () => undefined);
    return fc.shuffledSubarray([...ranges, ...gaps], { minLength: ranges.length + gaps.length });
  });

const asText = (range: { from: bigint; to: bigint } | undefined) =>
  range && { from: String(range.from), to: String(range.to) };

test('a hash belongs to the shard whose range it lies in', () => {
  fc.assert(
    fc.property(partition, fc.array(hash), (ranges, hashes) => {
      const found = new Ranges(ranges.map(asText));
      const ends = ranges.flatMap(range => (range ? [range.from, range.to] : []));
      for (const value of [...hashes, ...ends]) {
        const owner = ranges.findIndex(range => range && range.from <= value && value <= range.to);
        expect(found.shardOf(value)).toBe(owner);
        const halves = { high: Number(value >> 32n), low: Number(BigInt.asUintN(32, value)) };
        expect(found.shardOfHash(halves)).toBe(owner);
      }
    }),
  );
});

test('a key goes where its hash says', () => {
  const ranges = new Ranges(evenRanges(7));
  fc.assert(
    fc.property(fc.maxSafeInteger(), key => {
      expect(ranges.shardOfKey('int8', key)).toBe(
        ranges.shardOf(hashToBigInt(hashKey('int8', key)!)),
      );
    }),
  );
  expect(ranges.shardOfKey('int4', 'not a number')).toBeUndefined();
});

test('an even split gives every shard the same, to within one hash', () => {
  for (const shards of [1, 2, 3, 4, 7, 1_000]) {
    const ranges = evenRanges(shards);
    expect(() => new Ranges(ranges)).not.toThrow();
    const sizes = ranges.map(({ from, to }) => BigInt(to) - BigInt(from) + 1n);
    expect(new Set(sizes).size).toBeLessThanOrEqual(2);
    expect(sizes.reduce((sum, size) => sum + size, 0n)).toBe(2n ** 64n);
  }
  expect(evenRanges(1)).toEqual([{ from: String(LOWEST), to: String(HIGHEST) }]);
});

test('a single shard without a range owns everything', () => {
  const all = new Ranges([undefined]);
  fc.assert(
    fc.property(hash, value => {
      expect(all.shardOf(value)).toBe(0);
    }),
  );
});

test('ranges that leave a gap, overlap, or go beyond are refused', () => {
  const low = `${LOWEST}`;
  const high = `${HIGHEST}`;
  for (const [ranges, reason] of [
    [[], 'no shard owns'],
    [[undefined, undefined], 'no shard owns'],
    [[{ from: low, to: '5' }], 'from 6 on'],
    [[{ from: '0', to: high }], `from ${LOWEST} on`],
    [
      [
        { from: low, to: '5' },
        { from: '7', to: high },
      ],
      'from 6 on',
    ],
    [
      [
        { from: low, to: '5' },
        { from: '5', to: high },
      ],
      'which another owns',
    ],
    [[{ from: low, to: `${LOWEST - 1n}` }], 'ends before it begins'],
    [[{ from: low, to: `${HIGHEST + 1n}` }], 'above the highest'],
  ] as const) {
    expect(() => new Ranges(ranges)).toThrow(InvalidRanges);
    expect(() => new Ranges(ranges)).toThrow(reason);
  }
});
