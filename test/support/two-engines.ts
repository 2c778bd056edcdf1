/**
 * The queue over PostgreSQL and RabbitMQ, both of them real, for a test file:
 *
 *     const queues = twoEngines();   // at the top: hooks start and end it
 *
 * Each test has a database and a topic of its own; queues of RabbitMQ outlive a test, and are left empty.
 */
import type pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach } from 'vitest';
import { nextId } from '../../src/app/ids/next-id.ts';
import type {
  Consumer,
  Delivery,
  OutgoingMessage,
  SubscriptionPolicy,
} from '../../src/app/queue/engine.ts';
import { PostgresEngine } from '../../src/app/queue/postgres/engine.ts';
import { placesOf } from '../../src/app/queue/postgres/places.ts';
import { Broker } from '../../src/app/queue/rabbitmq/broker.ts';
import { TwoEngines } from '../../src/app/queue/rabbitmq/engine.ts';
import { TestPostgres } from './postgres.ts';
import { TestRabbitMq } from './rabbitmq.ts';
import { until } from './until.ts';

let topics = 0;

export class TwoEnginesGround {
  rabbit!: TestRabbitMq;
  pool!: pg.Pool;
  topic!: string;
  #postgres!: TestPostgres;
  readonly #engines: TwoEngines[] = [];
  readonly #consumers: Consumer[] = [];

  async start(): Promise<void> {
    [this.#postgres, this.rabbit] = await Promise.all([
      TestPostgres.start(),
      TestRabbitMq.start(1),
    ]);
  }

  async renew(): Promise<void> {
    this.topic = `topic-${++topics}`;
    this.pool = await this.#postgres.pool({ max: 10 });
    await this.pool.query('create table effects (n int not null)');
  }

  async tidy(): Promise<void> {
    await Promise.all(this.#consumers.splice(0).map(consumer => consumer.close()));
    await Promise.all(this.#engines.splice(0).map(engine => engine.close()));
    await this.rabbit.setMap({});
  }

  async remove(): Promise<void> {
    await Promise.all([this.#postgres?.remove(), this.rabbit?.remove()]);
  }

  engine(leaseMs = 3_000): TwoEngines {
    const { pool, rabbit } = this;
    const made = new TwoEngines({
      pool,
      places: placesOf(pool),
      postgres: new PostgresEngine({ pool, leaseMs }),
      broker: Broker.find(rabbit.env)!,
    });
    this.#engines.push(made);
    return made;
  }

  policy(name: string, over: Partial<SubscriptionPolicy> = {}): SubscriptionPolicy {
    return {
      topic: this.topic,
      name,
      maxAttempts: 3,
      backoff: { firstMs: 20, factor: 1, maxMs: 20 },
      keepResultsMs: 0,
      ...over,
    };
  }

  message(n: number, over: Partial<OutgoingMessage> = {}): OutgoingMessage {
    return {
      id: nextId(),
      topic: this.topic,
      payload: JSON.stringify({ n }),
      key: undefined,
      priority: 0,
      delayMs: 0,
      dedupe: undefined,
      ...over,
    };
  }

  /** With the numbers from 0. */
  messages(count: number): OutgoingMessage[] {
    return Array.from({ length: count }, (_, n) => this.message(n));
  }

  consume(of: TwoEngines, policies: SubscriptionPolicy[]): Consumer {
    const consumer = of.consume('tester', { wake() {}, lost() {} }, policies);
    this.#consumers.push(consumer);
    return consumer;
  }

  /** Takes until there are so many. */
  async takeAll(consumer: Consumer, name: string, count: number): Promise<Delivery[]> {
    const got: Delivery[] = [];
    const { topic } = this;
    await until(
      async () => {
        const want = { topic, subscription: name, count: count - got.length, suspects: 1 };
        got.push(...(await consumer.take([want])));
        return got.length >= count ? true : undefined;
      },
      { what: `${count} deliveries`, timeoutMs: 60_000 },
    );
    return got;
  }

  async inPostgres(): Promise<number> {
    const { rows } = await this.pool.query('select count(*)::int as n from banyan_queue.delivery');
    return rows[0].n;
  }

  /** Bundles, of all topics. */
  inRabbit(): Promise<number> {
    return this.rabbit.control().messages();
  }

  async emptyRabbit(timeoutMs = 60_000): Promise<void> {
    await until(async () => ((await this.inRabbit()) === 0 ? true : undefined), {
      what: 'nothing is left in RabbitMQ',
      timeoutMs,
    });
  }

  async effects(): Promise<number[]> {
    const { rows } = await this.pool.query('select n from effects order by n');
    return rows.map(row => row.n);
  }
}

export function numberOf({ payload }: Pick<Delivery, 'payload'>): number {
  return (JSON.parse(payload) as { n: number }).n;
}

export function twoEngines(): TwoEnginesGround {
  const ground = new TwoEnginesGround();
  beforeAll(() => ground.start(), 180_000);
  beforeEach(() => ground.renew());
  afterEach(() => ground.tidy());
  afterAll(() => ground.remove());
  return ground;
}
