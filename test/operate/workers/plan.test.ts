/** Plans are right for every state that a crash may leave: simulated by the thousand. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  type DesiredWorkers,
  type ObservedWorkers,
  planWorkers,
  type WorkerStep,
} from '../../../src/operate/workers/plan.ts';

/** What a step does to the world, as the carrying out does it. */
function apply(world: ObservedWorkers, step: WorkerStep, desired: DesiredWorkers): ObservedWorkers {
  const { release, revision } = desired;
  switch (step.do) {
    case 'share-connections':
      return world;
    case 'start-worker':
      expect(world.workers.some(({ name }) => name === step.name)).toBe(false);
      return { ...world, workers: [...world.workers, { name: step.name, release, revision }] };
    case 'stop-workers':
      for (const name of step.names) {
        expect(world.workers.some(worker => worker.name === name)).toBe(true);
      }
      return { ...world, workers: world.workers.filter(({ name }) => !step.names.includes(name)) };
    case 'start-worker-autoscaler':
    case 'stop-worker-autoscaler':
      return { ...world, autoscaled: step.do === 'start-worker-autoscaler' };
  }
}

const kind = { release: fc.nat(2), revision: fc.constantFrom('a', 'b') };
const desiredState: fc.Arbitrary<DesiredWorkers> = fc.record({
  ...kind,
  servers: fc.nat(6),
  autoscaled: fc.boolean(),
});
const observedState: fc.Arbitrary<ObservedWorkers> = fc
  .record({
    workers: fc.uniqueArray(fc.record({ number: fc.integer({ min: 1, max: 12 }), ...kind }), {
      maxLength: 7,
      selector: ({ number }) => number,
    }),
    autoscaled: fc.boolean(),
    webServers: fc.nat(4),
  })
  .map(({ workers, ...rest }) => ({
    ...rest,
    workers: workers.map(({ number, ...each }) => ({ ...each, name: `worker-${number}` })),
  }));

test('a plan that is cut off after any step is led to its end by planning again', () => {
  fc.assert(
    fc.property(observedState, desiredState, fc.nat(20), (observed, desired, cut) => {
      const before = observed.workers.length;
      let world = observed;
      const go = (steps: WorkerStep[]) => {
        for (const step of steps) {
          world = apply(world, step, desired);
          // Not fewer than before or than there shall be; not more than one above.
          expect(world.workers.length).toBeGreaterThanOrEqual(Math.min(before, desired.servers));
          expect(world.workers.length).toBeLessThanOrEqual(Math.max(before, desired.servers) + 1);
        }
      };
      go(planWorkers(world, desired).slice(0, cut));
      go(planWorkers(world, desired));
      expect(planWorkers(world, desired)).toEqual([]);
      expect(world.workers).toHaveLength(desired.servers);
      expect(world.autoscaled).toBe(desired.autoscaled);
      for (const { release, revision } of world.workers) {
        expect({ release, revision }).toEqual({
          release: desired.release,
          revision: desired.revision,
        });
      }
    }),
  );
});

test('the connections are shared out for the most processes that run at a time, before they do', () => {
  fc.assert(
    fc.property(observedState, desiredState, (observed, desired) => {
      let world = observed;
      // As it was left: for those that run.
      let shared = observed.workers.length + observed.webServers;
      for (const step of planWorkers(observed, desired)) {
        if (step.do === 'share-connections') shared = step.servers;
        world = apply(world, step, desired);
        expect(world.workers.length + world.webServers).toBeLessThanOrEqual(Math.max(1, shared));
      }
    }),
  );
});

test('the last that came goes first, and those that are as wanted stay', () => {
  const worker = (number: number, release = 1) => ({
    name: `worker-${number}`,
    release,
    revision: 'a',
  });
  const desired = { release: 1, revision: 'a', servers: 2, autoscaled: false };
  const observed = (workers: ReturnType<typeof worker>[]) => ({
    workers,
    autoscaled: false,
    webServers: 1,
  });
  expect(planWorkers(observed([worker(10), worker(2), worker(1)]), desired)).toEqual([
    { do: 'stop-workers', names: ['worker-10'] },
    { do: 'share-connections', servers: 3, workers: 2 },
  ]);
  expect(planWorkers(observed([worker(1, 0), worker(2), worker(3, 0)]), desired)).toEqual([
    { do: 'stop-workers', names: ['worker-1'] },
    { do: 'start-worker', name: 'worker-1' },
    { do: 'stop-workers', names: ['worker-3'] },
    { do: 'share-connections', servers: 3, workers: 2 },
  ]);
  expect(planWorkers(observed([worker(1, 0), worker(2, 0)]), desired)).toEqual([
    { do: 'share-connections', servers: 4, workers: 3 },
    { do: 'start-worker', name: 'worker-3' },
    { do: 'stop-workers', names: ['worker-1'] },
    { do: 'start-worker', name: 'worker-1' },
    { do: 'stop-workers', names: ['worker-2'] },
    { do: 'share-connections', servers: 3, workers: 2 },
  ]);
});
