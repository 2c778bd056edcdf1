/** The queue in PostgreSQL: on every shard of the application's pool. See ../README.md. */
import type pg from 'pg';
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
import { DEPTH_LIMIT } from '../engine.ts';
import { PostgresConsumer } from './consumer.ts';
import { type Place, placesOf } from './places.ts';
import { Publisher } from './publisher.ts';
import { ResultWatch } from './result-watch.ts';
import { fireSchedules, storeSchedules } from './schedules.ts';

export interface PostgresEngineOptions {
  readonly pool: pg.Pool;
  /** How long a worker may be silent before others take what it has in hand, in milliseconds. */
  readonly leaseMs: number;
  /** For tests alone: a worker that lost its lease can do harm. */
  readonly unguarded?: boolean;
}

interface StatsRow {
  topic: string;
  subscription: string | null;
  ready: string;
  delayed: string;
  leased: string;
  oldest_ms: number | null;
  completed: string;
  failed: string;
  died: string;
  dead_letters: string;
  workers: string;
}

interface DeadRow {
  message: string;
  topic: string;
  subscription: string;
  key: string | null;
  payload: string;
  attempts: number;
  error: string;
  died_at: Date;
}

/** Of dead letters: $1 topic, $2 subscription, $3 ids; null: any. */
const MATCHES = `($1::text is null or s.topic = $1) and ($2::text is null or s.name = $2)
  and ($3::bigint[] is null or k.message = any ($3))`;

export class PostgresEngine implements QueueEngine {
  readonly #options: PostgresEngineOptions;
  readonly #places: () => readonly Place[];
  readonly #publisher: Publisher;
  readonly #results: ResultWatch;
  #schedules: readonly Schedule[] = [];
  #timesClient: pg.Client | undefined;
  #isFiring = false;

  constructor(options: PostgresEngineOptions) {
    this.#options = options;
    this.#places = placesOf(options.pool);
    this.#publisher = new Publisher(this.#places);
    this.#results = new ResultWatch(this.#places);
  }

  async declare(subscriptions: readonly SubscriptionPolicy[]): Promise<void> {
    await Promise.all(this.#places().map(place => this.#declareAt(place, subscriptions)));
  }

  /** All at once: messages that waited for a first subscription go to all of these. */
  async #declareAt(
    place: Place,
    policies: readonly SubscriptionPolicy[],
  ): Promise<Map<string, number>> {
    await this.#publisher.prepare(place);
    const client = await place.open();
    try {
      const { rows } = await client.query<{ id: number; topic: string; name: string }>(
        `with declared as (
           insert into banyan_queue.subscription as s
             (topic, name, max_attempts, first_ms, factor, max_ms, keep_results_ms)
           select * from unnest($1::text[], $2::text[], $3::int[], $4::float8[], $5::float8[], $6::float8[], $7::float8[])
           order by 1, 2
           on conflict (topic, name) do update set max_attempts = excluded.max_attempts,
             first_ms = excluded.first_ms, factor = excluded.factor, max_ms = excluded.max_ms,
             keep_results_ms = excluded.keep_results_ms
           where (s.max_attempts, s.first_ms, s.factor, s.max_ms, s.keep_results_ms) is distinct from
             (excluded.max_attempts, excluded.first_ms, excluded.factor, excluded.max_ms, excluded.keep_results_ms)
           returning id, topic, name)
         select id, topic, name from declared
         union select id, topic, name from banyan_queue.subscription
           where (topic, name) in (select * from unnest($1::text[], $2::text[]))`,
        [
          policies.map(({ topic }) => topic),
          policies.map(({ name }) => name),
          policies.map(({ maxAttempts }) => maxAttempts),
          policies.map(({ backoff }) => backoff.firstMs),
          policies.map(({ backoff }) => backoff.factor),
          policies.map(({ backoff }) => backoff.maxMs),
          policies.map(({ keepResultsMs }) => keepResultsMs),
        ],
      );
      for (const topic of new Set(policies.map(policy => policy.topic))) {
        await client.query('select banyan_queue.adopt($1)', [topic]);
      }
      return new Map(rows.map(({ id, topic, name }) => [`${topic}/${name}`, id]));
    } finally {
      client.end().catch(() => {});
    }
  }

  publish(messages: readonly OutgoingMessage[], tx: pg.ClientBase | undefined): Promise<string[]> {
    return this.#publisher.publish(messages, tx);
  }

  consume(name: string, events: ConsumerEvents, policies: readonly SubscriptionPolicy[]): Consumer {
    const { pool, leaseMs, unguarded = false } = this.#options;
    return new PostgresConsumer({
      pool,
      places: this.#places,
      name,
      leaseMs,
      events,
      policies,
      declareAt: place => this.#declareAt(place, policies),
      onBeat: () => this.#fire(),
      unguarded,
    });
  }

  async cancel(id: string): Promise<boolean> {
    const answers = await this.#ask<{ done: boolean }>('select banyan_queue.cancel($1) as done', [
      id,
    ]);
    return answers.some(([row]) => row?.done);
  }

  async result(id: string): Promise<ResultState> {
    const answers = await this.#ask<{
      state: 'running' | 'done' | 'failed' | 'cancelled';
      progress: number;
      value: string | null;
    }>(
      `select state, progress, value from banyan_queue.result where message = $1
       union all select 'running', 0, null where exists (select from banyan_queue.delivery where message = $1)
       union all select 'running', 0, null where exists (select from banyan_queue.unsubscribed where message = $1)`,
      [id],
    );
    const rows = answers.flat();
    const row = rows.find(({ state }) => state !== 'running') ?? rows[0];
    if (!row) return { state: 'unknown' };
    switch (row.state) {
      case 'running':
        return { state: 'waiting', progress: row.progress, text: row.value };
      case 'done':
        return { state: 'done', value: row.value === null ? undefined : JSON.parse(row.value) };
      case 'failed':
        return { state: 'failed', error: row.value ?? '' };
      case 'cancelled':
        return { state: 'cancelled' };
    }
  }

  watchResult(id: string, changed: () => void): () => void {
    return this.#results.watch(id, changed);
  }

  /** One cheap statement for each shard. */
  async stats(): Promise<SubscriptionStats[]> {
    const answers = await this.#ask<StatsRow>('select * from banyan_queue.stats($1)', [
      DEPTH_LIMIT,
    ]);
    const groups = Map.groupBy(answers.flat(), row =>
      JSON.stringify([row.topic, row.subscription]),
    );
    return [...groups.values()].map(rows => {
      const sum = (get: (row: StatsRow) => string) =>
        rows.reduce((total, row) => total + Number(get(row)), 0);
      const oldest = rows.flatMap(({ oldest_ms }) => (oldest_ms === null ? [] : [oldest_ms]));
      return {
        topic: rows[0]!.topic,
        subscription: rows[0]!.subscription,
        depth: sum(row => row.ready) + sum(row => row.delayed),
        delayed: sum(row => row.delayed),
        leased: sum(row => row.leased),
        oldestMs: oldest.length > 0 ? Math.max(0, ...oldest) : null,
        completed: sum(row => row.completed),
        failed: sum(row => row.failed),
        died: sum(row => row.died),
        deadLetters: sum(row => row.dead_letters),
        workers: Math.max(...rows.map(row => Number(row.workers))),
      };
    });
  }

  async deadLetters(filter: DeadLetterFilter, limit: number): Promise<DeadLetter[]> {
    const answers = await this.#ask<DeadRow>(
      `select k.message, s.topic, s.name as subscription, k.key, k.payload, k.attempts, k.error, k.died_at
       from banyan_queue.dead k join banyan_queue.subscription s on s.id = k.subscription
       where ${MATCHES} order by k.died_at desc limit $4`,
      [...valuesOf(filter), limit],
    );
    return answers
      .flat()
      .sort((a, b) => b.died_at.getTime() - a.died_at.getTime())
      .slice(0, limit)
      .map(({ message, payload, died_at, ...rest }) => ({
        id: message,
        payload: JSON.parse(payload),
        diedAt: died_at,
        ...rest,
      }));
  }

  /** With the lock of their keys: they come after what is there. */
  async replay(filter: DeadLetterFilter): Promise<number> {
    const answers = await this.#ask<{ count: string }>(
      `with gone as (
         delete from banyan_queue.dead k using banyan_queue.subscription s
         where s.id = k.subscription and ${MATCHES} returning k.*, s.topic),
       locked as materialized (
         select topic, banyan_queue.lock_keys(topic, array_agg(key)) from gone group by topic order by topic),
       back as (
         insert into banyan_queue.delivery (message, subscription, priority, key, payload)
         select g.message, g.subscription, g.priority, g.key, g.payload
         from gone g join locked l on l.topic = g.topic returning 1)
       select count(*) as count from back`,
      valuesOf(filter),
    );
    await this.#ask(
      'select banyan_queue.wake(topic, 8) from (select distinct topic from banyan_queue.subscription where $1::text is null or topic = $1) t',
      [filter.topic ?? null],
    );
    return total(answers);
  }

  async discard(filter: DeadLetterFilter): Promise<number> {
    const answers = await this.#ask<{ count: string }>(
      `with gone as (
         delete from banyan_queue.dead k using banyan_queue.subscription s
         where s.id = k.subscription and ${MATCHES} returning 1)
       select count(*) as count from gone`,
      valuesOf(filter),
    );
    return total(answers);
  }

  async schedule(schedules: readonly Schedule[]): Promise<void> {
    const home = this.#places()[0]!;
    await this.#publisher.prepare(home);
    const client = await home.open();
    try {
      await storeSchedules(client, schedules);
    } finally {
      client.end().catch(() => {});
    }
    this.#schedules = schedules;
  }

  /** By who has said that there are schedules. */
  async #fire(): Promise<void> {
    if (this.#schedules.length === 0 || this.#isFiring) return;
    this.#isFiring = true;
    try {
      this.#timesClient ??= await this.#openTimes();
      await fireSchedules(this.#timesClient);
    } catch (error) {
      this.#timesClient?.end().catch(() => {});
      this.#timesClient = undefined;
      throw error;
    } finally {
      this.#isFiring = false;
    }
  }

  async #openTimes(): Promise<pg.Client> {
    const client = await this.#places()[0]!.open();
    client.once('end', () => {
      if (this.#timesClient === client) this.#timesClient = undefined;
    });
    return client;
  }

  async close(): Promise<void> {
    this.#schedules = [];
    this.#timesClient?.end().catch(() => {});
    await this.#results.close();
  }

  /** The same of every shard. @returns the rows of each */
  async #ask<R extends pg.QueryResultRow>(text: string, values: unknown[]): Promise<R[][]> {
    return Promise.all(
      this.#places().map(async place => {
        await this.#publisher.prepare(place);
        return (await place.query<R>({ text, values })).rows;
      }),
    );
  }
}

const valuesOf = ({ topic, subscription, ids }: DeadLetterFilter) => [
  topic ?? null,
  subscription ?? null,
  ids ? [...ids] : null,
];

const total = (answers: { count: string }[][]) =>
  answers.reduce((sum, [row]) => sum + Number(row?.count ?? 0), 0);
