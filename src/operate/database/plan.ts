/**
 * From what runs to what should run: the steps for the database tier. Pure.
 *
 * Holds true of every plan:
 * - The rows are at every moment with servers that stay until another has them.
 * - A node that is the primary is not removed or restarted before another has taken over.
 * - Carried out to the end, a plan of the same desire has no steps: so a plan that was cut off in the middle is
 *   continued by planning again.
 */
import { UnitNames } from '../unit-names.ts';
import type { DatabaseShape } from './shape.ts';

export interface ObservedNode {
  name: string;
  isPrimary: boolean;
  /** Its unit runs and its PostgreSQL answers. */
  runs: boolean;
  /** Pools know of it. */
  joined: boolean;
  /** A setting that was changed counts only after a restart. */
  pendingRestart: boolean;
  /** Of PostgreSQL; ISO 8601. */
  startedAt: string | undefined;
}

export interface ObservedDatabase {
  serving: DatabaseShape['kind'];
  /** The embedded server's unit runs. */
  embeddedRuns: boolean;
  etcd: { name: string; runs: boolean }[];
  nodes: ObservedNode[];
  /** Of the settings that the cluster has; undefined when there is none. */
  revision: string | undefined;
}

export type DatabaseStep =
  | { do: 'start-etcd'; names: string[] }
  | { do: 'stop-etcd'; names: string[] }
  | { do: 'start-node'; name: string }
  | { do: 'add-member'; name: string }
  | { do: 'drop-member'; name: string }
  | { do: 'remove-node'; name: string }
  | { do: 'configure' }
  | { do: 'restart-nodes'; why: 'settings' | 'asked' }
  | { do: 'switch-over'; to: string | undefined; from: string }
  | { do: 'start-embedded' }
  | { do: 'move'; to: 'cluster' | 'embedded' }
  | { do: 'clear-move' }
  | { do: 'stop-embedded' }
  | { do: 'declare' };

export function planDatabase(
  observed: ObservedDatabase,
  desired: DatabaseShape,
  revisionOf: (shape: Extract<DatabaseShape, { kind: 'cluster' }>) => string,
  shard = 0,
): DatabaseStep[] {
  if (desired.kind === 'external' || observed.serving === 'external') return [];
  if (desired.kind === 'embedded') return toEmbedded(observed);
  const steps: DatabaseStep[] = [];
  const missingEtcd = etcdNames(desired.etcd).filter(
    name => !observed.etcd.some(each => each.name === name && each.runs),
  );
  if (observed.serving === 'embedded') {
    if (missingEtcd.length > 0) steps.push({ do: 'start-etcd', names: missingEtcd });
    const names = namesOf(observed.nodes, shard);
    const wanted = [
      ...observed.nodes.slice(0, desired.replicas + 1).map(({ name }) => name),
      ...names.take(desired.replicas + 1 - observed.nodes.length),
    ];
    for (const name of wanted) {
      if (!observed.nodes.some(node => node.name === name && node.runs)) {
        steps.push({ do: 'start-node', name });
      }
    }
    for (const { name } of observed.nodes.slice(desired.replicas + 1)) {
      steps.push({ do: 'remove-node', name });
    }
    steps.push({ do: 'move', to: 'cluster' }, { do: 'clear-move' }, { do: 'stop-embedded' });
    return steps;
  }
  // A member of etcd that ended for good is started again with the others.
  const present = observed.etcd.filter(({ runs }) => !runs).map(({ name }) => name);
  if (present.length > 0) steps.push({ do: 'start-etcd', names: present });
  if (observed.embeddedRuns) steps.push({ do: 'clear-move' }, { do: 'stop-embedded' });
  steps.push(...withinCluster(observed, desired, revisionOf(desired), shard));
  return steps;
}

function withinCluster(
  { nodes, revision }: ObservedDatabase,
  desired: Extract<DatabaseShape, { kind: 'cluster' }>,
  desiredRevision: string,
  shard: number,
): DatabaseStep[] {
  const steps: DatabaseStep[] = [];
  const retired = new Set(desired.retired ?? []);
  const wanted = desired.replicas + 1;
  const staying = nodes.filter(({ name }) => !retired.has(name));
  const surplus = surplusOf(staying, staying.length - wanted, desired.primary);
  const leaving = [...nodes.filter(({ name }) => retired.has(name)), ...surplus];
  const remaining = staying.filter(node => !surplus.includes(node));

  if (revision !== desiredRevision) steps.push({ do: 'configure' });
  for (const node of remaining) {
    if (!node.runs) steps.push({ do: 'start-node', name: node.name });
    if (!node.joined) steps.push({ do: 'add-member', name: node.name });
  }
  for (const name of namesOf(nodes, shard).take(wanted - staying.length)) {
    steps.push({ do: 'start-node', name }, { do: 'add-member', name });
    remaining.push(newNode(name));
  }

  const primary = nodes.find(({ isPrimary }) => isPrimary);
  const successor =
    desired.primary && remaining.some(({ name }) => name === desired.primary)
      ? desired.primary
      : undefined;
  if (primary && (leaving.includes(primary) || (successor && successor !== primary.name))) {
    // Without a wish, whichever replica is the furthest.
    steps.push({ do: 'switch-over', from: primary.name, to: successor });
  }
  for (const { name, joined } of leaving) {
    if (joined) steps.push({ do: 'drop-member', name });
    steps.push({ do: 'remove-node', name });
  }
  const { startedAfter } = desired;
  const isOld = ({ startedAt }: ObservedNode) =>
    startedAfter !== undefined && startedAt !== undefined && startedAt < startedAfter;
  if (revision !== desiredRevision || remaining.some(({ pendingRestart }) => pendingRestart)) {
    steps.push({ do: 'restart-nodes', why: 'settings' });
  } else if (remaining.some(isOld)) {
    steps.push({ do: 'restart-nodes', why: 'asked' });
  }
  return steps;
}

function newNode(name: string): ObservedNode {
  return {
    name,
    isPrimary: false,
    runs: true,
    joined: true,
    pendingRestart: false,
    startedAt: undefined,
  };
}

/** Those that do not run first, then replicas, the last that came first; never the primary while others can go. */
function surplusOf(
  nodes: ObservedNode[],
  count: number,
  primary: string | undefined,
): ObservedNode[] {
  if (count <= 0) return [];
  const worth = ({ name, isPrimary, runs }: ObservedNode) =>
    (name === primary ? 4 : 0) + (isPrimary ? 2 : 0) + (runs ? 1 : 0);
  return nodes
    .map((node, index) => ({ node, index }))
    .sort((a, b) => worth(a.node) - worth(b.node) || b.index - a.index)
    .slice(0, count)
    .map(({ node }) => node);
}

function toEmbedded({ serving, embeddedRuns, nodes, etcd }: ObservedDatabase): DatabaseStep[] {
  const steps: DatabaseStep[] = [];
  if (serving === 'cluster') {
    if (!embeddedRuns) steps.push({ do: 'start-embedded' });
    steps.push({ do: 'move', to: 'embedded' }, { do: 'clear-move' });
  } else if (nodes.length > 0) {
    steps.push({ do: 'clear-move' });
  }
  // Replicas first: when the primary goes, nobody is to take over.
  const inOrder = nodes.toSorted((a, b) => Number(a.isPrimary) - Number(b.isPrimary));
  for (const { name } of inOrder) steps.push({ do: 'remove-node', name });
  if (etcd.length > 0) steps.push({ do: 'stop-etcd', names: etcd.map(({ name }) => name) });
  return steps;
}

export function etcdNames(count: number): string[] {
  return Array.from({ length: count }, (_, index) => `etcd-${index + 1}`);
}

export function nodeNames(count: number, shard = 0): string[] {
  return namesOf([], shard).take(count);
}

/** `database-1`, `database-2`, …, and of the second shard `shard-2-1`, … */
function namesOf(present: readonly { name: string }[], shard: number): UnitNames {
  const prefix = shard === 0 ? 'database' : `shard-${shard + 1}`;
  return new UnitNames(
    prefix,
    present.map(({ name }) => name),
  );
}
