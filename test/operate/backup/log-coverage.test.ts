/** What of the log is in the repository: names, timelines, gaps. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  coverageOf,
  parseSegment,
  SEGMENT_BYTES,
  segmentName,
  timelineOf,
} from '../../../src/operate/backup/log-coverage.ts';

const lsn = (segments: number, bytes = 0) =>
  BigInt(segments) * BigInt(SEGMENT_BYTES) + BigInt(bytes);

test('a name is read as PostgreSQL writes it', () => {
  expect(parseSegment('0000000200000001000000FF')).toEqual({ timeline: 2, number: 511 });
  expect(segmentName({ timeline: 2, number: 511 })).toBe('0000000200000001000000FF');
  expect(parseSegment('00000002.history')).toBeUndefined();
  expect(parseSegment('000000010000000000000002.00000028.backup')).toBeUndefined();
  expect(parseSegment('000000010000000000000008.partial')).toBeUndefined();
});

test('names and numbers are the same thing', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 0xffffffff }),
      // Eight digits each for the file of 4 GB and, of those that there can be, the segment in it.
      fc.integer({ min: 0, max: 2 ** 40 - 1 }),
      (timeline, number) => {
        const segment = { timeline, number };
        expect(parseSegment(segmentName(segment))).toEqual(segment);
      },
    ),
  );
});

test('in the segment in which a timeline was left, the file of the next one counts', () => {
  const history = [{ timeline: 1, leftAt: lsn(5, 100) }];
  expect([4, 5, 6].map(number => timelineOf(number, 2, history))).toEqual([1, 2, 2]);
  // It was left exactly at the end of a segment.
  expect([4, 5].map(number => timelineOf(number, 2, [{ timeline: 1, leftAt: lsn(5) }]))).toEqual([
    1, 2,
  ]);
});

test('every segment that is taken away is missed, and none else; files of a line that was left hide nothing', () => {
  const course = fc.record({
    first: fc.integer({ min: 1, max: 300 }),
    lengths: fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 1, maxLength: 5 }),
    taken: fc.array(fc.nat(120), { maxLength: 6 }),
  });
  fc.assert(
    fc.property(course, ({ first, lengths, taken }) => {
      const history: { timeline: number; leftAt: bigint }[] = [];
      let end = first;
      for (const [index, length] of lengths.entries()) {
        end += length;
        if (index < lengths.length - 1) history.push({ timeline: index + 1, leftAt: lsn(end, 8) });
      }
      const current = lengths.length;
      const numbers = Array.from({ length: end - first }, (_, index) => first + index);
      const missing = [...new Set(taken.map(each => numbers[each]))].filter(
        number => number !== undefined && number !== numbers.at(-1),
      ) as number[];
      const there = numbers
        .filter(number => !missing.includes(number))
        .map(number => segmentName({ timeline: timelineOf(number, current, history), number }));
      const foreign = numbers.map(number => segmentName({ timeline: 99, number }));
      const coverage = coverageOf(
        [...there, ...foreign, '00000002.history'],
        first,
        current,
        history,
      );
      expect(coverage.missing).toEqual(missing.toSorted((a, b) => a - b));
      expect(coverage.until).toBe(missing.length > 0 ? Math.min(...missing) - 1 : numbers.at(-1));
    }),
  );
});
