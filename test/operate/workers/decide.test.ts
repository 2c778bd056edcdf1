/** The number of workers follows the queue, calmly. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { LARGEST_STEP, SCALE_UP_AFTER_MS } from '../../../src/operate/autoscale/damping.ts';
import {
  decideWorkers,
  type QueueSample,
  type WorkerBounds,
} from '../../../src/operate/workers/decide.ts';

const bounds: WorkerBounds = {
  min: 1,
  max: 8,
  depth: 100,
  ageMs: 10_000,
  scaleDownAfterMs: 60_000,
};
const EVERY_MS = 2_000;

/** Samples of the last `seconds`, all the same. */
function steady(
  seconds: number,
  sample: Partial<QueueSample> & { servers: number },
): QueueSample[] {
  return Array.from({ length: Math.floor((seconds * 1_000) / EVERY_MS) + 1 }, (_, index) => ({
    at: index * EVERY_MS,
    depth: 0,
    oldestMs: 0,
    ...sample,
  }));
}

describe('up', () => {
  test('in proportion to how many messages there are for each', () => {
    const decision = decideWorkers(steady(10, { servers: 2, depth: 301 }), bounds);
    expect(decision).toEqual({ servers: 4, reason: '301 messages in the queue' });
  });
  test('when few messages wait for long, since those in hand are slow', () => {
    const decision = decideWorkers(steady(10, { servers: 2, depth: 5, oldestMs: 11_000 }), bounds);
    expect(decision?.servers).toBe(3);
    expect(decision?.reason).toBe('5 messages in the queue, the oldest due for 11.0 s');
    expect(
      decideWorkers(steady(10, { servers: 3, depth: 5, oldestMs: 90_000 }), bounds)?.servers,
    ).toBe(6);
  });
  test('from nobody, when nobody is the least', () => {
    const none = { ...bounds, min: 0 };
    expect(decideWorkers(steady(10, { servers: 0, depth: 1 }), none)?.servers).toBe(1);
    expect(decideWorkers(steady(10, { servers: 0 }), none)).toBeUndefined();
  });
  test('not for a spike, and not before it is known how long it lasts', () => {
    const samples = steady(10, { servers: 1, depth: 50 });
    samples.at(-1)!.depth = 5_000;
    expect(decideWorkers(samples, bounds)).toBeUndefined();
    const short = steady(SCALE_UP_AFTER_MS / 1_000 - 2, { servers: 1, depth: 5_000 });
    expect(decideWorkers(short, bounds)).toBeUndefined();
  });
});

describe('down', () => {
  test('when no more were needed for the whole time, by half at most', () => {
    expect(decideWorkers(steady(50, { servers: 4 }), bounds)).toBeUndefined();
    expect(decideWorkers(steady(60, { servers: 4 }), bounds)?.servers).toBe(2);
    expect(decideWorkers(steady(60, { servers: 1 }), bounds)).toBeUndefined();
  });
  test('to nobody, when nobody is the least and nothing is left', () => {
    const none = { ...bounds, min: 0 };
    expect(decideWorkers(steady(60, { servers: 1 }), none)?.servers).toBe(0);
    expect(decideWorkers(steady(60, { servers: 1, depth: 1 }), none)).toBeUndefined();
  });
});

const sample = fc.record({
  servers: fc.nat(10),
  depth: fc.oneof(fc.constant(0), fc.nat(5_000)),
  oldestMs: fc.oneof(fc.constant(0), fc.nat(100_000)),
});

test('whatever was seen: within the bounds, no more than twice as many and no fewer than half, never the same again', () => {
  fc.assert(
    fc.property(
      fc.array(sample, { minLength: 1, maxLength: 60 }),
      fc.record({ min: fc.nat(4), more: fc.nat(6) }),
      (seen, { min, more }) => {
        const between = { ...bounds, min, max: Math.max(1, min + more) };
        const samples = seen.map((each, index) => ({ ...each, at: index * EVERY_MS }));
        const { servers } = samples.at(-1)!;
        const decision = decideWorkers(samples, between);
        if (!decision) {
          expect(servers).toBeGreaterThanOrEqual(between.min);
          expect(servers).toBeLessThanOrEqual(between.max);
          return;
        }
        expect(decision.servers).not.toBe(servers);
        expect(decision.servers).toBeGreaterThanOrEqual(between.min);
        expect(decision.servers).toBeLessThanOrEqual(between.max);
        if (servers < between.min || servers > between.max) return;
        expect(decision.servers).toBeLessThanOrEqual(Math.max(1, servers * LARGEST_STEP));
        expect(decision.servers).toBeGreaterThanOrEqual(Math.floor(servers / LARGEST_STEP));
      },
    ),
  );
});

test('more messages never make fewer workers', () => {
  fc.assert(
    fc.property(fc.nat(8), fc.nat(2_000), fc.nat(2_000), (servers, fewer, more) => {
      const wanted = (depth: number) =>
        decideWorkers(steady(60, { servers, depth }), bounds)?.servers ?? servers;
      expect(wanted(fewer + more)).toBeGreaterThanOrEqual(wanted(fewer));
    }),
  );
});
