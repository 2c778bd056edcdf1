/**
 * How long all attempts of a transaction may take together, and the signal that ends them before.
 *
 * Holds true here: nothing that is waited for outlasts it; and what is waited for `inTime` is not cut short by
 * the signal.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { TransactionTimeout } from './transaction-errors.ts';

export class Limit {
  readonly #timeoutMs: number;
  readonly #deadline: number;
  readonly #passed = Promise.withResolvers<never>();
  readonly #timer: NodeJS.Timeout;
  readonly #signal: AbortSignal | undefined;
  readonly #onAbort = () => this.#pass(this.#signal?.reason);
  #isOver = false;
  /** Why the last attempt has to be repeated. */
  lastReason: unknown;

  constructor(timeoutMs: number, signal: AbortSignal | undefined) {
    this.#timeoutMs = timeoutMs;
    this.#deadline = performance.now() + timeoutMs;
    this.#signal = signal;
    this.#passed.promise.catch(() => {});
    this.#timer = setTimeout(() => this.#pass(this.#timeout()), timeoutMs);
    if (signal?.aborted) this.#onAbort();
    else signal?.addEventListener('abort', this.#onAbort);
  }

  get leftMs(): number {
    return Math.max(0, this.#deadline - performance.now());
  }

  /** Time is up, or the signal has aborted. */
  get isOver(): boolean {
    return this.#isOver;
  }

  /** The work's result, unless it is over first. @throws TransactionTimeout, or the signal's reason */
  before<T>(work: Promise<T>): Promise<T> {
    return Promise.race([this.#passed.promise, work]);
  }

  /** The work's result, unless time is up first, whatever the signal says. @throws TransactionTimeout */
  async inTime<T>(work: Promise<T>): Promise<T> {
    const patience = new AbortController();
    const late = delay(this.leftMs, undefined, { signal: patience.signal }).then(() => {
      throw this.#timeout();
    });
    late.catch(() => {});
    try {
      return await Promise.race([work, late]);
    } finally {
      patience.abort();
    }
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#signal?.removeEventListener('abort', this.#onAbort);
  }

  #pass(reason: unknown): void {
    this.#isOver = true;
    this.#passed.reject(reason);
  }

  #timeout(): TransactionTimeout {
    return new TransactionTimeout(this.#timeoutMs, this.lastReason);
  }
}
