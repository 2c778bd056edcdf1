/** Plans for RabbitMQ are right for every state that a crash may leave: simulated by the thousand. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type ObservedQueue, planQueue, type QueueStep } from '../../../src/operate/queue/plan.ts';
import { IN_POSTGRESQL, type QueueShape } from '../../../src/operate/queue/shape.ts';

/** What a step does to the world, as the carrying out does it; and what must hold when it is done. */
function apply(world: ObservedQueue, step: QueueStep, desired: QueueShape): ObservedQueue {
  const nodes = world.nodes.map(node => ({ ...node }));
  switch (step.do) {
    case 'start-epmd':
      return { ...world, epmd: true };
    case 'stop-epmd':
      expect(nodes).toEqual([]);
      return { ...world, epmd: false };
    case 'start-rabbitmq':
      expect(world.epmd).toBe(true);
      for (const name of step.names) {
        const found = nodes.find(node => node.name === name);
        if (step.joins) {
          // Of those that are there all serve: a node that finds nobody would begin a cluster of its own.
          expect(found).toBeUndefined();
          expect(nodes.filter(({ joined }) => joined).every(({ runs }) => runs)).toBe(true);
          nodes.push({ name, runs: true, joined: true, published: false, memoryMb: 0 });
        } else {
          found!.runs = true;
        }
      }
      return { ...world, nodes, uneven: world.uneven || (step.joins && nodes.length > 1) };
    case 'spread-queues':
      for (const name of step.names) {
        expect(nodes.find(node => node.name === name)).toMatchObject({ runs: true, joined: true });
      }
      return { ...world, uneven: false };
    case 'publish-queue':
      for (const name of step.names) {
        expect(nodes.find(node => node.name === name)).toMatchObject({ runs: true, joined: true });
      }
      for (const node of nodes) {
        // What is drained is named as long as it is there.
        if (step.to === 'rabbitmq') node.published = step.names.includes(node.name);
      }
      return {
        ...world,
        nodes,
        published: {
          kind: step.to,
          ...(desired.external
            ? { external: `${desired.external.host}:${desired.external.port}` }
            : {}),
        },
      };
    case 'leave-rabbitmq': {
      const found = nodes.find(node => node.name === step.name)!;
      // Nobody publishes to it any more.
      if (world.published.kind === 'rabbitmq') expect(found.published).toBe(false);
      if (step.last) expect(found.runs).toBe(true);
      if (found.joined) {
        const members = nodes.filter(({ joined }) => joined);
        expect(members.every(({ runs }) => runs)).toBe(true);
        // The last one with messages in it is told to be the last.
        expect(members.length === 1).toBe(step.last);
      }
      const left = nodes.filter(node => node !== found);
      return { ...world, nodes: left, uneven: world.uneven && left.length > 1 };
    }
  }
}

const desiredState: fc.Arbitrary<QueueShape> = fc.constantFrom<QueueShape>(
  IN_POSTGRESQL,
  { kind: 'rabbitmq', servers: 1, memoryMb: 128, freeDiskMb: 1 },
  { kind: 'rabbitmq', servers: 3, memoryMb: 128, freeDiskMb: 1 },
  {
    ...IN_POSTGRESQL,
    kind: 'external',
    external: { host: 'h', port: 1, tls: false, credentials: 'x' },
  },
);

/** What may be there: reached by plans that were cut off anywhere, and by nodes that ended. */
const history = fc.array(
  fc.record({
    desired: desiredState,
    cut: fc.nat(12),
    ends: fc.array(fc.nat(2), { maxLength: 2 }),
  }),
  { maxLength: 4 },
);

const NOTHING: ObservedQueue = {
  epmd: false,
  nodes: [],
  uneven: false,
  published: { kind: 'postgresql' },
};

test('whatever was begun and cut off, and whoever has ended, the next plan leads to its end', () => {
  fc.assert(
    fc.property(history, desiredState, (past, desired) => {
      let world = NOTHING;
      const go = (shape: QueueShape, cut = Number.POSITIVE_INFINITY) => {
        for (const step of planQueue(world, shape).slice(0, cut)) {
          world = apply(world, step, shape);
        }
      };
      for (const { desired: wanted, cut, ends } of past) {
        go(wanted, cut);
        const nodes = world.nodes.map((node, index) =>
          ends.includes(index) ? { ...node, runs: false, published: false } : node,
        );
        world = { ...world, nodes };
      }
      go(desired);
      expect(planQueue(world, desired)).toEqual([]);
      const servers = desired.kind === 'rabbitmq' ? desired.servers : 0;
      expect(world.nodes).toHaveLength(servers);
      expect(world.epmd).toBe(servers > 0);
      expect(world.published.kind).toBe(desired.kind);
      expect(world.nodes.every(({ runs, published }) => runs && published)).toBe(true);
      expect(world.uneven).toBe(false);
    }),
    { numRuns: 2_000 },
  );
});

test('a node that was cut off before it had joined begins anew', () => {
  const node = (name: string, joined: boolean) => ({
    name,
    runs: true,
    joined,
    published: joined,
    memoryMb: 128,
  });
  const steps = planQueue(
    {
      epmd: true,
      nodes: [node('rabbitmq-1', true), node('rabbitmq-2', false)],
      uneven: false,
      published: { kind: 'rabbitmq' },
    },
    { kind: 'rabbitmq', servers: 3, memoryMb: 128, freeDiskMb: 1 },
  );
  expect(steps).toEqual([
    { do: 'leave-rabbitmq', name: 'rabbitmq-2', last: false },
    { do: 'start-rabbitmq', names: ['rabbitmq-2'], joins: true },
    { do: 'start-rabbitmq', names: ['rabbitmq-3'], joins: true },
    { do: 'spread-queues', names: ['rabbitmq-1', 'rabbitmq-2', 'rabbitmq-3'] },
    {
      do: 'publish-queue',
      names: ['rabbitmq-1', 'rabbitmq-2', 'rabbitmq-3'],
      to: 'rabbitmq',
    },
  ]);
});
