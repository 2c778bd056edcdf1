/**
 * A worker's side on both engines at once.
 *
 * Holds true here:
 * - Neither waits for the other. What RabbitMQ has sent is here already, and is not kept from a worker by a question to PostgreSQL that is on
 *   its way; what PostgreSQL answers comes with the next look, which it causes.
 * - One question to PostgreSQL at a time. So a worker may get more than it has room for, by as much as it had asked for.
 */
import type pg from 'pg';
import type {
  Consumer,
  ConsumerEvents,
  Delivery,
  Failure,
  Outcome,
  SubscriptionPolicy,
  Want,
} from '../engine.ts';
import type { Broker } from './broker.ts';
import { RabbitConsumer } from './consumer.ts';
import type { Ledger } from './ledger.ts';
import type { Line } from './line.ts';
import type { RabbitPublisher } from './publisher.ts';
import { rabbitReceipt } from './receipt.ts';

/** Where it has had nothing, and has not called, PostgreSQL is asked no more often. Shorter than the first look of who has nothing (worker.ts). */
const POSTGRES_EVERY_MS = 9;

export interface TwoConsumersParts {
  readonly postgres: (events: ConsumerEvents) => Consumer;
  readonly broker: Broker;
  readonly ledger: Ledger;
  readonly publisher: RabbitPublisher;
  readonly events: ConsumerEvents;
  readonly name: string;
  readonly policies: readonly SubscriptionPolicy[];
}

export class TwoConsumers implements Consumer {
  readonly #parts: TwoConsumersParts;
  readonly #postgres: Consumer;
  readonly #stopListening: () => void;
  #rabbit: RabbitConsumer | undefined;
  /** Of places that the map does not name any more: what they gave is still in hand. */
  readonly #former: RabbitConsumer[] = [];
  /** What PostgreSQL has answered since the last look. */
  #answered: Delivery[] = [];
  #error: unknown;
  #asking: Promise<void> | undefined;
  /** The question allows for suspects. */
  #asksForSuspects = false;
  #askedAt = 0;
  /** There may be more. */
  #isPostgresDue = true;
  #isClosed = false;

  constructor(parts: TwoConsumersParts) {
    this.#parts = parts;
    const { events, broker } = parts;
    this.#postgres = parts.postgres({
      wake: () => {
        this.#isPostgresDue = true;
        events.wake();
      },
      lost: deliveries => {
        // Not handed on yet, some of them perhaps.
        this.#answered = this.#answered.filter(delivery => !deliveries.includes(delivery));
        events.lost(deliveries);
      },
    });
    this.#renew();
    this.#stopListening = broker.onChange(() => {
      this.#renew();
      events.wake();
    });
  }

  /** Nodes that came or went: consumers connect to those that there are. */
  #renew(): void {
    const { broker, events, policies, ledger, publisher, name } = this.#parts;
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
      isDraining: () => broker.at?.draining === true,
      sendAlone: (queue, messages) => publisher.sendAlone(queue, messages),
    });
  }

  async take(wants: readonly Want[]): Promise<Delivery[]> {
    const error = this.#error;
    this.#error = undefined;
    if (error !== undefined) throw error;
    const got = this.#answered;
    this.#answered = [];
    const open = left(wants, got, this.#asksForSuspects);
    if (this.#rabbit) got.push(...(await this.#rabbit.take(open)));
    const isDue = this.#isPostgresDue || performance.now() - this.#askedAt > POSTGRES_EVERY_MS;
    if (!this.#asking && isDue) this.#ask(left(wants, got, false));
    return got;
  }

  #ask(wants: readonly Want[]): void {
    if (!wants.some(({ count }) => count > 0)) return;
    this.#isPostgresDue = false;
    this.#askedAt = performance.now();
    this.#asksForSuspects = wants.some(({ suspects }) => suspects > 0);
    this.#asking = this.#postgres
      .take(wants)
      .then(
        got => {
          if (got.length === 0) return;
          this.#answered.push(...got);
          this.#isPostgresDue = true;
        },
        error => {
          this.#error = error;
        },
      )
      .finally(() => {
        this.#asking = undefined;
        this.#asksForSuspects = false;
        if (this.#answered.length > 0 || this.#error !== undefined) this.#parts.events.wake();
      });
  }

  async complete(outcomes: readonly Outcome[]): Promise<Delivery[]> {
    const [rabbit, postgres] = split(outcomes, ({ delivery }) => delivery);
    const lost = rabbit
      .map(({ delivery }) => delivery)
      .filter(delivery => !lineOf(delivery).complete(delivery));
    return postgres.length > 0 ? [...lost, ...(await this.#postgres.complete(postgres))] : lost;
  }

  async fail(failures: readonly Failure[]): Promise<Delivery[]> {
    const [rabbit, postgres] = split(failures, ({ delivery }) => delivery);
    const lost = await Promise.all([
      ...rabbit.map(async ({ delivery, error, retryInMs }) =>
        (await lineOf(delivery).fail(delivery, error, retryInMs)) ? [] : [delivery],
      ),
      ...(postgres.length > 0 ? [this.#postgres.fail(postgres)] : []),
    ]);
    return lost.flat();
  }

  async handBack(deliveries: readonly Delivery[]): Promise<void> {
    const [rabbit, postgres] = split(deliveries, delivery => delivery);
    await Promise.all([
      ...rabbit.map(delivery => lineOf(delivery).handBack([delivery])),
      ...(postgres.length > 0 ? [this.#postgres.handBack(postgres)] : []),
    ]);
  }

  async transaction<T>(
    deliveries: readonly Delivery[],
    fn: (tx: pg.PoolClient) => Promise<T>,
    options: { timeoutMs?: number; signal?: AbortSignal } = {},
  ): Promise<{ value: T; isComplete: boolean }> {
    const { ledger } = this.#parts;
    if (!rabbitReceipt(deliveries[0]!)) return this.#postgres.transaction(deliveries, fn, options);
    return { value: await ledger.withEffects(deliveries, fn, options), isComplete: false };
  }

  async keepResult(delivery: Delivery, json: string): Promise<void> {
    if (!rabbitReceipt(delivery)) await this.#postgres.keepResult(delivery, json);
  }

  async progress(delivery: Delivery, done: number, text: string | undefined): Promise<void> {
    if (!rabbitReceipt(delivery)) await this.#postgres.progress(delivery, done, text);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#stopListening();
    await Promise.all(
      [...this.#former, ...(this.#rabbit ? [this.#rabbit] : [])].map(each => each.close()),
    );
    await this.#asking;
    await this.#postgres.handBack(this.#answered.splice(0)).catch(() => {});
    await this.#postgres.close();
  }
}

/** Of one that RabbitMQ delivered. */
function lineOf(delivery: Delivery): Line {
  return rabbitReceipt(delivery)!.line;
}

/** @returns those of RabbitMQ, those of PostgreSQL */
function split<T>(all: readonly T[], delivery: (each: T) => Delivery): [T[], T[]] {
  const { rabbit = [], postgres = [] } = Object.groupBy(all, each =>
    rabbitReceipt(delivery(each)) ? 'rabbit' : 'postgres',
  );
  return [rabbit, postgres];
}

/** @returns what is still wanted when these were taken. @param hasSuspects some may come besides */
function left(wants: readonly Want[], got: readonly Delivery[], hasSuspects: boolean): Want[] {
  const isFree = !hasSuspects && !got.some(({ isSuspect }) => isSuspect);
  return wants.map(want => {
    const own = got.filter(
      ({ topic, subscription }) => topic === want.topic && subscription === want.subscription,
    );
    return {
      ...want,
      count: Math.max(0, want.count - own.length),
      suspects: isFree ? want.suspects : 0,
    };
  });
}
