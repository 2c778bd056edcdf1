/**
 * When what was read on a primary shows a session its own write: by the end of the log *before* the snapshot. With the end after
 * it there is a hole of microseconds, which no server shows at will; so the order of events is tried out on a model.
 */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { covers, type Position } from '../../../src/app/cache/position.ts';

/** A write, another one that makes the log longer, and a question to the primary: each a few steps in a fixed order. */
const THREADS = {
  /** Its commit record, then it is visible, then acknowledged; then the session asks how long the log is. */
  session: ['record', 'visible', 'need'],
  other: ['more'],
  question: ['before', 'snapshot', 'after'],
} as const;

type Step = (typeof THREADS)[keyof typeof THREADS][number];

/** Any order of all steps in which each thread's own stay in theirs. */
const interleavings: fc.Arbitrary<Step[]> = fc
  .shuffledSubarray(
    Object.entries(THREADS).flatMap(([name, steps]) => steps.map(() => name)),
    { minLength: 7 },
  )
  .map(names => {
    const left = { session: 0, other: 0, question: 0 };
    return names.map(name => {
      const thread = name as keyof typeof THREADS;
      return THREADS[thread][left[thread]++]!;
    });
  });

const WRITER = 10n;

function play(steps: readonly Step[]): { position: Position; need: bigint; isSeen: boolean } {
  let log = 100n;
  let isVisible = false;
  let isSeen = false;
  const at = new Map<Step, bigint>();
  for (const step of steps) {
    if (step === 'record' || step === 'more') log += 10n;
    if (step === 'visible') isVisible = true;
    if (step === 'snapshot') isSeen = isVisible;
    at.set(step, log);
  }
  const running = new Set(isSeen ? [] : [WRITER]);
  const snapshot = { xmin: isSeen ? WRITER + 1n : WRITER, xmax: WRITER + 1n, running };
  return {
    position: { kind: 'snapshot', snapshot, lsn: at.get('after')!, before: at.get('before')! },
    need: at.get('need')!,
    isSeen,
  };
}

test('what is said to show the session its write does, in whatever order things happen', () => {
  fc.assert(
    fc.property(interleavings, steps => {
      const { position, need, isSeen } = play(steps);
      if (covers(position, need)) expect(isSeen).toBe(true);
    }),
    { numRuns: 2_000 },
  );
});

test('with the end of the log after the snapshot in its place there is a hole', () => {
  const found = fc.check(
    fc.property(interleavings, steps => {
      const { position, need, isSeen } = play(steps);
      return !covers({ ...position, before: position.lsn } as Position, need) || isSeen;
    }),
    { numRuns: 2_000 },
  );
  expect(found.failed).toBe(true);
});

test('what began after the session asked, behind a longer log, does show it', () => {
  const steps: Step[] = ['record', 'visible', 'need', 'more', 'before', 'snapshot', 'after'];
  const { position, need } = play(steps);
  expect(covers(position, need)).toBe(true);
});
