import { expect, test } from 'vitest';
import { evenRanges } from '../../../../src/app/database/shards/ranges.ts';
import type { ObservedDatabase } from '../../../../src/operate/database/plan.ts';
import {
  type ClusterShape,
  type DatabaseShape,
  settingsRevision,
  withSharding,
} from '../../../../src/operate/database/shape.ts';
import { planShards, ShardsFixed } from '../../../../src/operate/database/sharding/plan.ts';

const settings = { memoryMb: 64, maxConnections: 100, strict: false, extra: {} };
const cluster = (more: Partial<ClusterShape> = {}): ClusterShape => ({
  kind: 'cluster',
  shards: 2,
  replicas: 1,
  etcd: 1,
  settings,
  ...more,
});

const shard = (number: number, names: string[], primary = names[0]): ObservedDatabase => ({
  serving: 'cluster',
  embeddedRuns: false,
  etcd: number === 0 ? [{ name: 'etcd-1', runs: true }] : [],
  nodes: names.map(name => ({
    name,
    isPrimary: name === primary,
    runs: true,
    joined: true,
    pendingRestart: false,
    startedAt: undefined,
  })),
  revision: settingsRevision(settings),
});

const OBSERVED = [shard(0, ['database-1', 'database-2']), shard(1, ['shard-2-1', 'shard-2-2'])];
const single: ObservedDatabase = {
  serving: 'embedded',
  embeddedRuns: true,
  etcd: [],
  nodes: [],
  revision: undefined,
};
const SHARDING = { ranges: evenRanges(2), tables: {}, unique: [] };
const TABLES = { 'public.users': { kind: 'sharded' as const, key: 'id' } };

test('what is as it should be needs no step, on whatever shards', () => {
  expect(planShards(OBSERVED, SHARDING, cluster())).toEqual([]);
  expect(planShards([single], undefined, { kind: 'embedded' })).toEqual([]);
  expect(planShards([single, single], SHARDING, { kind: 'embedded', shards: 2 })).toEqual([]);
});

test('each shard gets servers of its own names, and loses its own surplus', () => {
  expect(planShards(OBSERVED, SHARDING, cluster({ replicas: 2 }))).toEqual([
    { do: 'start-node', name: 'database-3', shard: 0 },
    { do: 'add-member', name: 'database-3', shard: 0 },
    { do: 'start-node', name: 'shard-2-3', shard: 1 },
    { do: 'add-member', name: 'shard-2-3', shard: 1 },
  ]);
  expect(planShards(OBSERVED, SHARDING, cluster({ retired: ['shard-2-1'] }))).toEqual([
    { do: 'start-node', name: 'shard-2-3', shard: 1 },
    { do: 'add-member', name: 'shard-2-3', shard: 1 },
    { do: 'switch-over', from: 'shard-2-1', to: undefined, shard: 1 },
    { do: 'drop-member', name: 'shard-2-1', shard: 1 },
    { do: 'remove-node', name: 'shard-2-1', shard: 1 },
  ]);
});

test('a new primary is made where it is a server, and nowhere else', () => {
  expect(planShards(OBSERVED, SHARDING, cluster({ primary: 'shard-2-2' }))).toEqual([
    { do: 'switch-over', from: 'shard-2-1', to: 'shard-2-2', shard: 1 },
  ]);
});

test('another declaration is one step, which comes last', () => {
  const declaration = { tables: TABLES, unique: [] };
  const steps = planShards(OBSERVED, SHARDING, cluster({ replicas: 2, declaration }));
  expect(steps.at(-1)).toEqual({ do: 'declare' });
  expect(planShards(OBSERVED, { ...SHARDING, ...declaration }, cluster({ declaration }))).toEqual(
    [],
  );
  expect(planShards([single], undefined, { kind: 'embedded', declaration })).toEqual([
    { do: 'declare' },
  ]);
});

test.each<[string, ObservedDatabase[], DatabaseShape, string]>([
  ['more', [single], { kind: 'embedded', shards: 4 }, 'in one database, and 4 are asked for'],
  ['fewer', OBSERVED, cluster({ shards: 1 }), 'in 2 shards, and one is asked for'],
  ['replicas', [single, single], cluster(), 'single servers, and replicas are asked for'],
  ['none', OBSERVED, { kind: 'embedded', shards: 2 }, 'replicated, and single servers are asked'],
])('%s: refused, since rows would have to be moved', (_what, observed, desired, words) => {
  expect(() => planShards(observed, SHARDING, desired)).toThrow(ShardsFixed);
  expect(() => planShards(observed, SHARDING, desired)).toThrow(words);
});

test('a shape that the catalog kept takes on what is written down of the shards', () => {
  const written = { ...SHARDING, tables: TABLES };
  expect(withSharding({ kind: 'embedded' }, written)).toEqual({
    kind: 'embedded',
    shards: 2,
    declaration: { tables: TABLES, unique: [] },
  });
  const old = cluster({ declaration: { tables: {}, unique: ['a.b.c'] } });
  expect(withSharding(old, SHARDING)).toEqual(cluster());
  expect(withSharding({ kind: 'external' }, written)).toEqual({ kind: 'external' });
  expect(withSharding({ kind: 'embedded' }, undefined)).toEqual({ kind: 'embedded' });
});
