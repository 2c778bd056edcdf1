/**
 * What an application sees of the queue. The words are those of README.md: a *message* is published, a *delivery* of it is handled; in a
 * handler it is the `job`, whichever kind of topic it came from.
 */
import type pg from 'pg';
import type { Duration } from '../cache/options.ts';
import type { TransactionOptions } from '../database/transaction.ts';
import type { Job, Topic } from './definitions.ts';
import type { DeadLetter, DeadLetterFilter, SubscriptionStats } from './engine.ts';

export interface PublishOptions {
  /**
   * A client in a transaction: the message is there exactly if that commits. Not needed within `pool.transaction`,
   * where it is so by itself. `null`: at once, whatever transaction is around.
   */
  tx?: pg.ClientBase | null;
  /** Handled no sooner than that, from now, by the queue's clock. Up to 30 days. Default: at once. */
  delay?: Duration;
  /**
   * Messages of one key are handled one after the other, in the order of their commits, by each subscription; one that
   * fails holds the later ones back. Up to 512 bytes. Default: in no order.
   */
  key?: string;
  /** A second message with the same text is not published while the first is remembered: `for` a day, unless it says otherwise. */
  dedupe?: string | { key: string; for: Duration };
  /** Lower is sooner, -100 to 100; not together with `key`. Default: 0. */
  priority?: number;
}

export interface MessageToPublish<Input> extends Omit<PublishOptions, 'tx'> {
  payload: Input;
}

/** A message in the hands of a handler. */
export interface JobContext<Output> {
  /** The message's, as `publish` returned it. */
  readonly id: string;
  readonly topic: string;
  readonly subscription: string;
  readonly payload: Output;
  readonly key: string | undefined;
  /** From 1. */
  readonly attempt: number;
  /** Aborted when its time is up, when it was taken away from this worker, and when the drain's time is up. */
  readonly signal: AbortSignal;
  /**
   * Runs `fn` in a transaction with which the message is done: its effects and that, or neither. A handler should
   * do all of its writing in one of these, as the last thing that can fail.
   * @throws what `pool.transaction` throws; LeaseLost when the message was taken away: nothing was kept
   */
  transaction<T>(
    fn: (tx: pg.PoolClient) => Promise<T>,
    options?: Pick<TransactionOptions, 'timeoutMs'>,
  ): Promise<T>;
  /** The timeout begins anew. The lease is extended by itself. */
  heartbeat(): void;
  /** Tells who asks with `queue.result`; and it is a heartbeat. @param done from 0 to 1 */
  progress(done: number, text?: string): Promise<void>;
}

export interface WorkOptions {
  /** How many this process handles at a time. From 1 to 10000. Default: 10. */
  concurrency?: number;
  /** In the place of the definition's. */
  timeout?: Duration;
}

export interface BatchOptions extends WorkOptions {
  /** The most in one batch. From 1 to 10000. Default: 100. */
  size?: number;
}

/** Several messages in the hands of one handler: when it throws, all have failed that it did not settle itself. */
export interface BatchContext<Output> extends Pick<JobContext<Output>, 'signal' | 'heartbeat'> {
  readonly jobs: readonly Pick<JobContext<Output>, 'id' | 'payload' | 'key' | 'attempt'>[];
  /** As `job.transaction`, for all of them. */
  transaction: JobContext<Output>['transaction'];
  /** This one has failed, the others need not. */
  fail(job: { readonly id: string }, error: unknown): void;
}

export interface ScheduleOptions<Input> {
  /** Five or six fields, as cron has them: `0 3 * * *`. */
  cron: string;
  /** Of the IANA database. Default: `UTC`. */
  timeZone?: string;
  payload?: Input;
  /** What becomes of times that nobody was there for: one message for the latest of them, or none. Default: `latest`. */
  missed?: 'latest' | 'skip';
}

export interface ResultOptions {
  /** How long to wait for it. Default: 30 seconds. */
  timeout?: Duration;
  signal?: AbortSignal;
  onProgress?: (progress: { done: number; text: string | null }) => void;
}

export interface Queue {
  /**
   * Publishes a message. Durable when it resolves; in a transaction exactly if that commits.
   * @returns its id; of one that repeats a dedupe key, that of the first
   * @throws InvalidPayload, MessageTooLarge, InvalidQueueOption: nothing was published
   */
  publish<Input>(
    topic: Topic<Input, unknown>,
    payload: Input,
    options?: PublishOptions,
  ): Promise<string>;
  /** Publishes many of one topic, in one statement: all or none. @returns their ids, in order */
  publishAll<Input>(
    topic: Topic<Input, unknown>,
    messages: readonly MessageToPublish<Input>[],
    options?: Pick<PublishOptions, 'tx'>,
  ): Promise<string[]>;
  /** This process handles messages of a job, from the next turn of the event loop on. */
  work<Output>(
    job: Job<never, Output> | Job<unknown, Output>,
    handler: (job: JobContext<Output>) => unknown,
    options?: WorkOptions,
  ): void;
  workInBatches<Output>(
    job: Job<never, Output> | Job<unknown, Output>,
    handler: (batch: BatchContext<Output>) => unknown,
    options?: BatchOptions,
  ): void;
  /** The same for one subscription of a topic: several processes with the same name share its messages. */
  subscribe<Output>(
    topic: Topic<never, Output> | Topic<unknown, Output>,
    name: string,
    handler: (job: JobContext<Output>) => unknown,
    options?: WorkOptions,
  ): void;
  subscribeInBatches<Output>(
    topic: Topic<never, Output> | Topic<unknown, Output>,
    name: string,
    handler: (batch: BatchContext<Output>) => unknown,
    options?: BatchOptions,
  ): void;
  /** Publishes by the clock, once however many processes say so. Replaces what the name meant before. */
  schedule<Input>(
    name: string,
    topic: Topic<Input, unknown>,
    options: ScheduleOptions<Input>,
  ): void;
  /** Resolves when what `work`, `subscribe` and `schedule` said is known to the database and messages are taken. */
  ready(): Promise<void>;
  /** Takes a message back that nobody has in hand yet. @returns false when it is too late */
  cancel(id: string): Promise<boolean>;
  /**
   * Waits for what a job's handler returned. @throws JobFailed, JobCancelled, ResultTimeout, ResultsNotKept
   */
  result(job: Job<unknown, unknown>, id: string, options?: ResultOptions): Promise<unknown>;
  stats(): Promise<SubscriptionStats[]>;
  /** @param limit most that are returned. Default: 100 */
  deadLetters(filter?: DeadLetterFilter, limit?: number): Promise<DeadLetter[]>;
  /** They are delivered again, with all their attempts. @returns how many */
  replay(filter?: DeadLetterFilter): Promise<number>;
  /** Deletes dead letters. @returns how many */
  discard(filter?: DeadLetterFilter): Promise<number>;
  /**
   * Takes no more, lets what is in hand finish, and hands the rest back. Called on SIGTERM by itself. May be called again.
   * @param drainMs how long what is in hand may take. Default: what the topology says, else 10000
   */
  close(drainMs?: number): Promise<void>;
}
