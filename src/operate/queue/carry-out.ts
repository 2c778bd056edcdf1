/**
 * Carries the steps of a plan for RabbitMQ out.
 *
 * Holds true here: each step may be done twice: a controller that was killed between doing and noting does it again.
 */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { EPMD, epmdUnit, prepareRabbitMq } from '../../engines/rabbitmq.ts';
import { BanyanError } from '../../errors.ts';
import { freePort, onFreePort } from '../../machines/free-port.ts';
import { changeMap } from '../change-map.ts';
import { pollUntil } from '../poll.ts';
import { carryOutSteps, type StepProgress } from '../steps.ts';
import {
  controlOf,
  keptNodes,
  LOOPBACK,
  type NodeLabels,
  observeQueue,
  type QueueContext,
  RABBITMQ_USER,
  rabbitMqCookie,
  rabbitMqNodes,
  rabbitMqPassword,
  runningEpmd,
  settleRabbitMq,
} from './context.ts';
import { explainQueue } from './explain.ts';
import { planQueue, type QueueStep } from './plan.ts';
import type { QueueShape } from './shape.ts';

/** Workers empty it; if there are none, or they do not manage, that has to be known. */
const DRAIN_MS = 120_000;

/** A node that serves may need a moment until the others have seen it. */
const JOIN_MS = 30_000;

export class QueueNotEmpty extends BanyanError {
  constructor(name: string, bundles: number) {
    super('QUEUE_NOT_EMPTY', {
      what: `There ${bundles === 1 ? 'is still a bundle' : `are still ${bundles} bundles`} of messages in RabbitMQ after ${DRAIN_MS / 1_000} s, and it is not stopped while there are any`,
      where: name,
      remedy:
        'See `banyan queue`: are there workers for each subscription? They go on emptying it meanwhile; then try again',
    });
  }
}

/** What would be done, without doing it. */
export async function planQueueFor(context: QueueContext, shape: QueueShape): Promise<QueueStep[]> {
  return planQueue(await observeQueue(context), shape);
}

/** Goes there. @throws whatever a step throws; messages are kept in any case */
export async function convergeQueue(
  context: QueueContext,
  shape: QueueShape,
  progress: StepProgress = {},
): Promise<void> {
  const tier = new QueueTier(context, shape);
  const steps = await planQueueFor(context, shape);
  await carryOutSteps(steps, explainQueue, step => tier.carryOut(step), progress);
}

class QueueTier {
  readonly #context: QueueContext;
  readonly #shape: QueueShape;

  constructor(context: QueueContext, shape: QueueShape) {
    this.#context = context;
    this.#shape = shape;
  }

  async carryOut(step: QueueStep): Promise<void> {
    const { machine, deployment } = this.#context;
    switch (step.do) {
      case 'start-epmd': {
        await machine.stop(EPMD);
        const { account } = await settleRabbitMq(deployment);
        return onFreePort(LOOPBACK, freePort, port => machine.start(epmdUnit(port, account)));
      }
      case 'start-rabbitmq':
        await Promise.all(step.names.map(name => this.#start(name, step.joins)));
        return;
      case 'spread-queues':
        return this.#spread(step.names);
      case 'publish-queue':
        return this.#publish(step);
      case 'leave-rabbitmq':
        return step.last ? this.#end(step.name) : this.#leave(step.name);
      case 'stop-epmd':
        return machine.stop(EPMD);
    }
  }

  async #start(name: string, joins: boolean): Promise<void> {
    const { machine, deployment } = this.#context;
    const { folder, account } = await settleRabbitMq(deployment);
    await machine.stop(name);
    const own = path.join(folder, name);
    // Left of a start that failed: with it the node would take itself for the first.
    if (joins) await rm(own, { recursive: true, force: true });
    const members = joins ? [...keptNodes(deployment), name] : keptNodes(deployment);
    const port = await runningEpmd(machine);
    const { memoryMb, freeDiskMb } = this.#shape;
    await onFreePort(LOOPBACK, freePort, async amqp => {
      const ports = { port: amqp, nodePort: await freePort(), metricsPort: await freePort() };
      const labels: NodeLabels = { ...ports, memoryMb };
      await machine.start(
        await prepareRabbitMq({
          node: { name, host: LOOPBACK, ...ports },
          folder: own,
          members,
          epmdPort: port,
          user: RABBITMQ_USER,
          password: rabbitMqPassword(deployment),
          cookie: rabbitMqCookie(deployment),
          memoryMb: memoryMb || FALLBACK_MEMORY_MB,
          freeDiskMb: freeDiskMb || FALLBACK_DISK_MB,
          labels: { ...labels },
          account,
        }),
      );
    });
    if (joins && members.length > 1) await this.#hasJoined(name);
  }

  /** One that found nobody has begun a cluster of its own; messages that it took would be alone. */
  async #hasJoined(name: string): Promise<void> {
    const control = await controlOf(this.#context, name);
    const joined = await pollUntil(JOIN_MS, async () => {
      const { all } = await control.members();
      return all.length > 1 ? true : undefined;
    });
    if (!joined) throw new Error(`${name} did not join the other nodes of RabbitMQ`);
  }

  async #spread(names: readonly string[]): Promise<void> {
    const control = await controlOf(this.#context, names[0]!);
    for (const name of names) await control.growTo(name);
  }

  async #publish({ names, to }: Extract<QueueStep, { do: 'publish-queue' }>): Promise<void> {
    const { machine, deployment } = this.#context;
    const states = await machine.states();
    const [first] = to === 'rabbitmq' ? names : [];
    // Somebody may have begun to leave it.
    if (first !== undefined) await (await controlOf(this.#context, first)).admit(RABBITMQ_USER);
    const addresses = rabbitMqNodes(states)
      .filter(({ name }) => names.includes(name))
      .map(({ host, port }) => ({ host, port }));
    await changeMap(deployment.paths.map, ({ queue: before, ...map }) => {
      switch (to) {
        case 'rabbitmq':
          return { ...map, queue: { rabbitmq: { nodes: addresses } } };
        case 'external': {
          const { host, port, tls } = this.#shape.external!;
          return {
            ...map,
            queue: { rabbitmq: { nodes: [{ host, port }], ...(tls ? { tls } : {}) } },
          };
        }
        case 'postgresql':
          // What is in it is still done; nothing new comes.
          return before
            ? { ...map, queue: { rabbitmq: { ...before.rabbitmq, draining: true } } }
            : map;
      }
    });
  }

  async #leave(name: string): Promise<void> {
    const { machine } = this.#context;
    const others = rabbitMqNodes(await machine.states()).filter(node => node.name !== name);
    const [other] = others;
    if (other) {
      const control = await controlOf(this.#context, other.name);
      const belongs = (await control.members()).all.includes(name);
      if (belongs) await control.shrinkFrom(name);
      await machine.stop(name);
      if (belongs) await control.forget(name);
    } else await machine.stop(name);
    await this.#remove(name);
  }

  /** @throws QueueNotEmpty */
  async #end(name: string): Promise<void> {
    const { machine, deployment } = this.#context;
    const control = await controlOf(this.#context, name);
    let left = 0;
    const empty = await pollUntil(DRAIN_MS, async () => {
      left = await control.messages();
      if (left > 0) return undefined;
      // A publisher that looked at the map long ago, and stood still since, might have one confirmed that nobody sees any more.
      await control.fence(RABBITMQ_USER);
      left = await control.messages();
      if (left === 0) return true;
      await control.admit(RABBITMQ_USER);
      return undefined;
    });
    if (!empty) throw new QueueNotEmpty(name, left);
    if (this.#shape.kind === 'postgresql') {
      await changeMap(deployment.paths.map, ({ queue: _queue, ...map }) => map);
    }
    await machine.stop(name);
    await this.#remove(name);
  }

  /** With all that it has kept. */
  async #remove(name: string): Promise<void> {
    const { folder } = await settleRabbitMq(this.#context.deployment);
    await rm(path.join(folder, name), { recursive: true, force: true });
  }
}

/** Of a node that is started only to be emptied. */
const FALLBACK_MEMORY_MB = 256;
const FALLBACK_DISK_MB = 50;
