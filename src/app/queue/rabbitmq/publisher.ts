/**
 * Publishing to RabbitMQ.
 *
 * Holds true here:
 * - What is told to be published was confirmed by a majority of each queue's nodes, or taken by PostgreSQL.
 * - What certainly was not sent, and what no queue took, is for PostgreSQL. What may have been sent is sent again, under the same id,
 *   until it is confirmed or the time is up: then nobody can say.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { Channel, Connection } from 'rabbitmq-client';
import { log } from '../../telemetry/log.ts';
import type { OutgoingMessage } from '../engine.ts';
import type { Place } from '../postgres/places.ts';
import type { Broker } from './broker.ts';
import { PublishUncertain } from './errors.ts';
import { declareTopic, exchangeOf } from './names.ts';

/** Nobody waits longer for a connection: PostgreSQL takes it. */
const CONNECT_MS = 1_000;
/** Longer than nodes need to agree on another leader. */
const CONFIRM_MS = 15_000;
const RETRY_MS = 200;
/** Whether a topic goes over RabbitMQ is asked again after this, as long as it does not. */
const ASK_AGAIN_MS = 1_000;

interface Route {
  readonly isOver: boolean;
  readonly askedAt: number;
}

export class RabbitPublisher {
  readonly #broker: Broker;
  readonly #places: () => readonly Place[];
  #connection: Connection | undefined;
  #opening: Promise<Connection> | undefined;
  #channel: Promise<Channel> | undefined;
  #connecting: Promise<void> | undefined;
  /** Why RabbitMQ takes no messages, by its own word. */
  #blocked: string | undefined;
  readonly #routes = new Map<string, Route>();
  /** Ids of messages that no queue took. */
  readonly #returned = new Set<string>();

  constructor(broker: Broker, places: () => readonly Place[]) {
    this.#broker = broker;
    this.#places = places;
    broker.onChange(() => this.#leave());
  }

  /** @returns those that it did not take, which are for PostgreSQL. @throws PublishUncertain */
  async publish(messages: readonly OutgoingMessage[]): Promise<OutgoingMessage[]> {
    const { topic } = messages[0]!;
    if (!(await this.#isReady()) || !(await this.#goesOver(topic))) return [...messages];
    const deadline = performance.now() + CONFIRM_MS;
    const refused: OutgoingMessage[] = [];
    let left = [...messages];
    let wasSent = false;
    let cause: unknown;
    while (left.length > 0) {
      const patience = AbortSignal.timeout(Math.max(1, Math.ceil(deadline - performance.now())));
      try {
        const isOver = once(patience);
        // On a connection that is blocked a channel is not opened, and nothing says so.
        const channel = await Promise.race([this.#publishing(), isOver]);
        if (!channel) throw new Error('it opens no channel');
        wasSent = true;
        const outcomes = await Promise.race([
          Promise.allSettled(left.map(message => send(channel, message))),
          isOver,
        ]);
        if (!outcomes) throw new Error('it does not confirm');
        const failed = outcomes.find(outcome => outcome.status === 'rejected');
        cause = failed?.reason ?? cause;
        refused.push(...left.filter(({ id }) => this.#returned.delete(id)));
        left = left.filter((_, index) => outcomes[index]!.status === 'rejected');
      } catch (error) {
        cause = error;
      }
      if (left.length === 0) break;
      this.#channel = undefined;
      if (!wasSent) return [...refused, ...left];
      if (performance.now() > deadline) {
        const ids = left.map(({ id }) => id);
        throw new PublishUncertain(topic, ids, CONFIRM_MS, this.#blocked, cause);
      }
      await delay(RETRY_MS);
    }
    return refused;
  }

  /** There is a connection, and RabbitMQ takes messages. */
  async #isReady(): Promise<boolean> {
    if (this.#connection?.ready) return true;
    try {
      const connection = await this.#open();
      // All who wait do so together: each waiting is a listener of the connection's.
      this.#connecting ??= connection.onConnect(CONNECT_MS, true).finally(() => {
        this.#connecting = undefined;
      });
      await this.#connecting;
      // False also while it is blocked, for want of memory or disk.
      return connection.ready;
    } catch {
      return false;
    }
  }

  #open(): Promise<Connection> {
    this.#opening ??= this.#broker.open('banyan publisher').then(connection => {
      this.#connection = connection;
      connection.on('connection.blocked', reason => {
        this.#blocked = reason;
        log.warn(`RabbitMQ takes no messages (${reason}): they go to PostgreSQL meanwhile`);
      });
      connection.on('connection.unblocked', () => {
        this.#blocked = undefined;
      });
      return connection;
    });
    return this.#opening;
  }

  #publishing(): Promise<Channel> {
    this.#channel ??= (async () => {
      const channel = await (await this.#open()).acquire();
      channel.on('basic.return', ({ messageId }) => {
        if (messageId !== undefined) this.#returned.add(messageId);
      });
      channel.once('close', () => {
        this.#channel = undefined;
      });
      await channel.confirmSelect();
      return channel;
    })();
    this.#channel.catch(() => {
      this.#channel = undefined;
    });
    return this.#channel;
  }

  /** Somebody has subscribed to it, and nobody keeps results. Makes its queues. */
  async #goesOver(topic: string): Promise<boolean> {
    const known = this.#routes.get(topic);
    const isFresh = known && performance.now() - known.askedAt < ASK_AGAIN_MS;
    if (known && (known.isOver || isFresh)) return known.isOver;
    let isOver = false;
    try {
      const { rows } = await this.#places()[0]!.query<{ name: string; keeps: boolean }>({
        text: 'select name, keep_results_ms > 0 as keeps from banyan_queue.subscription where topic = $1',
        values: [topic],
      });
      if (rows.length > 0 && !rows.some(({ keeps }) => keeps)) {
        const names = rows.map(({ name }) => name);
        await declareTopic(await this.#publishing(), topic, names);
        isOver = true;
      }
    } catch (error) {
      // There are no tables yet, the database is away, or RabbitMQ is: PostgreSQL takes it, or says why not.
      log.debug({ err: error }, 'a topic does not go over RabbitMQ for now');
    }
    this.#routes.set(topic, { isOver, askedAt: performance.now() });
    return isOver;
  }

  /** The map names others, or none. What is under way is waited for. */
  #leave(): void {
    const before = this.#opening;
    this.#opening = undefined;
    this.#connection = undefined;
    this.#channel = undefined;
    this.#connecting = undefined;
    this.#blocked = undefined;
    this.#routes.clear();
    void before?.then(connection =>
      setTimeout(() => connection.unsafeDestroy(), CONFIRM_MS).unref(),
    );
  }

  async close(): Promise<void> {
    const connection = await this.#opening?.catch(() => undefined);
    const channel = await this.#channel?.catch(() => undefined);
    // It waits for what is not confirmed yet, and that may never be.
    await Promise.race([
      channel?.close().catch(() => {}),
      delay(CONNECT_MS, undefined, { ref: false }),
    ]);
    connection?.unsafeDestroy();
  }
}

function send(channel: Channel, { id, topic, payload }: OutgoingMessage): Promise<void> {
  return channel.basicPublish(
    { exchange: exchangeOf(topic), durable: true, mandatory: true, messageId: id },
    Buffer.from(payload),
  );
}

function once(signal: AbortSignal): Promise<undefined> {
  return new Promise(resolve => {
    signal.addEventListener('abort', () => resolve(undefined), { once: true });
  });
}
