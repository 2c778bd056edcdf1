/**
 * A worker's side over all shards: each is asked in turn, and one that is away, or slow, stops nobody.
 *
 * Holds true here:
 * - A shard has one claim under way at most. What comes of one that was slow is given out by the next `take`.
 * - The heart of each shard beats by itself, in a third of the lease.
 */
import type pg from 'pg';
import { log } from '../../telemetry/log.ts';
import type {
  Consumer,
  ConsumerEvents,
  Delivery,
  Failure,
  Outcome,
  SubscriptionPolicy,
  Want,
} from '../engine.ts';
import { withEffects } from './effects.ts';
import { isTransient } from './link.ts';
import type { Place } from './places.ts';
import { receiptOf } from './receipt.ts';
import { type ShardWant, ShardWorker } from './shard-worker.ts';

/** A shard that has not answered in this time is left to answer when it can. */
const SLOW_MS = 250;
const TIDY_MS = 60_000;
/** Who gets that many at once comes again by himself, and need not be told: a NOTIFY holds up all commits. */
const BUSY = 50;

export interface ConsumerParts {
  readonly pool: pg.Pool;
  readonly places: () => readonly Place[];
  readonly name: string;
  readonly leaseMs: number;
  readonly events: ConsumerEvents;
  readonly policies: readonly SubscriptionPolicy[];
  readonly declareAt: (place: Place) => Promise<Map<string, number>>;
  /** Called with each beat: schedules are fired then. */
  readonly onBeat: () => Promise<void>;
  readonly unguarded: boolean;
}

export class PostgresConsumer implements Consumer {
  readonly #parts: ConsumerParts;
  readonly #workers = new Map<Place, ShardWorker>();
  readonly #pending = new Map<ShardWorker, Promise<void>>();
  readonly #late: Delivery[] = [];
  readonly #timers: NodeJS.Timeout[] = [];
  readonly #busy = new Set<string>();
  #next = 0;
  #sleeps = false;
  #isClosed = false;

  constructor(parts: ConsumerParts) {
    this.#parts = parts;
    const every = (name: string, ms: number, work: (worker: ShardWorker) => Promise<void>) => {
      this.#timers.push(setInterval(() => this.#everywhere(name, work), ms));
    };
    const beatMs = parts.leaseMs / 3;
    every('beat', beatMs, worker => worker.beat());
    every('house', Math.min(beatMs, 5_000), worker => worker.keepHouse());
    every('tidy', TIDY_MS, worker => worker.tidy());
    this.#timers.push(
      setInterval(() => {
        parts.onBeat().catch(error => note(error, 'schedules'));
      }, 1_000),
    );
  }

  async take(wants: readonly Want[]): Promise<Delivery[]> {
    const got = this.#late.splice(0);
    const open = new Map(wants.map(want => [`${want.topic}/${want.subscription}`, { ...want }]));
    const workers = this.#current();
    const start = this.#next++;
    for (let i = 0; i < workers.length && !this.#isClosed; i++) {
      const worker = workers[(start + i) % workers.length]!;
      if (this.#pending.has(worker) || worker.pauseMs > 0) continue;
      const hasSuspects = got.some(({ isSuspect }) => isSuspect);
      const asked = [...open].flatMap(([subscription, { count, suspects }]) =>
        count > 0 ? [{ subscription, count, suspects: hasSuspects ? 0 : suspects }] : [],
      );
      if (asked.length === 0) break;
      for (const delivery of await this.#ask(worker, asked)) {
        const want = open.get(`${delivery.topic}/${delivery.subscription}`);
        if (want) want.count--;
        got.push(delivery);
      }
    }
    const wasAsleep = this.#sleeps;
    this.#sleeps = got.length < BUSY;
    // Whoever published before it was known that this one sleeps told nobody: look once more.
    if (got.length === 0 && !wasAsleep && !this.#isClosed) return this.take(wants);
    return got;
  }

  async #ask(worker: ShardWorker, asked: ShardWant[]): Promise<Delivery[]> {
    let isLate = false;
    let found: Delivery[] = [];
    const asking = worker
      .take(asked, this.#sleeps)
      .then(
        deliveries => {
          if (!isLate) found = deliveries;
          else {
            this.#late.push(...deliveries);
            if (deliveries.length > 0) this.#parts.events.wake();
          }
        },
        error => note(error, 'a claim'),
      )
      .finally(() => this.#pending.delete(worker));
    this.#pending.set(worker, asking);
    let timer: NodeJS.Timeout | undefined;
    const slow = new Promise<void>(resolve => {
      timer = setTimeout(resolve, SLOW_MS);
    });
    await Promise.race([asking, slow]);
    clearTimeout(timer);
    isLate = true;
    return found;
  }

  /** One for each shard of the map. */
  #current(): ShardWorker[] {
    const { places, name, leaseMs, policies, declareAt, events, unguarded } = this.#parts;
    const now = places();
    for (const [place, worker] of this.#workers) {
      if (now.includes(place)) continue;
      this.#workers.delete(place);
      void worker.close();
    }
    return now.map(place => {
      const known = this.#workers.get(place);
      if (known) return known;
      const worker = new ShardWorker({
        place,
        name,
        leaseMs,
        policies,
        declare: () => declareAt(place),
        wake: () => events.wake(),
        lost: deliveries => events.lost(deliveries),
        unguarded,
      });
      this.#workers.set(place, worker);
      return worker;
    });
  }

  /** One at a time for each shard: one that hangs does not pile up. */
  #everywhere(name: string, work: (worker: ShardWorker) => Promise<void>): void {
    for (const worker of this.#current()) {
      const key = `${name} ${worker.place.id}`;
      if (this.#busy.has(key) || worker.pauseMs > 0) continue;
      this.#busy.add(key);
      work(worker)
        .catch(error => note(error, name))
        .finally(() => this.#busy.delete(key));
    }
  }

  async complete(outcomes: readonly Outcome[]): Promise<Delivery[]> {
    const [only] = outcomes;
    if (only && outcomes.length === 1) {
      return (await receiptOf(only.delivery).worker.settler.complete(only)) ? [only.delivery] : [];
    }
    const lost: Delivery[] = [];
    await Promise.all(
      outcomes.map(async outcome => {
        if (await receiptOf(outcome.delivery).worker.settler.complete(outcome))
          lost.push(outcome.delivery);
      }),
    );
    return lost;
  }

  async fail(failures: readonly Failure[]): Promise<Delivery[]> {
    const groups = Map.groupBy(failures, ({ delivery }) => receiptOf(delivery).worker);
    const lost = await Promise.all(
      [...groups].map(([worker, group]) => worker.settler.fail(group)),
    );
    return lost.flat();
  }

  async handBack(deliveries: readonly Delivery[]): Promise<void> {
    const groups = Map.groupBy(deliveries, delivery => receiptOf(delivery).worker);
    await Promise.all([...groups].map(([worker, group]) => worker.settler.handBack(group)));
  }

  async transaction<T>(
    deliveries: readonly Delivery[],
    fn: (tx: pg.PoolClient) => Promise<T>,
    options: { timeoutMs?: number; signal?: AbortSignal } = {},
  ): Promise<{ value: T; isComplete: boolean }> {
    const { pool, places, unguarded } = this.#parts;
    const done = await withEffects({ pool, places, unguarded }, deliveries, fn, options);
    if (done.isComplete) receiptOf(deliveries[0]!).worker.noteCompleted(deliveries);
    return done;
  }

  keepResult(delivery: Delivery, json: string): Promise<void> {
    return receiptOf(delivery).worker.settler.keepResult(delivery, json);
  }

  async progress(delivery: Delivery, done: number, text: string | undefined): Promise<void> {
    await receiptOf(delivery).worker.settler.progress(delivery, done, text);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    for (const timer of this.#timers) clearInterval(timer);
    await Promise.all(this.#pending.values());
    await Promise.all([...this.#workers.values()].map(worker => worker.close()));
  }
}

function note(error: unknown, what: string): void {
  if (isTransient(error) || (error as { code?: string }).code === 'BQ001') {
    log.debug({ err: error }, `the queue: ${what} has to wait`);
  } else log.error({ err: error }, `the queue: ${what} failed`);
}
