/** The plan for the database tier: from any state to any goal, in whatever moment it is cut off. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type DatabaseStep,
  type ObservedDatabase,
  type ObservedNode,
  planDatabase,
} from '../../../src/operate/database/plan.ts';
import type { ClusterShape, DatabaseShape } from '../../../src/operate/database/shape.ts';

const RESTARTED = '2030-01-01T00:00:00.000Z';
const ASKED = '2029-01-01T00:00:00.000Z';
const OLD = '2028-01-01T00:00:00.000Z';

const revisionOf = ({ settings }: ClusterShape) => String(settings.maxConnections);
const plan = (observed: ObservedDatabase, desired: DatabaseShape) =>
  planDatabase(observed, desired, revisionOf);

function cluster(replicas: number, more: Partial<ClusterShape> = {}): ClusterShape {
  const settings = { memoryMb: 128, maxConnections: 100, strict: true, extra: {} };
  return { kind: 'cluster', replicas, etcd: 1, settings, ...more };
}

function node(number: number, more: Partial<ObservedNode> = {}): ObservedNode {
  return {
    name: `database-${number}`,
    isPrimary: number === 1,
    runs: true,
    joined: true,
    pendingRestart: false,
    startedAt: OLD,
    ...more,
  };
}

const SINGLE: ObservedDatabase = {
  serving: 'embedded',
  embeddedRuns: true,
  etcd: [],
  nodes: [],
  revision: undefined,
};

function replicated(nodes: number): ObservedDatabase {
  return {
    serving: 'cluster',
    embeddedRuns: false,
    etcd: [{ name: 'etcd-1', runs: true }],
    nodes: Array.from({ length: nodes }, (_, index) => node(index + 1)),
    revision: '100',
  };
}

/** What a step does to what is observed. Throws where a real step would do harm. */
function carryOut(
  now: ObservedDatabase,
  step: DatabaseStep,
  desired: DatabaseShape,
): ObservedDatabase {
  const change = (name: string, more: Partial<ObservedNode>) =>
    now.nodes.map(each => (each.name === name ? { ...each, ...more } : each));
  const hasAgreement = now.etcd.some(({ runs }) => runs);
  switch (step.do) {
    case 'start-etcd':
      return {
        ...now,
        etcd: [
          ...now.etcd.filter(({ name }) => !step.names.includes(name)),
          ...step.names.map(name => ({ name, runs: true })),
        ],
      };
    case 'stop-etcd':
      expect(now.serving).toBe('embedded');
      expect(now.nodes).toEqual([]);
      return { ...now, etcd: [], revision: undefined };
    case 'start-node': {
      expect(hasAgreement).toBe(true);
      const revision =
        now.revision ?? (desired as ClusterShape).settings?.maxConnections.toString();
      if (now.nodes.some(({ name }) => name === step.name)) {
        return { ...now, revision, nodes: change(step.name, { runs: true, startedAt: RESTARTED }) };
      }
      const isPrimary = !now.nodes.some(each => each.isPrimary);
      const made = { name: step.name, isPrimary, runs: true, joined: false, pendingRestart: false };
      return { ...now, revision, nodes: [...now.nodes, { ...made, startedAt: RESTARTED }] };
    }
    case 'add-member':
      return { ...now, nodes: change(step.name, { joined: true }) };
    case 'drop-member':
      expect(now.nodes.filter(({ joined }) => joined).length).toBeGreaterThan(1);
      return { ...now, nodes: change(step.name, { joined: false }) };
    case 'remove-node': {
      const gone = now.nodes.find(({ name }) => name === step.name);
      if (now.serving === 'cluster') {
        expect(gone?.isPrimary, `${step.name} is the primary and has the rows`).toBe(false);
        expect(gone?.joined).toBe(false);
      }
      return { ...now, nodes: now.nodes.filter(each => each !== gone) };
    }
    case 'configure':
      return {
        ...now,
        revision: revisionOf(desired as ClusterShape),
        nodes: now.nodes.map(each => ({ ...each, pendingRestart: true })),
      };
    case 'restart-nodes': {
      const nodes = now.nodes.map(each => ({
        ...each,
        pendingRestart: false,
        startedAt: RESTARTED,
      }));
      return { ...now, nodes };
    }
    case 'switch-over': {
      const to = step.to ?? now.nodes.find(({ isPrimary, runs }) => !isPrimary && runs)?.name;
      expect(now.nodes.find(({ name }) => name === step.from)?.isPrimary).toBe(true);
      expect(now.nodes.find(({ name }) => name === to)?.runs).toBe(true);
      return { ...now, nodes: now.nodes.map(each => ({ ...each, isPrimary: each.name === to })) };
    }
    case 'declare':
      return now;
    case 'start-embedded':
      return { ...now, embeddedRuns: true };
    case 'move':
      if (step.to === 'cluster') expect(now.nodes.some(({ runs }) => runs)).toBe(true);
      else expect(now.embeddedRuns).toBe(true);
      return {
        ...now,
        serving: step.to,
        nodes: now.nodes.map(each => ({ ...each, joined: step.to === 'cluster' })),
      };
    case 'clear-move':
      return now;
    case 'stop-embedded':
      expect(now.serving).toBe('cluster');
      return { ...now, embeddedRuns: false };
  }
}

const shapes: fc.Arbitrary<DatabaseShape> = fc.oneof(
  fc.constant<DatabaseShape>({ kind: 'embedded' }),
  fc
    .record({
      replicas: fc.integer({ min: 1, max: 4 }),
      maxConnections: fc.constantFrom(100, 200),
      primary: fc.option(fc.constantFrom('database-1', 'database-2', 'database-9'), {
        nil: undefined,
      }),
      retired: fc.option(fc.constantFrom('database-1', 'database-2', 'database-7'), {
        nil: undefined,
      }),
      startedAfter: fc.option(fc.constant(ASKED), { nil: undefined }),
    })
    .map(({ replicas, maxConnections, primary, retired, startedAfter }) => ({
      ...cluster(replicas),
      settings: { memoryMb: 128, maxConnections, strict: true, extra: {} },
      ...(primary ? { primary } : {}),
      // Whoever is to be the primary is not at the same time to go.
      ...(retired && retired !== primary ? { retired: [retired] } : {}),
      ...(startedAfter ? { startedAfter } : {}),
    })),
);

describe('whatever runs and whatever is asked for', () => {
  test('the plan leads there, never takes the rows from under anybody, and has then nothing to do', () => {
    fc.assert(
      fc.property(
        fc.oneof(fc.constant(SINGLE), fc.integer({ min: 2, max: 5 }).map(replicated)),
        shapes,
        fc.array(fc.tuple(shapes, fc.nat(12)), { maxLength: 3 }),
        (start, goal, detours) => {
          let now = start;
          // Operations that were cut off after some steps, each followed by another.
          for (const [detour, count] of detours) {
            for (const step of plan(now, detour).slice(0, count)) now = carryOut(now, step, detour);
          }
          // One plan may leave what only the next one can see: who the primary then is.
          for (let round = 0; round < 3; round++) {
            for (const step of plan(now, goal)) now = carryOut(now, step, goal);
          }
          expect(plan(now, goal)).toEqual([]);
          expect(now.serving).toBe(goal.kind);
          if (goal.kind === 'cluster') {
            expect(now.nodes.length).toBe(goal.replicas + 1);
            expect(now.nodes.every(({ runs, joined }) => runs && joined)).toBe(true);
            expect(now.embeddedRuns).toBe(false);
            for (const name of goal.retired ?? []) {
              expect(now.nodes.map(each => each.name)).not.toContain(name);
            }
          } else {
            expect(now.nodes).toEqual([]);
            expect(now.etcd).toEqual([]);
          }
        },
      ),
      { numRuns: 3_000 },
    );
  });
});

describe('single cases', () => {
  test('nothing to do is no step', () => {
    expect(plan(SINGLE, { kind: 'embedded' })).toEqual([]);
    expect(plan(replicated(3), cluster(2))).toEqual([]);
    expect(plan(SINGLE, { kind: 'external' })).toEqual([]);
  });

  test('a replica more is started before it gets reads; one less gets none before it is stopped', () => {
    expect(plan(replicated(2), cluster(2))).toEqual([
      { do: 'start-node', name: 'database-3' },
      { do: 'add-member', name: 'database-3' },
    ]);
    expect(plan(replicated(3), cluster(1))).toEqual([
      { do: 'drop-member', name: 'database-3' },
      { do: 'remove-node', name: 'database-3' },
    ]);
  });

  test('the primary hands over before it goes', () => {
    expect(plan(replicated(2), cluster(1, { retired: ['database-1'] }))).toEqual([
      { do: 'start-node', name: 'database-3' },
      { do: 'add-member', name: 'database-3' },
      { do: 'switch-over', from: 'database-1', to: undefined },
      { do: 'drop-member', name: 'database-1' },
      { do: 'remove-node', name: 'database-1' },
    ]);
  });

  test('new settings are given, and servers that need it restarted', () => {
    const shape = cluster(1);
    shape.settings.maxConnections = 200;
    expect(plan(replicated(2), shape).map(step => step.do)).toEqual(['configure', 'restart-nodes']);
  });
});
