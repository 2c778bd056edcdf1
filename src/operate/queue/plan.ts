/**
 * From what runs to what should run: the steps for RabbitMQ. Pure.
 *
 * Holds true of every plan:
 * - The map names only nodes that run and belong to the cluster; one leaves after the map has ceased to name it.
 * - A node is taken away when each queue has all its copies elsewhere. The last is never taken away with messages in it
 *   (`leave-rabbitmq` of it asks the node itself).
 * - Carried out to the end, a plan of the same desire has no steps.
 *
 * Glossary: a node is *kept* when its folder has messages in it, whether it runs or not.
 */
import { byNumber, UnitNames } from '../unit-names.ts';
import type { QueueShape } from './shape.ts';

export interface ObservedNode {
  name: string;
  runs: boolean;
  /** It belongs to the cluster, or did when it last ran. One that does not was cut off before it had joined. */
  joined: boolean;
  /** The map names it. */
  published: boolean;
  memoryMb: number;
}

export interface ObservedQueue {
  epmd: boolean;
  nodes: ObservedNode[];
  /** Some queue has no copy on some node. */
  uneven: boolean;
  /** What the map says. */
  published: { kind: QueueShape['kind']; external?: string };
}

export type QueueStep =
  | { do: 'start-epmd' }
  | { do: 'start-rabbitmq'; names: string[]; joins: boolean }
  | { do: 'spread-queues'; names: string[] }
  | { do: 'publish-queue'; names: string[]; to: QueueShape['kind'] }
  | { do: 'leave-rabbitmq'; name: string; last: boolean }
  | { do: 'stop-epmd' };

export function planQueue(observed: ObservedQueue, desired: QueueShape): QueueStep[] {
  if (desired.kind === 'rabbitmq') return planCluster(observed, desired);
  const { external } = desired;
  const steps: QueueStep[] = [];
  const isNamed =
    observed.published.kind === desired.kind &&
    observed.published.external === (external && `${external.host}:${external.port}`);
  const nodes = observed.nodes.toSorted(byName).map(({ name }) => name);
  if (nodes.length > 0 && !observed.epmd) steps.push({ do: 'start-epmd' });
  // Also what does not run: what is in it has to come out.
  const down = observed.nodes.filter(({ runs }) => !runs).map(({ name }) => name);
  if (down.length > 0) steps.push({ do: 'start-rabbitmq', names: down.sort(), joins: false });
  if (!isNamed) steps.push({ do: 'publish-queue', names: [], to: desired.kind });
  for (const [index, name] of nodes.toReversed().entries()) {
    steps.push({ do: 'leave-rabbitmq', name, last: index === nodes.length - 1 });
  }
  if (observed.epmd || nodes.length > 0) steps.push({ do: 'stop-epmd' });
  return steps;
}

function planCluster(observed: ObservedQueue, { servers }: QueueShape): QueueStep[] {
  const steps: QueueStep[] = [];
  if (!observed.epmd) steps.push({ do: 'start-epmd' });
  const strays = observed.nodes.filter(({ joined }) => !joined).map(({ name }) => name);
  for (const name of strays) steps.push({ do: 'leave-rabbitmq', name, last: false });

  const nodes = observed.nodes.filter(({ joined }) => joined).toSorted(byName);
  // Together: each waits for the others before it serves.
  const down = nodes.filter(({ runs }) => !runs).map(({ name }) => name);
  if (down.length > 0) steps.push({ do: 'start-rabbitmq', names: down, joins: false });

  const staying = nodes.slice(0, servers).map(({ name }) => name);
  const leaving = nodes.slice(servers).map(({ name }) => name);
  const names = new UnitNames(
    'rabbitmq',
    nodes.map(({ name }) => name),
  );
  const added = names.take(servers - staying.length);
  // One after the other: two that begin at the same time may each take itself for the first.
  for (const name of added) steps.push({ do: 'start-rabbitmq', names: [name], joins: true });
  const members = [...staying, ...added];
  if ((members.length > 1 && added.length > 0) || observed.uneven) {
    steps.push({ do: 'spread-queues', names: members });
  }
  const published = nodes.filter(each => each.published).map(({ name }) => name);
  const isNamed =
    observed.published.kind === 'rabbitmq' &&
    down.length === 0 &&
    published.length === members.length &&
    published.every(name => members.includes(name));
  if (!isNamed) steps.push({ do: 'publish-queue', names: members, to: 'rabbitmq' });
  for (const name of leaving) steps.push({ do: 'leave-rabbitmq', name, last: false });
  return steps;
}

function byName(a: { name: string }, b: { name: string }): number {
  return byNumber(a.name, b.name);
}
