/** What is written of an entry comes out as it was, whatever its tags are made of. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type EntryInfo, readEntry, writeEntry } from '../../../src/app/cache/entry-format.ts';
import type { Position } from '../../../src/app/cache/position.ts';
import { lsnText } from '../../../src/app/cache/position.ts';

const lsn = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const snapshot = fc
  .record({ xmin: lsn, xmax: lsn, running: fc.array(lsn, { maxLength: 5 }) })
  .map(({ running, ...rest }) => ({ ...rest, running: new Set(running) }));
const position: fc.Arbitrary<Position> = fc.oneof(
  fc.record({ kind: fc.constant('replayed' as const), lsn }),
  fc.record({ kind: fc.constant('snapshot' as const), snapshot, lsn, before: lsn }),
);
const time = fc.double({ noNaN: true, noDefaultInfinity: true });
const tag = fc.oneof(
  fc.string({ unit: 'grapheme' }),
  fc.string({ unit: 'binary' }),
  fc.constantFrom('', '\0', 'a\0b', '\ud800', 'x\udfffy'),
);
const info: fc.Arbitrary<EntryInfo> = fc.record({
  positions: fc.dictionary(fc.stringMatching(/^[a-z0-9-]{1,8}$/), position, {
    maxKeys: 4,
    noNullPrototype: true,
  }),
  tags: fc.array(tag, { maxLength: 5 }),
  loadedAt: time,
  expiresAt: time,
  goneAt: time,
  loadMs: time,
  isCompressed: fc.boolean(),
});

const checked = fc.array(lsn, { minLength: 4, maxLength: 4 });

test('an entry that is read is the one that was written', () => {
  fc.assert(
    fc.property(info, fc.uint8Array(), checked, (given, value, lsns) => {
      const { id, before, after, clusters } = writeEntry(given, Buffer.from(value));
      // Between the two a script of Redis puts how far it has been checked.
      const marks = clusters.map((_, i) => Buffer.from(lsnText(lsns[i]!), 'latin1'));
      const entry = readEntry(Buffer.concat([before, ...marks, after]))!;
      const positions = Object.fromEntries(
        Object.entries(entry.positions).map(([name, each]) => [
          name,
          each.kind === 'replayed'
            ? each
            : { kind: each.kind, snapshot: each.snapshot, lsn: each.lsn, before: each.before },
        ]),
      );
      expect({ ...entry, positions }).toEqual({
        ...given,
        id,
        clusters,
        checkedTo: Object.fromEntries(clusters.map((name, i) => [name, lsns[i]!])),
        value: Buffer.from(value),
      });
    }),
    { numRuns: 2_000 },
  );
});

test('what is cut off, or of another version, is no entry', () => {
  fc.assert(
    fc.property(info, fc.nat(), (given, at) => {
      const { before, after, clusters } = writeEntry(given, Buffer.alloc(0));
      const marks = clusters.map(() => Buffer.from(lsnText(7n), 'latin1'));
      const whole = Buffer.concat([before, ...marks, after]);
      expect(readEntry(whole)).toBeDefined();
      expect(readEntry(whole.subarray(0, at % whole.length))).toBeUndefined();
      whole[0] = whole[0]! - 1;
      expect(readEntry(whole)).toBeUndefined();
    }),
  );
});
