/**
 * From what runs to what should run: the steps for the cache tier. Pure.
 *
 * Holds true of every plan:
 * - The map names only Redis servers that run and are ready; one is stopped after the map has ceased to name it.
 * - A node of a cluster leaves when it has no slots any more.
 * - Carried out to the end, a plan of the same desire has no steps.
 */
import { SLOTS } from '../../engines/redis-cluster.ts';
import { byNumber, UnitNames } from '../unit-names.ts';
import type { CacheShape } from './shape.ts';

export interface ObservedRedis {
  name: string;
  mode: 'single' | 'cluster';
  runs: boolean;
  memoryMb: number;
  /** The map names it. */
  published: boolean;
  /** Of a cluster's node. */
  role: 'master' | 'replica';
  /** How many it holds. */
  slots: number;
  /** By whom it is copied from. */
  masterOf?: string;
}

export interface ObservedCache {
  redis: ObservedRedis[];
  invalidators: { name: string; credentials: string }[];
  published:
    | { kind: 'none' | 'memory' }
    | { kind: 'single' | 'cluster'; nodes: number; external?: string };
  /** Something of the invalidators is left in the database. */
  followed: boolean;
  /** The database is replicated, and a failover would lose the invalidator's place in the log. */
  unkept: boolean;
}

export type CacheStep =
  | { do: 'start-invalidator'; name: string }
  | { do: 'stop-invalidator'; name: string }
  | { do: 'start-redis'; name: string; mode: 'single' | 'cluster' }
  | { do: 'arrange-redis'; masters: number; names: string[]; leaving: string[] }
  | { do: 'resize-redis'; names: string[]; memoryMb: number }
  | { do: 'publish-cache'; names: string[]; to: CacheShape['kind'] }
  | { do: 'stop-redis'; name: string }
  | { do: 'keep-slot' }
  | { do: 'stop-following' };

/** @param credentials by which the desired store is reached: an invalidator that has others is replaced */
export function planCache(
  observed: ObservedCache,
  desired: CacheShape,
  credentials: string,
): CacheStep[] {
  const steps: CacheStep[] = [];
  const invalidators = planInvalidators(observed, desired, credentials);
  steps.push(...invalidators.starts);
  if (desired.kind === 'single') steps.push(...planSingle(observed, desired));
  else if (desired.kind === 'cluster') steps.push(...planCluster(observed, desired));
  else {
    if (!isPublished(observed, desired)) {
      steps.push({ do: 'publish-cache', names: [], to: desired.kind });
    }
    steps.push(...stops(observed.redis));
  }
  steps.push(...invalidators.stops);
  if (desired.kind !== 'none' && observed.unkept) steps.push({ do: 'keep-slot' });
  if (desired.kind === 'none' && (observed.followed || observed.invalidators.length > 0)) {
    steps.push({ do: 'stop-following' });
  }
  return steps;
}

function planInvalidators(
  { invalidators }: ObservedCache,
  desired: CacheShape,
  credentials: string,
): { starts: CacheStep[]; stops: CacheStep[] } {
  const current = invalidators.filter(each => each.credentials === credentials);
  const staying = desired.kind === 'none' ? [] : current.slice(0, desired.invalidators);
  const missing = desired.kind === 'none' ? 0 : desired.invalidators - staying.length;
  const names = new UnitNames('invalidator', namesOf(invalidators)).take(missing);
  return {
    starts: names.map(name => ({ do: 'start-invalidator', name })),
    stops: invalidators
      .filter(each => !staying.includes(each))
      .map(({ name }) => ({ do: 'stop-invalidator', name })),
  };
}

function planSingle({ redis, published }: ObservedCache, desired: CacheShape): CacheStep[] {
  const steps: CacheStep[] = [];
  const usable = redis.filter(({ mode, runs }) => mode === 'single' && runs);
  const found = usable.find(each => each.published) ?? usable[0];
  const name = found?.name ?? new UnitNames('cache', namesOf(redis)).next();
  if (!found) steps.push({ do: 'start-redis', name, mode: 'single' });
  else if (found.memoryMb !== desired.memoryMb) {
    steps.push({ do: 'resize-redis', names: [name], memoryMb: desired.memoryMb });
  }
  const isNamed =
    published.kind === 'single' &&
    !published.external &&
    published.nodes === 1 &&
    found?.published === true;
  if (!isNamed) steps.push({ do: 'publish-cache', names: [name], to: 'single' });
  return [...steps, ...stops(redis.filter(each => each.name !== name))];
}

function planCluster({ redis, published }: ObservedCache, desired: CacheShape): CacheStep[] {
  const { servers, replicas, memoryMb } = desired;
  const wanted = servers * (replicas + 1);
  const nodes = redis.filter(({ mode, runs }) => mode === 'cluster' && runs);
  const worth = ({ published: named, slots, role }: ObservedRedis) =>
    (slots > 0 ? 4 : 0) + (named ? 2 : 0) + (role === 'master' ? 1 : 0);
  // The last that came goes first, and who holds slots last.
  const staying = nodes
    .map((node, index) => ({ node, index }))
    .sort((a, b) => worth(b.node) - worth(a.node) || a.index - b.index)
    .slice(0, wanted)
    .map(({ node }) => node);
  const leaving = nodes.filter(node => !staying.includes(node));
  const added = new UnitNames('cache', namesOf(redis)).take(wanted - staying.length);
  const names = [...staying.map(({ name }) => name), ...added].sort(byNumber);

  const steps: CacheStep[] = [];
  // What does not run may be restarted any moment, and is not waited for.
  steps.push(...stops(redis.filter(({ mode, runs }) => mode === 'cluster' && !runs)));
  for (const name of added) steps.push({ do: 'start-redis', name, mode: 'cluster' });
  const other = staying.filter(each => each.memoryMb !== memoryMb);
  if (other.length > 0) steps.push({ do: 'resize-redis', names: namesOf(other), memoryMb });
  if (added.length + leaving.length > 0 || !isArranged(staying, desired)) {
    steps.push({
      do: 'arrange-redis',
      masters: servers,
      names,
      leaving: namesOf(leaving),
    });
  }
  const isNamed =
    published.kind === 'cluster' &&
    !published.external &&
    published.nodes === names.length &&
    added.length === 0 &&
    staying.every(each => each.published);
  if (!isNamed) steps.push({ do: 'publish-cache', names, to: 'cluster' });
  steps.push(...stops([...leaving, ...redis.filter(({ mode }) => mode === 'single')]));
  return steps;
}

/** Who is master of what does not matter: after a failover others are. */
function isArranged(nodes: ObservedRedis[], { servers, replicas }: CacheShape): boolean {
  const masters = nodes.filter(({ role, slots }) => role === 'master' && slots > 0);
  const held = masters.map(({ slots }) => slots);
  return (
    masters.length === servers &&
    held.reduce((sum, slots) => sum + slots, 0) === SLOTS &&
    Math.max(...held) - Math.min(...held) <= 1 &&
    nodes.every(({ role, slots }) => role === 'replica' || slots > 0) &&
    masters.every(
      ({ name }) => nodes.filter(({ masterOf }) => masterOf === name).length === replicas,
    )
  );
}

function isPublished({ published }: ObservedCache, { kind, external }: CacheShape): boolean {
  if (kind !== 'external') return published.kind === kind;
  return 'external' in published && published.external === `${external?.host}:${external?.port}`;
}

function stops(nodes: readonly { name: string }[]): CacheStep[] {
  return nodes.map(({ name }) => ({ do: 'stop-redis', name }));
}

function namesOf(nodes: readonly { name: string }[]): string[] {
  return nodes.map(({ name }) => name);
}
