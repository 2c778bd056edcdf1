/** What the operations on RabbitMQ work with, and what is observed of it. */
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { deriveKeyFrom } from '../../app/environment.ts';
import { isRoot, SYSTEM_FOLDER, settleFolder, unprivilegedAccount } from '../../engines/account.ts';
import { EPMD, type RabbitMqNode } from '../../engines/rabbitmq.ts';
import { RabbitMqControl } from '../../engines/rabbitmq-control.ts';
import type { Account, Machine, UnitState } from '../../machines/unit.ts';
import { readRuntimeMap } from '../../map/map-file.ts';
import type { QueueMap } from '../../map/runtime-map.ts';
import type { Deployment } from '../deployment.ts';
import type { ObservedNode, ObservedQueue } from './plan.ts';

export interface QueueContext {
  machine: Machine;
  deployment: Deployment;
  /** Of a RabbitMQ that Banyan does not run: a secret. */
  externalUrl: string | undefined;
}

/** Labels that nodes carry. */
export interface NodeLabels {
  port: number;
  nodePort: number;
  metricsPort: number;
  memoryMb: number;
}

export const LOOPBACK = '127.0.0.1';

/** The only user of the nodes that Banyan runs. */
export const RABBITMQ_USER = 'banyan';

/** The same whatever their number, so that no process needs a restart to know it. */
export function rabbitMqPassword({ secrets }: Pick<Deployment, 'secrets'>): string {
  return deriveKeyFrom(secrets.application, 'rabbitmq', 24).toString('base64url');
}

/** By which nodes and their command line know each other. */
export function rabbitMqCookie({ secrets }: Pick<Deployment, 'secrets'>): string {
  return deriveKeyFrom(secrets.application, 'rabbitmq-cookie', 24).toString('hex');
}

/** What the environment of processes says. @param externalUrl undefined: of the nodes that Banyan runs */
export function queueUrl(deployment: Pick<Deployment, 'secrets'>, externalUrl?: string): string {
  return externalUrl ?? `amqp://${RABBITMQ_USER}:${rabbitMqPassword(deployment)}@${LOOPBACK}`;
}

/** Where nodes have their files, and whose they are. */
export async function settleRabbitMq({
  paths,
  id,
}: Deployment): Promise<{ folder: string; account: Account | undefined }> {
  const account = isRoot() ? unprivilegedAccount() : undefined;
  const elsewhere = path.join(SYSTEM_FOLDER, id, 'rabbitmq');
  return { account, folder: await settleFolder(paths.rabbitmq, elsewhere, account) };
}

/** The nodes that are units, by their labels. */
export function rabbitMqNodes(states: readonly UnitState[]): RabbitMqNode[] {
  return states.filter(isNode).map(({ name, labels }) => {
    const { port, nodePort, metricsPort } = labels as unknown as NodeLabels;
    return { name, host: LOOPBACK, port, nodePort, metricsPort };
  });
}

export function isNode({ tier, name }: UnitState): boolean {
  return tier === 'queue' && name !== EPMD;
}

function epmdPort(states: readonly UnitState[]): number | undefined {
  const found = states.find(({ name }) => name === EPMD);
  return found && Number(found.labels.port);
}

/** @returns its port. @throws when it does not run */
export async function runningEpmd(machine: Pick<Machine, 'states'>): Promise<number> {
  const port = epmdPort(await machine.states());
  if (port === undefined) throw new Error(`${EPMD} does not run`);
  return port;
}

/** Asks through `name`. */
export async function controlOf(
  { deployment, machine }: QueueContext,
  name: string,
): Promise<RabbitMqControl> {
  const port = await runningEpmd(machine);
  const { folder, account } = await settleRabbitMq(deployment);
  return new RabbitMqControl({ name, folder: path.join(folder, name), epmdPort: port, account });
}

export async function observeQueue(context: QueueContext): Promise<ObservedQueue> {
  const { machine, deployment } = context;
  const states = await machine.states();
  const { queue } = readRuntimeMap(deployment.paths.map);
  const units = states.filter(isNode);
  const ready = units.filter(({ phase }) => phase === 'ready').map(({ name }) => name);
  const named = (port: number) =>
    (queue?.rabbitmq.nodes ?? []).some(node => node.host === LOOPBACK && node.port === port);
  const publishedFirst = units.find(
    ({ name, labels }) => ready.includes(name) && named(Number(labels.port)),
  );
  const asked = publishedFirst?.name ?? ready[0];
  const look = asked === undefined ? undefined : await lookAt(context, asked);
  const nodes: ObservedNode[] = units.map(({ name, labels }) => ({
    name,
    runs: ready.includes(name),
    joined: look?.all.includes(name) ?? true,
    published: named(Number(labels.port)),
    memoryMb: Number(labels.memoryMb),
  }));
  for (const name of keptNodes(deployment)) {
    if (nodes.some(node => node.name === name)) continue;
    // What the others do not know was taken away from them, or had not joined yet.
    nodes.push({
      name,
      runs: false,
      joined: look?.all.includes(name) ?? true,
      published: false,
      memoryMb: 0,
    });
  }
  return {
    epmd: epmdPort(states) !== undefined,
    nodes,
    uneven: look?.uneven ?? false,
    published: publishedOf(queue, units),
  };
}

function publishedOf(
  queue: QueueMap | undefined,
  units: readonly UnitState[],
): ObservedQueue['published'] {
  if (!queue || queue.rabbitmq.draining) return { kind: 'postgresql' };
  const [first] = queue.rabbitmq.nodes;
  const isOurs = queue.rabbitmq.nodes.some(
    ({ host, port }) => host === LOOPBACK && units.some(({ labels }) => labels.port === port),
  );
  return isOurs || !first
    ? { kind: 'rabbitmq' }
    : { kind: 'external', external: `${first.host}:${first.port}` };
}

async function lookAt(
  context: QueueContext,
  name: string,
): Promise<{ all: string[]; uneven: boolean } | undefined> {
  try {
    const control = await controlOf(context, name);
    const [{ all }, copies] = [await control.members(), await control.copies()];
    const uneven = [...copies.values()].some(members => all.some(each => !members.includes(each)));
    return { all, uneven };
  } catch {
    return undefined;
  }
}

/** Nodes that have a folder, whether they run or not. */
export function keptNodes({ paths }: Pick<Deployment, 'paths'>): string[] {
  try {
    return readdirSync(paths.rabbitmq)
      .filter(name => /^rabbitmq-\d+$/.test(name))
      .sort();
  } catch {
    return [];
  }
}
