/** The autoscaler follows the load, calmly. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type Bounds,
  decide,
  type LoadSample,
  SCALE_UP_AFTER_MS,
} from '../../../src/operate/autoscale/decide.ts';

const bounds: Bounds = {
  min: 1,
  max: 8,
  target: 0.6,
  maxConcurrency: 100,
  scaleDownAfterMs: 60_000,
};
const EVERY_MS = 2_000;

/** Samples of the last `seconds`, all the same. */
function steady(seconds: number, sample: Partial<LoadSample> & { servers: number }): LoadSample[] {
  return Array.from({ length: Math.floor((seconds * 1_000) / EVERY_MS) + 1 }, (_, index) => ({
    at: index * EVERY_MS,
    processors: 0,
    inFlight: 0,
    queued: 0,
    ...sample,
  }));
}

describe('up', () => {
  test('in proportion to how busy the processors are', () => {
    const decision = decide(steady(10, { servers: 2, processors: 1.8 }), bounds);
    expect(decision?.servers).toBe(3);
    expect(decision?.reason).toBe('90 % busy (meant to be 60 %)');
  });
  test('or how many requests the servers work on', () => {
    expect(decide(steady(10, { servers: 2, inFlight: 200 }), bounds)?.servers).toBe(4);
  });
  test('when requests wait, whatever the processors say', () => {
    const decision = decide(steady(10, { servers: 2, queued: 7 }), bounds);
    expect(decision?.servers).toBe(3);
    expect(decision?.reason).toContain('7 requests waiting');
  });
  test('not for a spike', () => {
    const samples = steady(10, { servers: 2, processors: 1.2 });
    samples.at(-1)!.processors = 2;
    expect(decide(samples, bounds)).toBeUndefined();
  });
  test('not before it is known how long it lasts', () => {
    const short = steady(SCALE_UP_AFTER_MS / 1_000 - 2, { servers: 2, processors: 2 });
    expect(decide(short, bounds)).toBeUndefined();
  });
  test('at most twice as many at once, and never more than the most', () => {
    expect(decide(steady(10, { servers: 2, inFlight: 2_000 }), bounds)?.servers).toBe(4);
    expect(decide(steady(10, { servers: 7, inFlight: 2_000 }), bounds)?.servers).toBe(8);
    expect(decide(steady(10, { servers: 8, inFlight: 2_000 }), bounds)).toBeUndefined();
  });
});

describe('down', () => {
  test('only when no more were needed for the whole time', () => {
    expect(decide(steady(50, { servers: 4 }), bounds)).toBeUndefined();
    expect(decide(steady(60, { servers: 4 }), bounds)?.servers).toBe(2);
    expect(decide(steady(60, { servers: 2, processors: 0.1 }), bounds)?.servers).toBe(1);
  });
  test('a short rise within that time keeps them', () => {
    const samples = steady(60, { servers: 4 });
    samples[5]!.processors = 2.4;
    expect(decide(samples, bounds)).toBeUndefined();
  });
  test('never below the least', () => {
    expect(decide(steady(60, { servers: 2 }), { ...bounds, min: 2 })).toBeUndefined();
  });
});

test('near the target nothing happens', () => {
  for (const processors of [1.1, 1.2, 1.3]) {
    expect(decide(steady(120, { servers: 2, processors }), bounds)).toBeUndefined();
  }
});

test('a number outside of the bounds is brought in at once', () => {
  expect(decide(steady(0, { servers: 9 }), bounds)?.servers).toBe(8);
  expect(decide(steady(0, { servers: 1 }), { ...bounds, min: 2 })?.servers).toBe(2);
});

test('property: a constant load comes to rest: no number is left and come back to', () => {
  fc.assert(
    fc.property(
      fc.double({ min: 0, max: 8, noNaN: true }),
      fc.integer({ min: 1, max: 8 }),
      (processors, start) => {
        let servers = start;
        const seen = [servers];
        for (let round = 0; round < 20; round++) {
          // The load is what it is; each server has one processor and can do no more.
          const used = Math.min(processors, servers);
          const decision = decide(steady(120, { servers, processors: used }), bounds);
          if (!decision) break;
          expect(decision.servers).toBeGreaterThanOrEqual(bounds.min);
          expect(decision.servers).toBeLessThanOrEqual(bounds.max);
          servers = decision.servers;
          seen.push(servers);
        }
        expect(new Set(seen).size).toBe(seen.length);
        expect(
          decide(steady(120, { servers, processors: Math.min(processors, servers) }), bounds),
        ).toBeUndefined();
      },
    ),
  );
});
