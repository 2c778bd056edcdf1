/**
 * What a queue is made of, whoever carries it: PostgreSQL (`postgres/`) and RabbitMQ implement this; the room above
 * (validation, handlers, retries, drain) knows no more of them.
 *
 * Glossary: see README.md. A *delivery* is a message for one subscription; its *receipt* is what the engine needs to
 * know it again, and is void once the delivery was taken away from the worker.
 */
import type pg from 'pg';

/** A subscription's policy. Stored with it, since whoever finds a dead worker decides by it. */
export interface SubscriptionPolicy {
  readonly topic: string;
  /** `work` of a job. */
  readonly name: string;
  /** Failed that often it is a dead letter. */
  readonly maxAttempts: number;
  /** Before the second attempt, in milliseconds; doubled (`factor`) for each further one, at most `maxMs`; jittered. */
  readonly backoff: { readonly firstMs: number; readonly factor: number; readonly maxMs: number };
  /** How long a result is kept, in milliseconds; 0: not at all. */
  readonly keepResultsMs: number;
}

/** A message as it is handed to an engine: checked, and its payload encoded. */
export interface OutgoingMessage {
  /** Of `nextId()`. */
  readonly id: string;
  readonly topic: string;
  /** JSON. */
  readonly payload: string;
  readonly key: string | undefined;
  /** Lower is earlier: -100 to 100. */
  readonly priority: number;
  /** In milliseconds from now, by the engine's clock; 0: at once. */
  readonly delayMs: number;
  readonly dedupe: { readonly key: string; readonly forMs: number } | undefined;
}

/** A delivery in the hands of this worker. */
export interface Delivery {
  readonly id: string;
  readonly topic: string;
  readonly subscription: string;
  readonly payload: string;
  readonly key: string | undefined;
  /** From 1. */
  readonly attempt: number;
  /** It was in the hands of a worker that died: it is run alone (README.md). */
  readonly isSuspect: boolean;
  /** Deliveries of one subscription and group can be completed in one transaction. */
  readonly group: string;
  /** Opaque to all but the engine. */
  readonly receipt: unknown;
}

export interface Outcome {
  readonly delivery: Delivery;
  /** JSON of what the handler returned, if the policy keeps results. */
  readonly result?: string | undefined;
}

export interface Failure {
  readonly delivery: Delivery;
  /** For people: name and message, and what the stack says. At most 4 kB are kept. */
  readonly error: string;
  /** In milliseconds from now; undefined: it is a dead letter. */
  readonly retryInMs: number | undefined;
}

/** How many more deliveries of a subscription the worker has room for. */
export interface Want {
  readonly topic: string;
  readonly subscription: string;
  readonly count: number;
  /** How many of them may be suspects; 0 while the worker has some. Of one that comes alone it is counted when its worker dies. */
  readonly suspects: number;
}

/** What a worker is told of, besides the answers to its calls. */
export interface ConsumerEvents {
  /** Something may have come: `take` again. */
  wake(): void;
  /** These were taken away: whoever works on them should stop; what they do is void. */
  lost(deliveries: readonly Delivery[]): void;
}

/**
 * A worker's side. Calls may overlap; each waits with a limit. While the engine is away calls wait or reject with an
 * error for which `isTransient` is true; the deliveries in hand stay valid if the engine is back within the lease.
 */
export interface Consumer {
  /**
   * Deliveries that are now this worker's until it says what became of them, or its lease runs out. Of one key and subscription
   * none is given out while another is in anyone's hands, except in one answer, in their order: the worker handles those one
   * after the other, and after a failure hands back the later ones.
   * @returns empty when there is nothing: `wake` is called when that may have changed
   */
  take(wants: readonly Want[]): Promise<Delivery[]>;
  /** They are done. Resolves when that is durable. @returns those that were not this worker's any more */
  complete(outcomes: readonly Outcome[]): Promise<Delivery[]>;
  /** They failed: again later, or dead letters. @returns those that were not this worker's any more */
  fail(failures: readonly Failure[]): Promise<Delivery[]>;
  /** Others may have them at once; not counted as an attempt. */
  handBack(deliveries: readonly Delivery[]): Promise<void>;
  /**
   * Runs `fn` in a transaction with which the deliveries, of one subscription and shard, are completed: its effects and
   * that, or neither.
   * @returns with `isComplete` false they have still to be completed; should that not come to pass, a redelivery is AlreadyDone
   * @throws LeaseLost, and nothing of it is kept; AlreadyDone when an earlier delivery of it had its effects
   */
  transaction<T>(
    deliveries: readonly Delivery[],
    fn: (tx: pg.PoolClient) => Promise<T>,
    options?: { timeoutMs?: number; signal?: AbortSignal },
  ): Promise<{ value: T; isComplete: boolean }>;
  /** What came of one that was completed in a transaction. @param json what the handler returned */
  keepResult(delivery: Delivery, json: string): Promise<void>;
  /** For jobs that keep results: how far it is, from 0 to 1. */
  progress(delivery: Delivery, done: number, text: string | undefined): Promise<void>;
  /** Hands back whatever is left, and closes its connections. */
  close(): Promise<void>;
}

/** A subscription, as `banyan queue` and metrics show it. Summed over shards. */
export interface SubscriptionStats {
  readonly topic: string;
  /** Null: nobody has subscribed to the topic yet. */
  readonly subscription: string | null;
  /** What waits or is in hand; counted up to `DEPTH_LIMIT` on each shard. */
  readonly depth: number;
  /** Of `depth`, what is due later. */
  readonly delayed: number;
  /** In hand. */
  readonly leased: number;
  /** How long the first that is ready has been waiting, in milliseconds; null when none is. */
  readonly oldestMs: number | null;
  /** Since the beginning; rates are their differences. */
  readonly completed: number;
  readonly failed: number;
  readonly died: number;
  /** That are kept now. */
  readonly deadLetters: number;
  /** Worker processes alive that take from it. */
  readonly workers: number;
}

export interface DeadLetter {
  readonly id: string;
  readonly topic: string;
  readonly subscription: string;
  readonly key: string | null;
  readonly payload: unknown;
  readonly attempts: number;
  readonly error: string;
  readonly diedAt: Date;
}

export interface DeadLetterFilter {
  readonly topic?: string | undefined;
  readonly subscription?: string | undefined;
  readonly ids?: readonly string[] | undefined;
}

export type ResultState =
  | { readonly state: 'waiting'; readonly progress: number; readonly text: string | null }
  | { readonly state: 'done'; readonly value: unknown }
  | { readonly state: 'failed'; readonly error: string }
  | { readonly state: 'cancelled' }
  | { readonly state: 'unknown' };

export interface Schedule {
  readonly name: string;
  /** A cron expression of five or six fields. */
  readonly cron: string;
  /** Of the IANA database. */
  readonly timeZone: string;
  readonly topic: string;
  /** JSON. */
  readonly payload: string;
  readonly missed: 'latest' | 'skip';
}

export interface QueueEngine {
  /** From now on messages of these topics are kept for these subscriptions. Idempotent; a policy is replaced. */
  declare(subscriptions: readonly SubscriptionPolicy[]): Promise<void>;
  /**
   * Durable when it resolves; with `tx` exactly if that commits.
   * @returns the id of each: of one that repeats a dedupe key, that of the first
   */
  publish(messages: readonly OutgoingMessage[], tx: pg.ClientBase | undefined): Promise<string[]>;
  consume(
    name: string,
    events: ConsumerEvents,
    subscriptions: readonly SubscriptionPolicy[],
  ): Consumer;
  /** Takes back what nobody has in hand yet. @returns whether there was something to take back */
  cancel(id: string): Promise<boolean>;
  result(id: string): Promise<ResultState>;
  /** Calls `changed` when the result of a message may have changed. @returns how to stop */
  watchResult(id: string, changed: () => void): () => void;
  stats(): Promise<SubscriptionStats[]>;
  deadLetters(filter: DeadLetterFilter, limit: number): Promise<DeadLetter[]>;
  /** To be delivered again, with all attempts. @returns how many */
  replay(filter: DeadLetterFilter): Promise<number>;
  discard(filter: DeadLetterFilter): Promise<number>;
  /** Fires by cron while a consumer is open. */
  schedule(schedules: readonly Schedule[]): Promise<void>;
  close(): Promise<void>;
}

/** Depth is counted up to this: a queue that is this full need not be counted to be known as full. */
export const DEPTH_LIMIT = 100_000;
