/**
 * Publishing to RabbitMQ.
 *
 * Holds true here:
 * - What is told to be published was confirmed by a majority of each queue's nodes, or taken by PostgreSQL.
 * - What certainly was not sent, and what no queue took, is for PostgreSQL. What may have been sent is sent again, under the same id,
 *   until it is confirmed, the time is up, or RabbitMQ says that it takes none: then nobody can say, and PostgreSQL takes charge of it, so
 *   that it has its effect once whatever RabbitMQ has (ledger.ts). Over several shards that cannot be had, and the caller is told.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { Channel, Connection } from 'rabbitmq-client';
import { log } from '../../telemetry/log.ts';
import type { OutgoingMessage } from '../engine.ts';
import type { Place } from '../postgres/places.ts';
import type { Broker } from './broker.ts';
import { type Carried, pack } from './bundle.ts';
import { BundleSizes } from './bundle-sizes.ts';
import { PublishUncertain } from './errors.ts';
import { Lane } from './lane.ts';
import type { Ledger } from './ledger.ts';
import { declareTopic, exchangeOf, SUSPECT } from './names.ts';

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
  readonly #ledger: Ledger;
  #connection: Connection | undefined;
  #opening: Promise<Connection> | undefined;
  #channel: Promise<Channel> | undefined;
  #connecting: Promise<void> | undefined;
  /** Why RabbitMQ takes no messages, by its own word. */
  #blocked: string | undefined;
  readonly #routes = new Map<string, Route>();
  readonly #lanes = new Map<string, Lane>();
  readonly #sizes: BundleSizes;
  /** How those who wait for a confirmation are told to wait no longer. */
  readonly #patient = new Set<() => void>();
  /** Ids of bundles that no queue took. */
  readonly #returned = new Set<string>();

  constructor(broker: Broker, places: () => readonly Place[], ledger: Ledger) {
    this.#broker = broker;
    this.#ledger = ledger;
    this.#places = places;
    this.#sizes = new BundleSizes(places);
    broker.onChange(() => this.#leave());
  }

  /** @returns those that it did not take, which are for PostgreSQL. @throws PublishUncertain */
  async publish(messages: readonly OutgoingMessage[]): Promise<OutgoingMessage[]> {
    const { topic } = messages[0]!;
    if (!(await this.#isReady()) || !(await this.#goesOver(topic))) return [...messages];
    const { refused, uncertain, cause } = await this.#laneOf(topic).publish(messages);
    if (uncertain.length > 0) await this.#adopt(topic, uncertain, cause);
    return refused;
  }

  /** PostgreSQL takes charge of what RabbitMQ has or has not. @throws PublishUncertain */
  async #adopt(topic: string, messages: readonly OutgoingMessage[], cause: unknown): Promise<void> {
    let why = cause;
    if (this.#ledger.canAdopt) {
      try {
        return await this.#ledger.adopt(topic, messages);
      } catch (error) {
        why = error;
      }
    }
    const ids = messages.map(({ id }) => id);
    throw new PublishUncertain(topic, ids, CONFIRM_MS, this.#blocked, why);
  }

  #laneOf(topic: string): Lane {
    let lane = this.#lanes.get(topic);
    if (!lane) {
      const to = { exchange: exchangeOf(topic) };
      lane = new Lane(async messages => {
        const isTaken = await this.#carry(messages, to);
        if (isTaken) this.#sizes.add(topic, messages.length);
        return isTaken;
      });
      this.#lanes.set(topic, lane);
    }
    return lane;
  }

  /**
   * To one queue alone, each message by itself, as suspects: they were in a bundle whose worker died.
   * @throws when RabbitMQ does not take them all; those that it has are delivered twice, then
   */
  async sendAlone(queue: string, messages: readonly Carried[]): Promise<void> {
    const to = { exchange: '', routingKey: queue, headers: { [SUSPECT]: true } };
    if (!(await this.#isReady())) throw new Error('RabbitMQ takes no messages');
    const taken = await Promise.all(messages.map(message => this.#carry([message], to)));
    if (!taken.every(isTaken => isTaken)) throw new Error('RabbitMQ did not take a message');
  }

  /** @returns whether RabbitMQ has it; false: certainly not. @throws why that is not known */
  async #carry(
    messages: readonly Carried[],
    to: { exchange: string; routingKey?: string; headers?: Record<string, unknown> },
  ): Promise<boolean> {
    const deadline = performance.now() + CONFIRM_MS;
    const { body, ...envelope } = pack(messages);
    for (let wasSent = false; ; ) {
      const { isOver, end } = patience(deadline);
      this.#patient.add(end);
      let cause: unknown;
      try {
        // On a connection that is blocked a channel is not opened, and nothing says so.
        const channel = await Promise.race([this.#publishing(), isOver]);
        if (!channel) throw new Error('it opens no channel');
        wasSent ||= channel.active;
        const sent = channel
          .basicPublish({ ...to, ...envelope, durable: true, mandatory: true }, body)
          .then(() => true);
        const isConfirmed = await Promise.race([sent, isOver]);
        if (!isConfirmed) throw new Error('it does not confirm');
        return !this.#returned.delete(envelope.messageId);
      } catch (error) {
        cause = error;
      } finally {
        this.#patient.delete(end);
        end();
      }
      this.#channel = undefined;
      if (!wasSent) return false;
      const isInVain = this.#blocked !== undefined && this.#ledger.canAdopt;
      if (isInVain || performance.now() > deadline) throw cause;
      await delay(RETRY_MS);
    }
  }

  /** There is a connection, and RabbitMQ takes messages. */
  async #isReady(): Promise<boolean> {
    if (this.#connection?.ready) return true;
    if (this.#blocked !== undefined) return false;
    try {
      const connection = await this.#open();
      // All who wait do so together: each waiting is a listener of the connection's.
      this.#connecting ??= connection.onConnect(CONNECT_MS, true).finally(() => {
        this.#connecting = undefined;
      });
      await this.#connecting;
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
        this.#refuse();
        if (this.#ledger.canAdopt) for (const end of this.#patient) end();
        log.warn(`RabbitMQ takes no messages (${reason}): they go to PostgreSQL meanwhile`);
      });
      const unblocked = () => {
        this.#blocked = undefined;
      };
      connection.on('connection.unblocked', unblocked);
      // A new one is told anew.
      connection.on('connection', unblocked);
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

  /** What has not been sent yet is for PostgreSQL. */
  #refuse(): void {
    for (const lane of this.#lanes.values()) lane.refuse();
  }

  async close(): Promise<void> {
    this.#refuse();
    await Promise.race([this.#sizes.note(), delay(CONNECT_MS, undefined, { ref: false })]);
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

/** @param deadline by `performance.now()`. @returns what resolves then, or when it is ended */
function patience(deadline: number): { isOver: Promise<undefined>; end: () => void } {
  const { promise, resolve } = Promise.withResolvers<undefined>();
  const end = () => {
    clearTimeout(timer);
    resolve(undefined);
  };
  const timer = setTimeout(end, Math.max(1, deadline - performance.now()));
  return { isOver: promise, end };
}
