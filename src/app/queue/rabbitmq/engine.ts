/** The queue in PostgreSQL and, as long as the map names it, in RabbitMQ: which is where, README.md says. */
import type pg from 'pg';
import type { Connection } from 'rabbitmq-client';
import { log } from '../../telemetry/log.ts';
import type {
  Consumer,
  ConsumerEvents,
  DeadLetter,
  DeadLetterFilter,
  OutgoingMessage,
  QueueEngine,
  ResultState,
  Schedule,
  SubscriptionPolicy,
  SubscriptionStats,
} from '../engine.ts';
import type { Place } from '../postgres/places.ts';
import type { Broker } from './broker.ts';
import { bundleSizes } from './bundle-sizes.ts';
import { Ledger } from './ledger.ts';
import { declareTopic, queueOf } from './names.ts';
import { RabbitPublisher } from './publisher.ts';
import { TwoConsumers } from './two-consumers.ts';

/** Depths are counted for this long at most. */
const COUNT_MS = 2_000;

export interface TwoEnginesOptions {
  readonly pool: pg.Pool;
  readonly places: () => readonly Place[];
  readonly postgres: QueueEngine;
  readonly broker: Broker;
}

export class TwoEngines implements QueueEngine {
  readonly #postgres: QueueEngine;
  readonly #broker: Broker;
  readonly #places: () => readonly Place[];
  readonly #ledger: Ledger;
  readonly #publisher: RabbitPublisher;

  constructor({ pool, places, postgres, broker }: TwoEnginesOptions) {
    this.#postgres = postgres;
    this.#broker = broker;
    this.#places = places;
    this.#ledger = new Ledger(pool, places);
    this.#publisher = new RabbitPublisher(broker, places, this.#ledger);
  }

  /**
   * In RabbitMQ by publishers and consumers as well, each time that they connect: a worker starts though it is away, and does what
   * is in PostgreSQL.
   */
  async declare(subscriptions: readonly SubscriptionPolicy[]): Promise<void> {
    await this.#postgres.declare(subscriptions);
    if (!this.#broker.at || this.#broker.at.draining) return;
    const connection = await this.#broker.open('banyan declares');
    try {
      const channel = await connection.acquire();
      for (const { topic, name } of subscriptions) await declareTopic(channel, topic, [name]);
      await channel.close();
    } catch (error) {
      log.warn({ err: error }, 'RabbitMQ cannot be reached yet; it is tried again');
    } finally {
      connection.unsafeDestroy();
    }
  }

  async publish(
    messages: readonly OutgoingMessage[],
    tx: pg.ClientBase | undefined,
  ): Promise<string[]> {
    const { at } = this.#broker;
    if (tx || !at || at.draining || messages.length === 0 || !messages.every(isPlain)) {
      return this.#postgres.publish(messages, tx);
    }
    const refused = await this.#publisher.publish(messages);
    if (refused.length > 0) await this.#postgres.publish(refused, undefined);
    return messages.map(({ id }) => id);
  }

  consume(
    name: string,
    events: ConsumerEvents,
    subscriptions: readonly SubscriptionPolicy[],
  ): Consumer {
    return new TwoConsumers({
      postgres: own => this.#postgres.consume(name, own, subscriptions),
      broker: this.#broker,
      ledger: this.#ledger,
      publisher: this.#publisher,
      events,
      name,
      policies: subscriptions,
    });
  }

  cancel(id: string): Promise<boolean> {
    return this.#postgres.cancel(id);
  }

  result(id: string): Promise<ResultState> {
    return this.#postgres.result(id);
  }

  watchResult(id: string, changed: () => void): () => void {
    return this.#postgres.watchResult(id, changed);
  }

  async stats(): Promise<SubscriptionStats[]> {
    const stats = await this.#postgres.stats();
    if (!this.#broker.at) return stats;
    const depths = await this.#depths(stats);
    return stats.map((each, index) => ({ ...each, depth: each.depth + (depths[index] ?? 0) }));
  }

  /** About how much waits in RabbitMQ, of each; nothing where it does not say. */
  async #depths(stats: readonly SubscriptionStats[]): Promise<number[]> {
    let connection: Connection | undefined;
    try {
      connection = await this.#broker.open('banyan counts');
      await connection.onConnect(COUNT_MS, true);
      // Not known: each is taken for a bundle of one.
      const sizes = await bundleSizes(this.#places()).catch(() => new Map<string, number>());
      const depths: number[] = [];
      for (const { topic, subscription } of stats) {
        const bundles =
          subscription === null ? 0 : await bundlesOf(connection, topic, subscription);
        depths.push(Math.round(bundles * (sizes.get(topic) ?? 1)));
      }
      return depths;
    } catch {
      return [];
    } finally {
      connection?.unsafeDestroy();
    }
  }

  deadLetters(filter: DeadLetterFilter, limit: number): Promise<DeadLetter[]> {
    return this.#postgres.deadLetters(filter, limit);
  }

  replay(filter: DeadLetterFilter): Promise<number> {
    return this.#postgres.replay(filter);
  }

  discard(filter: DeadLetterFilter): Promise<number> {
    return this.#postgres.discard(filter);
  }

  schedule(schedules: readonly Schedule[]): Promise<void> {
    return this.#postgres.schedule(schedules);
  }

  async close(): Promise<void> {
    await this.#publisher.close();
    this.#broker.close();
    await this.#postgres.close();
  }
}

/** It needs nothing that only PostgreSQL does. */
function isPlain({ key, priority, delayMs, dedupe }: OutgoingMessage): boolean {
  return key === undefined && priority === 0 && delayMs === 0 && dedupe === undefined;
}

/** A channel of its own: it is closed when there is no such queue yet. */
async function bundlesOf(connection: Connection, topic: string, name: string): Promise<number> {
  const channel = await connection.acquire();
  try {
    const queue = queueOf(topic, name);
    return (await channel.queueDeclare({ queue, passive: true })).messageCount;
  } catch {
    return 0;
  } finally {
    await channel.close().catch(() => {});
  }
}
