/** The queue in PostgreSQL and, as long as the map names it, in RabbitMQ: which is where, README.md says. */
import type pg from 'pg';
import type { Connection } from 'rabbitmq-client';
import { log } from '../../telemetry/log.ts';
import type {
  Consumer,
  ConsumerEvents,
  DeadLetter,
  DeadLetterFilter,
  Delivery,
  Failure,
  Outcome,
  OutgoingMessage,
  QueueEngine,
  ResultState,
  Schedule,
  SubscriptionPolicy,
  SubscriptionStats,
  Want,
} from '../engine.ts';
import type { Place } from '../postgres/places.ts';
import type { Broker } from './broker.ts';
import { RabbitConsumer, rabbitReceipt } from './consumer.ts';
import { Ledger } from './ledger.ts';
import { declareTopic, queueOf } from './names.ts';
import { RabbitPublisher } from './publisher.ts';

/** Depths are counted for this long at most. */
const COUNT_MS = 2_000;
/** As long as RabbitMQ has something PostgreSQL is asked no more often. */
const POSTGRES_EVERY_MS = 20;

export interface TwoEnginesOptions {
  readonly pool: pg.Pool;
  readonly places: () => readonly Place[];
  readonly postgres: QueueEngine;
  readonly broker: Broker;
}

export class TwoEngines implements QueueEngine {
  readonly #postgres: QueueEngine;
  readonly #broker: Broker;
  readonly #ledger: Ledger;
  readonly #publisher: RabbitPublisher;

  constructor({ pool, places, postgres, broker }: TwoEnginesOptions) {
    this.#postgres = postgres;
    this.#broker = broker;
    this.#ledger = new Ledger(pool, places);
    this.#publisher = new RabbitPublisher(broker, places);
  }

  /**
   * In RabbitMQ by publishers and consumers as well, each time that they connect: a worker starts though it is away, and does what
   * is in PostgreSQL.
   */
  async declare(subscriptions: readonly SubscriptionPolicy[]): Promise<void> {
    await this.#postgres.declare(subscriptions);
    if (!this.#broker.at) return;
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
      postgres: this.#postgres.consume(name, events, subscriptions),
      broker: this.#broker,
      ledger: this.#ledger,
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

  /** What waits in RabbitMQ, of each; nothing where it does not say. */
  async #depths(stats: readonly SubscriptionStats[]): Promise<number[]> {
    let connection: Connection | undefined;
    try {
      connection = await this.#broker.open('banyan counts');
      await connection.onConnect(COUNT_MS, true);
      const depths: number[] = [];
      for (const { topic, subscription } of stats) {
        depths.push(subscription === null ? 0 : await depthOf(connection, topic, subscription));
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
async function depthOf(connection: Connection, topic: string, name: string): Promise<number> {
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

interface TwoConsumersParts {
  readonly postgres: Consumer;
  readonly broker: Broker;
  readonly ledger: Ledger;
  readonly events: ConsumerEvents;
  readonly name: string;
  readonly policies: readonly SubscriptionPolicy[];
}

class TwoConsumers implements Consumer {
  readonly #parts: TwoConsumersParts;
  readonly #stopListening: () => void;
  #rabbit: RabbitConsumer | undefined;
  /** Of places that the map does not name any more: what they gave is still in hand. */
  readonly #former: RabbitConsumer[] = [];
  #isPostgresFirst = false;
  #askedPostgresAt = 0;
  #isClosed = false;

  constructor(parts: TwoConsumersParts) {
    this.#parts = parts;
    this.#renew();
    this.#stopListening = parts.broker.onChange(() => {
      this.#renew();
      parts.events.wake();
    });
  }

  /** Nodes that came or went: consumers connect to those that there are. */
  #renew(): void {
    const { broker, events, policies, ledger, name } = this.#parts;
    if (this.#rabbit) this.#former.push(this.#rabbit);
    this.#rabbit = undefined;
    // What they gave and nobody has begun goes back; the connection stays until what is in hand is done.
    for (const former of this.#former) void former.retire();
    if (!broker.at || this.#isClosed) return;
    this.#rabbit = new RabbitConsumer({
      open: () => broker.open(`banyan ${name}`),
      events,
      policies,
      ledger,
    });
  }

  /**
   * What RabbitMQ has sent is here already, and does not wait for an answer of PostgreSQL's; which is asked first every so often, so that
   * neither starves.
   */
  async take(wants: readonly Want[]): Promise<Delivery[]> {
    const { postgres } = this.#parts;
    if (!this.#rabbit) return postgres.take(wants);
    if (!this.#isPostgresFirst) {
      const got = this.#rabbit.take(wants);
      if (got.length > 0) {
        this.#isPostgresFirst = performance.now() - this.#askedPostgresAt > POSTGRES_EVERY_MS;
        return got;
      }
    }
    this.#isPostgresFirst = false;
    this.#askedPostgresAt = performance.now();
    const got = await postgres.take(wants);
    // It may be another by now.
    return [...got, ...(this.#rabbit?.take(left(wants, got)) ?? [])];
  }

  async complete(outcomes: readonly Outcome[]): Promise<Delivery[]> {
    const [rabbit, postgres] = split(outcomes, ({ delivery }) => delivery);
    const lost = rabbit.flatMap(outcome => this.#of(outcome.delivery).complete([outcome]));
    return postgres.length > 0
      ? [...lost, ...(await this.#parts.postgres.complete(postgres))]
      : lost;
  }

  async fail(failures: readonly Failure[]): Promise<Delivery[]> {
    const [rabbit, postgres] = split(failures, ({ delivery }) => delivery);
    const lost = await Promise.all([
      ...rabbit.map(failure => this.#of(failure.delivery).fail([failure])),
      ...(postgres.length > 0 ? [this.#parts.postgres.fail(postgres)] : []),
    ]);
    return lost.flat();
  }

  async handBack(deliveries: readonly Delivery[]): Promise<void> {
    const [rabbit, postgres] = split(deliveries, delivery => delivery);
    await Promise.all([
      ...rabbit.map(delivery => this.#of(delivery).handBack([delivery])),
      ...(postgres.length > 0 ? [this.#parts.postgres.handBack(postgres)] : []),
    ]);
  }

  async transaction<T>(
    deliveries: readonly Delivery[],
    fn: (tx: pg.PoolClient) => Promise<T>,
    options: { timeoutMs?: number; signal?: AbortSignal } = {},
  ): Promise<{ value: T; isComplete: boolean }> {
    const { postgres, ledger } = this.#parts;
    if (!rabbitReceipt(deliveries[0]!)) return postgres.transaction(deliveries, fn, options);
    return { value: await ledger.withEffects(deliveries, fn, options), isComplete: false };
  }

  async keepResult(delivery: Delivery, json: string): Promise<void> {
    if (!rabbitReceipt(delivery)) await this.#parts.postgres.keepResult(delivery, json);
  }

  async progress(delivery: Delivery, done: number, text: string | undefined): Promise<void> {
    if (!rabbitReceipt(delivery)) await this.#parts.postgres.progress(delivery, done, text);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#stopListening();
    await Promise.all(
      [...this.#former, ...(this.#rabbit ? [this.#rabbit] : [])].map(each => each.close()),
    );
    await this.#parts.postgres.close();
  }

  #of(delivery: Delivery): RabbitConsumer {
    return rabbitReceipt(delivery)!.consumer;
  }
}

/** @returns those of RabbitMQ, those of PostgreSQL */
function split<T>(all: readonly T[], delivery: (each: T) => Delivery): [T[], T[]] {
  const { rabbit = [], postgres = [] } = Object.groupBy(all, each =>
    rabbitReceipt(delivery(each)) ? 'rabbit' : 'postgres',
  );
  return [rabbit, postgres];
}

/** What is still wanted when these were taken. */
function left(wants: readonly Want[], got: readonly Delivery[]): Want[] {
  return wants.map(want => {
    const own = got.filter(
      ({ topic, subscription }) => topic === want.topic && subscription === want.subscription,
    );
    return {
      ...want,
      count: want.count - own.length,
      suspect: want.suspect && !own.some(({ isSuspect }) => isSuspect),
    };
  });
}
