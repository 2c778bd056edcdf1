/** Plans are right for every state that a crash may leave: simulated by the thousand. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type DesiredWeb,
  type ObservedBalancer,
  type ObservedServer,
  type ObservedWeb,
  planWeb,
  type Step,
} from '../../../src/operate/web/plan.ts';

/** What a step does to the world, as the carrying out does it. */
function apply(world: ObservedWeb, step: Step, desired: DesiredWeb): ObservedWeb {
  const servers = world.servers.map(server => ({ ...server }));
  const balancers = world.balancers.map(balancer => ({ ...balancer }));
  const server = 'name' in step ? servers.find(({ name }) => name === step.name) : undefined;
  switch (step.do) {
    case 'share-connections':
      break;
    case 'start-server':
      expect(server).toBeUndefined();
      servers.push({
        name: step.name,
        release: desired.release,
        revision: desired.revision,
        direct: step.direct,
        weight: step.weight,
        joined: false,
      });
      break;
    case 'join':
      expect(server).toBeDefined();
      server!.joined = true;
      break;
    case 'leave':
      expect(server).toBeDefined();
      server!.joined = false;
      break;
    case 'stop-server':
      expect(server).toBeDefined();
      // Whoever still gets requests is not stopped.
      if (!server!.direct && balancers.length > 0) expect(server!.joined).toBe(false);
      servers.splice(servers.indexOf(server!), 1);
      break;
    case 'set-weight':
      server!.weight = step.weight;
      break;
    case 'start-balancer':
      expect(balancers.some(({ name }) => name === step.name)).toBe(false);
      balancers.push({
        name: step.name,
        address: step.address,
        revision: desired.balancerRevision,
      });
      // It starts with every server that is not direct.
      for (const each of servers) if (!each.direct) each.joined = true;
      break;
    case 'reload-balancer':
      balancers.find(({ name }) => name === step.name)!.revision = desired.balancerRevision;
      break;
    case 'stop-balancer':
      balancers.splice(
        balancers.findIndex(({ name }) => name === step.name),
        1,
      );
      break;
    case 'start-autoscaler':
    case 'stop-autoscaler':
      return { ...world, servers, balancers, autoscaled: step.do === 'start-autoscaler' };
  }
  return { ...world, servers, balancers };
}

/** Somebody accepts connections, and has somebody to give the requests to. */
function serves({ servers, balancers }: ObservedWeb): boolean {
  const direct = servers.some(server => server.direct);
  const balanced = balancers.length > 0 && servers.some(({ joined, direct }) => joined && !direct);
  return balancers.length > 0 ? balanced : direct;
}

const weight = fc.constantFrom(50, 100);
const desiredState: fc.Arbitrary<DesiredWeb> = fc
  .record({
    release: fc.nat(2),
    revision: fc.constantFrom('a', 'b'),
    weights: fc.array(weight, { minLength: 1, maxLength: 6 }),
    balancers: fc.constantFrom<string[][]>(
      [],
      ['127.0.0.1'],
      ['127.0.0.1', '127.0.0.2'],
      ['127.0.0.3'],
    ),
    balancerRevision: fc.constantFrom('x', 'y'),
    autoscaled: fc.boolean(),
  })
  .map(desired => (desired.balancers.length ? desired : { ...desired, weights: [100] }));

const observedState: fc.Arbitrary<ObservedWeb> = fc
  .record({
    servers: fc.array(
      fc.record({
        release: fc.nat(2),
        revision: fc.constantFrom('a', 'b'),
        direct: fc.boolean(),
        weight,
        joined: fc.boolean(),
      }),
      { maxLength: 6 },
    ),
    balancers: fc.array(
      fc.record({
        address: fc.constantFrom('127.0.0.1', '127.0.0.2', '127.0.0.3'),
        revision: fc.constantFrom('x', 'y'),
      }),
      { maxLength: 2 },
    ),
    autoscaled: fc.boolean(),
    workers: fc.nat(3),
  })
  .map(({ servers, balancers, autoscaled, workers }) => {
    const unique = balancers.filter(
      ({ address }, index) => balancers.findIndex(other => other.address === address) === index,
    );
    return {
      autoscaled,
      workers,
      servers: servers.map(
        (server, index): ObservedServer => ({
          ...server,
          name: `web-${index + 1}`,
          weight: server.direct ? 100 : server.weight,
          joined: server.joined && unique.length > 0 && !server.direct,
        }),
      ),
      balancers: unique.map(
        (balancer, index): ObservedBalancer => ({ ...balancer, name: `balancer-${index + 1}` }),
      ),
    };
  });

function run(observed: ObservedWeb, desired: DesiredWeb, steps: Step[]): ObservedWeb {
  return steps.reduce((world, step) => apply(world, step, desired), observed);
}

function expectReached(world: ObservedWeb, desired: DesiredWeb): void {
  const { servers, balancers, autoscaled } = world;
  expect(autoscaled).toBe(desired.autoscaled);
  const sorted = (weights: number[]) => weights.toSorted((a, b) => a - b);
  expect(sorted(servers.map(server => server.weight))).toEqual(sorted(desired.weights));
  const isBalanced = desired.balancers.length > 0;
  for (const server of servers) {
    expect(server).toMatchObject({
      release: desired.release,
      revision: desired.revision,
      direct: !isBalanced,
      joined: isBalanced,
    });
  }
  expect(balancers.map(({ address }) => address).sort()).toEqual(desired.balancers.toSorted());
  for (const { revision } of balancers) expect(revision).toBe(desired.balancerRevision);
}

test('property: every plan leads from any state to the desired one', () => {
  fc.assert(
    fc.property(observedState, desiredState, (observed, desired) => {
      expectReached(run(observed, desired, planWeb(observed, desired)), desired);
    }),
    { numRuns: 2_000 },
  );
});

test('property: a plan that was carried out leaves nothing to do', () => {
  fc.assert(
    fc.property(observedState, desiredState, (observed, desired) => {
      const reached = run(observed, desired, planWeb(observed, desired));
      expect(planWeb(reached, desired)).toEqual([]);
    }),
    { numRuns: 2_000 },
  );
});

test('property: cut off after any step, a new plan still leads there', () => {
  fc.assert(
    fc.property(observedState, desiredState, fc.nat(30), (observed, desired, cut) => {
      const world = run(observed, desired, planWeb(observed, desired).slice(0, cut));
      expectReached(run(world, desired, planWeb(world, desired)), desired);
    }),
    { numRuns: 2_000 },
  );
});

test('property: whoever served before serves at every moment', () => {
  fc.assert(
    fc.property(observedState, desiredState, (observed, desired) => {
      fc.pre(serves(observed));
      let world = observed;
      for (const step of planWeb(observed, desired)) {
        world = apply(world, step, desired);
        expect(serves(world), `after ${JSON.stringify(step)}`).toBe(true);
      }
    }),
    { numRuns: 2_000 },
  );
});

describe('examples', () => {
  const server = (name: string, more: Partial<ObservedServer> = {}): ObservedServer => ({
    name,
    release: 0,
    revision: 'a',
    direct: false,
    weight: 100,
    joined: true,
    ...more,
  });
  const desired = (more: Partial<DesiredWeb> = {}): DesiredWeb => ({
    release: 0,
    revision: 'a',
    weights: [100],
    balancers: [],
    balancerRevision: '',
    autoscaled: false,
    ...more,
  });
  const words = (steps: Step[]) =>
    steps.map(step =>
      [step.do, 'name' in step ? step.name : 'servers' in step ? step.servers : '']
        .join(' ')
        .trim(),
    );

  test('from one server to two behind a balancer, beside a worker', () => {
    const observed = {
      servers: [server('web-1', { direct: true, joined: false })],
      balancers: [],
      autoscaled: false,
      workers: 1,
    };
    const steps = planWeb(
      observed,
      desired({ weights: [100, 100], balancers: ['127.0.0.1'], balancerRevision: 'x' }),
    );
    expect(words(steps)).toEqual([
      'share-connections 4',
      'start-server web-2',
      'start-server web-3',
      'start-balancer balancer-1',
      'stop-server web-1',
      'share-connections 3',
    ]);
  });

  test('a release: one in, one out', () => {
    const balancers = [{ name: 'balancer-1', address: '127.0.0.1', revision: 'x' }];
    const observed = {
      servers: [server('web-1'), server('web-2')],
      balancers,
      autoscaled: false,
      workers: 0,
    };
    const steps = planWeb(
      observed,
      desired({
        release: 1,
        weights: [100, 100],
        balancers: ['127.0.0.1'],
        balancerRevision: 'x',
      }),
    );
    expect(words(steps)).toEqual([
      'share-connections 3',
      'start-server web-3',
      'join web-3',
      'leave web-1',
      'stop-server web-1',
      'start-server web-1',
      'join web-1',
      'leave web-2',
      'stop-server web-2',
      'share-connections 2',
    ]);
  });
});
