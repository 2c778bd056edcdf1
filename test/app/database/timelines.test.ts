import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { leftAt, parseHistory, parseLsn } from '../../../src/app/database/timelines.ts';

/** Some failovers one after the other: each timeline's number, and how far it was gone. */
const failovers = fc.array(fc.record({ skipped: fc.nat(3), grown: fc.bigInt(0n, 1n << 40n) }), {
  maxLength: 8,
});

function historyOf(steps: { skipped: number; grown: bigint }[]) {
  let timeline = 0;
  let at = 0n;
  const lines = steps.map(({ skipped, grown }) => {
    timeline += 1 + skipped;
    at += grown;
    return { timeline, at };
  });
  return { lines, current: timeline + 1 };
}

const lsn = (at: bigint) =>
  `${(at >> 32n).toString(16)}/${(at & 0xffffffffn).toString(16)}`.toUpperCase();

describe('a history file', () => {
  test('says of each timeline before where it was left, of its own that it was not, of others nothing', () => {
    fc.assert(
      fc.property(failovers, fc.nat(40), (steps, asked) => {
        const { lines, current } = historyOf(steps);
        const file = lines
          .map(({ timeline, at }) => `${timeline}\t${lsn(at)}\tno recovery target specified\n`)
          .join('\n');
        const expected =
          asked === current ? 'never' : lines.find(({ timeline }) => timeline === asked)?.at;
        expect(leftAt(parseHistory(file), current, asked)).toBe(expected);
      }),
    );
  });

  test('may hold comments and empty lines', () => {
    const file = '# note\n\n  1\t0/3000060\tbefore 2000-01-01\n\n2\t16/B374D848\tno reason\n';
    expect(parseHistory(file)).toEqual([
      { timeline: 1, leftAt: 0x3000060n },
      { timeline: 2, leftAt: 0x16b374d848n },
    ]);
  });
});

test('what is no position in the log is refused', () => {
  for (const text of ['', '0', '0/', '/0', '0/123456789', 'x/0']) {
    expect(() => parseLsn(text)).toThrow(TypeError);
  }
});
