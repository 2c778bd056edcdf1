/** Plans of the cache tier are right from every state that a crash may leave: simulated by the thousand. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { partsOf, SLOTS } from '../../../src/engines/redis-cluster.ts';
import { type CacheStep, type ObservedCache, planCache } from '../../../src/operate/cache/plan.ts';
import type { CacheShape } from '../../../src/operate/cache/shape.ts';

const CREDENTIALS = 'now';

/** What a step does to the world, as the carrying out does it. */
function apply(before: ObservedCache, step: CacheStep, desired: CacheShape): ObservedCache {
  const world = structuredClone(before);
  const find = (name: string) => world.redis.find(each => each.name === name);
  switch (step.do) {
    case 'start-invalidator':
      expect(world.invalidators.some(({ name }) => name === step.name)).toBe(false);
      world.invalidators.push({ name: step.name, credentials: CREDENTIALS });
      world.followed = true;
      break;
    case 'stop-invalidator':
      world.invalidators = world.invalidators.filter(({ name }) => name !== step.name);
      break;
    case 'start-redis':
      expect(find(step.name)).toBeUndefined();
      world.redis.push({
        name: step.name,
        mode: step.mode,
        runs: true,
        memoryMb: desired.memoryMb,
        published: false,
        role: 'master',
        slots: 0,
      });
      break;
    case 'arrange-redis': {
      for (const name of step.leaving) find(name)!.slots = 0;
      const nodes = step.names.map(name => find(name)!);
      for (const node of nodes) expect(node.runs).toBe(true);
      const masters = nodes
        .toSorted((a, b) => b.slots - a.slots)
        .slice(0, step.masters)
        .map(({ name }) => name);
      const parts = partsOf(step.masters);
      let next = 0;
      for (const node of nodes) {
        const index = masters.indexOf(node.name);
        delete node.masterOf;
        node.role = index >= 0 ? 'master' : 'replica';
        node.slots = index >= 0 ? parts[index]![1] - parts[index]![0] + 1 : 0;
        if (index < 0) node.masterOf = masters[next++ % masters.length]!;
      }
      break;
    }
    case 'resize-redis':
      for (const name of step.names) find(name)!.memoryMb = step.memoryMb;
      break;
    case 'publish-cache':
      for (const node of world.redis) node.published = step.names.includes(node.name);
      // The map never names who does not run.
      for (const name of step.names) expect(find(name)?.runs).toBe(true);
      if (step.to === 'none' || step.to === 'memory') world.published = { kind: step.to };
      else if (step.to === 'external') {
        const { host, port } = desired.external!;
        world.published = { kind: 'single', nodes: 1, external: `${host}:${port}` };
      } else world.published = { kind: step.to, nodes: step.names.length };
      break;
    case 'stop-redis': {
      const node = find(step.name)!;
      // What ended by itself the map may name until it is published anew.
      if (node.runs) {
        expect(node.published).toBe(false);
        if (desired.kind === 'cluster' && node.mode === 'cluster') expect(node.slots).toBe(0);
      }
      world.redis = world.redis.filter(each => each !== node);
      break;
    }
    case 'keep-slot':
      world.unkept = false;
      break;
    case 'stop-following':
      expect(world.invalidators).toEqual([]);
      world.followed = false;
      break;
  }
  return world;
}

const shape: fc.Arbitrary<CacheShape> = fc
  .record({
    kind: fc.constantFrom('none', 'memory', 'single', 'cluster', 'external'),
    servers: fc.integer({ min: 3, max: 6 }),
    replicas: fc.integer({ min: 0, max: 2 }),
    memoryMb: fc.constantFrom(32, 64),
    invalidators: fc.integer({ min: 1, max: 2 }),
  })
  .map(each => ({
    ...each,
    kind: each.kind as CacheShape['kind'],
    ...(each.kind === 'external'
      ? { external: { host: 'redis', port: 1, tls: false, credentials: 'x' } }
      : {}),
  }));

const world: fc.Arbitrary<ObservedCache> = fc
  .record({
    redis: fc
      .uniqueArray(
        fc.record({
          number: fc.integer({ min: 1, max: 12 }),
          mode: fc.constantFrom('single' as const, 'cluster' as const),
          runs: fc.boolean(),
          memoryMb: fc.constantFrom(32, 64),
          published: fc.boolean(),
          role: fc.constantFrom('master' as const, 'replica' as const),
          slots: fc.integer({ min: 0, max: SLOTS }),
        }),
        { selector: ({ number }) => number, maxLength: 8 },
      )
      .map(nodes => nodes.map(({ number, ...node }) => ({ name: `cache-${number}`, ...node }))),
    invalidators: fc
      .uniqueArray(
        fc.record({
          number: fc.integer({ min: 1, max: 4 }),
          credentials: fc.constantFrom('before', CREDENTIALS),
        }),
        { selector: ({ number }) => number, maxLength: 3 },
      )
      .map(list =>
        list.map(({ number, credentials }) => ({ name: `invalidator-${number}`, credentials })),
      ),
    published: fc.oneof(
      fc.record({ kind: fc.constantFrom('none' as const, 'memory' as const) }),
      fc.record({
        kind: fc.constantFrom('single' as const, 'cluster' as const),
        nodes: fc.integer({ min: 1, max: 8 }),
      }),
    ),
    followed: fc.boolean(),
    unkept: fc.boolean(),
  })
  .map(({ published, ...found }) => {
    // The map names what is of its own kind; if that is nobody, then somebody that we do not run.
    const redis = found.redis.map(node => ({
      ...node,
      published: node.published && published.kind === node.mode,
    }));
    const named = redis.filter(node => node.published).length;
    if (published.kind === 'none' || published.kind === 'memory')
      return { ...found, redis, published };
    const whose = named === 0 ? { external: 'elsewhere:1' } : {};
    return { ...found, redis, published: { kind: published.kind, nodes: named || 1, ...whose } };
  });

test('every plan leads to what is desired, and then nothing is left to do', () => {
  fc.assert(
    fc.property(world, shape, (start, desired) => {
      let now = start;
      for (const step of planCache(start, desired, CREDENTIALS)) now = apply(now, step, desired);
      expect(planCache(now, desired, CREDENTIALS)).toEqual([]);
    }),
    { numRuns: 2_000 },
  );
});

test('a plan that is cut off anywhere is continued by planning again', () => {
  fc.assert(
    fc.property(world, shape, fc.nat(), (start, desired, cut) => {
      const steps = planCache(start, desired, CREDENTIALS);
      let now = start;
      for (const step of steps.slice(0, cut % (steps.length + 1))) now = apply(now, step, desired);
      for (const step of planCache(now, desired, CREDENTIALS)) now = apply(now, step, desired);
      expect(planCache(now, desired, CREDENTIALS)).toEqual([]);
    }),
    { numRuns: 2_000 },
  );
});

test('a failover changes who is master, and asks for nothing', () => {
  const desired: CacheShape = {
    kind: 'cluster',
    servers: 3,
    replicas: 1,
    memoryMb: 32,
    invalidators: 1,
  };
  const empty: ObservedCache = {
    redis: [],
    invalidators: [],
    published: { kind: 'none' },
    followed: false,
    unkept: false,
  };
  let now = empty;
  for (const step of planCache(empty, desired, CREDENTIALS)) now = apply(now, step, desired);
  const master = now.redis.find(({ role }) => role === 'master')!;
  const replica = now.redis.find(({ masterOf }) => masterOf === master.name)!;
  Object.assign(replica, { role: 'master', slots: master.slots });
  delete replica.masterOf;
  Object.assign(master, { role: 'replica', slots: 0, masterOf: replica.name });
  expect(planCache(now, desired, CREDENTIALS)).toEqual([]);
});
