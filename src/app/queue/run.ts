/**
 * One call of a handler: its time, its signal, its transaction. What a handler gets as `job` is the face of it.
 *
 * Holds true here:
 * - It ends once: the handler returned or threw, its time was up, or the delivery was taken away. What the handler
 *   does after that counts for nothing: its transactions find the delivery gone.
 * - What the handler reads, on replicas and through the cache, shows the transaction in which its message was published.
 */
import type pg from 'pg';
import { fromNowOn } from '../database/consistency/scope.ts';
import type { Consumer, Delivery } from './engine.ts';
import { HandlerTimeout } from './errors.ts';
import type { BatchContext, JobContext } from './types.ts';

export interface RunOptions {
  readonly consumer: Consumer;
  readonly deliveries: readonly Delivery[];
  readonly payloads: readonly unknown[];
  readonly timeoutMs: number;
}

export class Run {
  readonly #options: RunOptions;
  readonly #ended = Promise.withResolvers<never>();
  #timer: NodeJS.Timeout | undefined;
  #abort: AbortController | undefined;
  #reason: unknown;
  /** Its deliveries are completed, by a transaction. */
  isComplete = false;
  /** Deliveries that the handler says have failed. */
  readonly failed = new Map<Delivery, unknown>();

  constructor(options: RunOptions) {
    this.#options = options;
    this.#ended.promise.catch(() => {});
  }

  get signal(): AbortSignal {
    this.#abort ??= new AbortController();
    if (this.#reason !== undefined) this.#abort.abort(this.#reason);
    return this.#abort.signal;
  }

  /** @returns what the handler returned. @throws what it threw; HandlerTimeout; the reason that `stop` was given */
  async call(handler: () => unknown): Promise<unknown> {
    this.heartbeat();
    try {
      const value = fromNowOn(handler);
      if (!(value instanceof Promise)) return await value;
      return await Promise.race([value, this.#ended.promise]);
    } finally {
      clearTimeout(this.#timer);
      this.#timer = undefined;
    }
  }

  stop(reason: unknown): void {
    if (this.#reason !== undefined) return;
    this.#reason = reason;
    clearTimeout(this.#timer);
    this.#abort?.abort(reason);
    this.#ended.reject(reason);
  }

  heartbeat(): void {
    if (this.#reason !== undefined) return;
    const { timeoutMs, deliveries } = this.#options;
    if (this.#timer) this.#timer.refresh();
    else {
      this.#timer = setTimeout(
        () => this.stop(new HandlerTimeout(deliveries[0]!.id, timeoutMs)),
        timeoutMs,
      );
    }
  }

  async transaction<T>(
    fn: (tx: pg.PoolClient) => Promise<T>,
    options: { timeoutMs?: number } = {},
  ): Promise<T> {
    const { consumer, deliveries } = this.#options;
    const left = deliveries.filter(delivery => !this.failed.has(delivery));
    const { signal } = this;
    const { value, isComplete } = await consumer.transaction(left, fn, { ...options, signal });
    this.isComplete ||= isComplete;
    return value;
  }

  async progress(done: number, text?: string): Promise<void> {
    this.heartbeat();
    const { consumer, deliveries } = this.#options;
    await consumer.progress(deliveries[0]!, Math.min(1, Math.max(0, done)), text);
  }

  /** @returns what a handler of single messages gets */
  asJob(): JobContext<unknown> {
    const { deliveries, payloads } = this.#options;
    return new JobFace(this, deliveries[0]!, payloads[0]);
  }

  asBatch(): BatchContext<unknown> {
    const { deliveries, payloads } = this.#options;
    const run = this;
    const byId = new Map(deliveries.map(delivery => [delivery.id, delivery]));
    return {
      jobs: deliveries.map(({ id, key, attempt }, index) => ({
        id,
        key,
        attempt,
        payload: payloads[index],
      })),
      get signal() {
        return run.signal;
      },
      heartbeat: () => this.heartbeat(),
      transaction: (fn, options) => this.transaction(fn, options),
      fail: ({ id }, error) => {
        const delivery = byId.get(id);
        if (delivery) this.failed.set(delivery, error);
      },
    };
  }
}

/** A class, since there is one for each message. */
class JobFace implements JobContext<unknown> {
  readonly #run: Run;
  readonly #delivery: Delivery;
  readonly payload: unknown;

  constructor(run: Run, delivery: Delivery, payload: unknown) {
    this.#run = run;
    this.#delivery = delivery;
    this.payload = payload;
  }

  get id(): string {
    return this.#delivery.id;
  }

  get topic(): string {
    return this.#delivery.topic;
  }

  get subscription(): string {
    return this.#delivery.subscription;
  }

  get key(): string | undefined {
    return this.#delivery.key;
  }

  get attempt(): number {
    return this.#delivery.attempt;
  }

  get signal(): AbortSignal {
    return this.#run.signal;
  }

  transaction<T>(
    fn: (tx: pg.PoolClient) => Promise<T>,
    options?: { timeoutMs?: number },
  ): Promise<T> {
    return this.#run.transaction(fn, options);
  }

  heartbeat(): void {
    this.#run.heartbeat();
  }

  progress(done: number, text?: string): Promise<void> {
    return this.#run.progress(done, text);
  }
}
