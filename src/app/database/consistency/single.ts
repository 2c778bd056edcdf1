/**
 * Read your writes where there are no replicas: who has written, and how far the database was then. All reads are the
 * primary's and see everything; this is for what is not read there, the cache.
 *
 * Holds true here: as with replicas, a scope is that of its request, or the process's outside of requests; a position
 * is asked only when somebody wants to know.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { PrimaryClock } from '../primary-clock.ts';
import { type Position, tick } from './position.ts';
import { currentRequest, Scope, type ScopePositions, watchRequests } from './scope.ts';

export class SingleConsistency implements ScopePositions {
  readonly #clock: PrimaryClock;
  readonly #isWrite: (text: string) => boolean;
  readonly #process = new Scope();
  readonly #unwatch = watchRequests();

  constructor(clock: PrimaryClock, isWrite: (text: string) => boolean) {
    this.#clock = clock;
    this.#isWrite = isWrite;
  }

  get owner(): object {
    return this;
  }

  scope(): Scope {
    return currentRequest()?.of(this) ?? this.#process;
  }

  /** A statement was answered, or failed. */
  noteAnswer(text: string, scope: Scope): void {
    if (this.#isWrite(text)) scope.noteWrite();
  }

  /** @returns undefined when the primary did not say in time */
  async resolve(scope: Scope, timeoutMs: number): Promise<Position | undefined> {
    if (scope.token && !scope.isUnresolved) return scope.token;
    const asked = tick();
    const patience = new AbortController();
    const late = delay(timeoutMs, undefined, { signal: patience.signal }).catch(() => undefined);
    const moment = await Promise.race([this.#clock.now().catch(() => undefined), late]);
    patience.abort();
    if (moment) scope.resolve({ timeline: moment.timeline, lsn: moment.lsn }, asked);
    return scope.token;
  }

  close(): void {
    this.#unwatch();
  }
}
