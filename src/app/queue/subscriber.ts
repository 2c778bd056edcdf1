/**
 * One subscription in this process: what it has in hand, in which order it is handled, and what becomes of it.
 *
 * Holds true here:
 * - At most `concurrency` calls of the handler at a time. What is fetched ahead grows while it is used up
 *   before more has come.
 * - Of a key one is handled at a time. After a failure those behind it are handed back: they wait in the database for its
 *   next attempt. After a dead letter they go on.
 * - A delivery is settled once: completed, failed, handed back, or lost.
 */
import { log } from '../telemetry/log.ts';
import type { Topic } from './definitions.ts';
import type { Consumer, Delivery, SubscriptionPolicy } from './engine.ts';
import { AlreadyDone, LeaseLost } from './errors.ts';
import { backoffMs, type CheckedWork } from './options.ts';
import { decodePayload } from './payload.ts';
import { Run } from './run.ts';

export interface SubscriberOptions extends CheckedWork {
  readonly topic: Topic<never, unknown>;
  readonly policy: SubscriptionPolicy;
  readonly isBatch: boolean;
  readonly handler: (face: never) => unknown;
  /** There is room again, or something that waited for this may be had. */
  readonly onRoom: () => void;
  /** Runs it outside of whatever request or transaction is going on. */
  readonly outside: <T>(work: () => T) => T;
}

const MOST_AHEAD = 2_000;
const GROWTH = 4;
/** What lasts for longer than this is fetched too far ahead: others may have time for it. */
const SLOW_MS = 1_000;

const NO_FAILURES: ReadonlyMap<Delivery, unknown> = new Map();

export class Subscriber {
  readonly options: SubscriberOptions;
  readonly #consumer: () => Consumer;
  #ready: Delivery[] = [];
  /** The first that is ready: what is before it has been taken out. */
  #head = 0;
  /** Behind the one that is ready, or handled. */
  readonly #lanes = new Map<string, Delivery[]>();
  readonly #runs = new Map<Run, readonly Delivery[]>();
  /** Calls of the handler, and what is read for them. */
  #active = 0;
  #suspects = 0;
  #unsettled = 0;
  #ahead: number;
  #tookAt = 0;
  #isStopped = false;
  #whenIdle: (() => void) | undefined;

  constructor(options: SubscriberOptions, consumer: () => Consumer) {
    this.options = options;
    this.#consumer = consumer;
    this.#ahead = options.concurrency * options.size;
  }

  get #queued(): number {
    return this.#ready.length - this.#head;
  }

  get hasSuspect(): boolean {
    return this.#suspects > 0;
  }

  /** How many it would take now; 0 unless it is worth the way. */
  get room(): number {
    if (this.#isStopped) return 0;
    const { concurrency, size } = this.options;
    const target = concurrency * size + this.#ahead;
    const room = target - this.#unsettled;
    const isStarving = this.#queued === 0 && this.#active < concurrency;
    return room > 0 && (room >= target / 2 || isStarving) ? room : 0;
  }

  /** Takes charge of what was taken from the queue. @param wanted how many were asked for */
  accept(deliveries: readonly Delivery[], wanted: number): void {
    const now = performance.now();
    const isStarving = this.#queued === 0 && this.#active < this.options.concurrency;
    if (isStarving && deliveries.length >= wanted) {
      this.#ahead = Math.min(Math.max(MOST_AHEAD, this.#ahead), this.#ahead * GROWTH);
    } else if (!isStarving && now - this.#tookAt > SLOW_MS) {
      const least = this.options.concurrency * this.options.size;
      this.#ahead = Math.max(least, Math.floor(this.#ahead / 2));
    }
    this.#tookAt = now;
    for (const delivery of deliveries) {
      this.#unsettled++;
      if (delivery.isSuspect) this.#suspects++;
      const lane = delivery.key === undefined ? undefined : this.#lanes.get(delivery.key);
      if (lane) lane.push(delivery);
      else {
        if (delivery.key !== undefined) this.#lanes.set(delivery.key, []);
        this.#ready.push(delivery);
      }
    }
    this.#pump();
  }

  #pump(): void {
    while (this.#queued > 0 && this.#active < this.options.concurrency && !this.#isStopped) {
      this.#active++;
      void this.#run(this.#nextPortion());
    }
  }

  /** Of a batch: those of one group, without suspects. */
  #nextPortion(): Delivery[] {
    const { size } = this.options;
    const first = this.#ready[this.#head++]!;
    const portion = [first];
    while (portion.length < size && this.#queued > 0 && !first.isSuspect) {
      const next = this.#ready[this.#head]!;
      if (next.group !== first.group || next.isSuspect) break;
      portion.push(next);
      this.#head++;
    }
    if (this.#head > 1_000 && this.#head * 2 > this.#ready.length) {
      this.#ready = this.#ready.slice(this.#head);
      this.#head = 0;
    }
    return portion;
  }

  async #run(given: Delivery[]): Promise<void> {
    const { topic, timeoutMs, isBatch, handler, outside } = this.options;
    const { deliveries, payloads, refused } = await decode(topic, given);
    if (refused.size > 0) void this.#settle([], refused, undefined);
    if (deliveries.length === 0) {
      this.#active--;
      return this.#pump();
    }
    const run = new Run({ consumer: this.#consumer(), deliveries, payloads, timeoutMs });
    this.#runs.set(run, deliveries);
    let value: unknown;
    let error: unknown;
    let hasFailed = false;
    try {
      value = await run.call(() =>
        outside(() =>
          (handler as (face: unknown) => unknown)(isBatch ? run.asBatch() : run.asJob()),
        ),
      );
    } catch (thrown) {
      hasFailed = true;
      error = thrown;
    }
    // Whatever it still does can change nothing, and should end.
    if (hasFailed) run.stop(error);
    this.#runs.delete(run);
    this.#active--;
    const [only] = deliveries;
    if (!hasFailed && !isBatch && !run.isComplete) {
      void this.#completeOne(only!, value);
      this.#pump();
      return;
    }
    const failures = new Map(run.failed);
    if (hasFailed && run.isComplete && !(error instanceof LeaseLost)) {
      log.warn(
        { err: error, topic: topic.name },
        'a handler failed after its transaction had been committed: its message is done',
      );
    } else if (hasFailed && !(error instanceof AlreadyDone)) {
      for (const delivery of deliveries) if (!failures.has(delivery)) failures.set(delivery, error);
    }
    void this.#settle(deliveries, failures, run.isComplete ? 'complete' : undefined, value);
    this.#pump();
    if (this.room > 0) this.options.onRoom();
  }

  async #settle(
    deliveries: readonly Delivery[],
    failures: ReadonlyMap<Delivery, unknown>,
    state: 'complete' | undefined,
    value?: unknown,
  ): Promise<void> {
    const consumer = this.#consumer();
    const { policy, topic } = this.options;
    try {
      const done = deliveries.filter(delivery => !failures.has(delivery));
      const result = policy.keepResultsMs > 0 ? (JSON.stringify(value) ?? 'null') : undefined;
      if (done.length > 0 && state === 'complete') {
        if (result !== undefined)
          await Promise.all(done.map(each => consumer.keepResult(each, result)));
      } else if (done.length > 0) {
        const lost = await consumer.complete(done.map(delivery => ({ delivery, result })));
        if (lost.length > 0) this.#tellLost(lost);
      }
      if (failures.size > 0) await this.#fail(failures);
    } catch (error) {
      log.error(
        { err: error, topic: topic.name },
        'messages could not be settled; their lease runs out',
      );
    }
    const isKeyed = this.#advance(deliveries, failures);
    for (const delivery of failures.keys())
      if (!deliveries.includes(delivery)) this.#forget(delivery);
    for (const delivery of deliveries) this.#forget(delivery);
    this.#pump();
    if (isKeyed || this.room > 0) this.options.onRoom();
  }

  /** What nearly always becomes of one: the same as `#settle`, with less ado. */
  async #completeOne(delivery: Delivery, value: unknown): Promise<void> {
    if (this.options.policy.keepResultsMs > 0 || delivery.key !== undefined) {
      return this.#settle([delivery], NO_FAILURES, undefined, value);
    }
    try {
      const lost = await this.#consumer().complete([{ delivery }]);
      if (lost.length > 0) this.#tellLost(lost);
    } catch (error) {
      log.error({ err: error }, 'a message could not be settled; its lease runs out');
    }
    this.#forget(delivery);
    if (this.room > 0) this.options.onRoom();
  }

  #tellLost(lost: readonly Delivery[]): void {
    const { topic, name } = this.options.policy;
    log.warn(
      { topic, subscription: name, ids: lost.map(({ id }) => id).slice(0, 10) },
      'messages were handled, and had been taken away from this worker meanwhile: they are handled again',
    );
  }

  #forget(delivery: Delivery): void {
    if (delivery.isSuspect) this.#suspects--;
    if (--this.#unsettled === 0) this.#whenIdle?.();
  }

  async #fail(failures: ReadonlyMap<Delivery, unknown>): Promise<void> {
    const { policy, topic } = this.options;
    const all = [...failures].map(([delivery, error]) => {
      const isDead = delivery.attempt >= policy.maxAttempts;
      if (!(error instanceof LeaseLost)) {
        const about = {
          err: error,
          topic: topic.name,
          subscription: policy.name,
          id: delivery.id,
          attempt: delivery.attempt,
        };
        if (isDead) log.error(about, 'a message has failed for good: it is a dead letter');
        else log.warn(about, 'a message failed and is tried again');
      }
      const retryInMs = isDead
        ? undefined
        : backoffMs(policy.backoff, delivery.attempt, Math.random());
      return { delivery, error: textOf(error), retryInMs };
    });
    await this.#consumer().fail(all);
  }

  /** The next of each key that was handled: ready, or handed back with all behind it. @returns whether there was a key */
  #advance(deliveries: readonly Delivery[], failures: ReadonlyMap<Delivery, unknown>): boolean {
    let isKeyed = false;
    const back: Delivery[] = [];
    for (const delivery of new Set([...deliveries, ...failures.keys()])) {
      const { key } = delivery;
      if (key === undefined) continue;
      isKeyed = true;
      const lane = this.#lanes.get(key);
      const waits = failures.has(delivery) && delivery.attempt < this.options.policy.maxAttempts;
      if (!lane || lane.length === 0 || waits || this.#isStopped) {
        this.#lanes.delete(key);
        if (lane) back.push(...lane);
      } else this.#ready.push(lane.shift()!);
    }
    if (back.length > 0) void this.#handBack(back);
    return isKeyed;
  }

  async #handBack(deliveries: readonly Delivery[]): Promise<void> {
    await this.#consumer()
      .handBack(deliveries)
      .catch(error =>
        log.warn({ err: error }, 'messages could not be handed back; their lease runs out'),
      );
    for (const delivery of deliveries) this.#forget(delivery);
    this.options.onRoom();
  }

  /** They are others' now. */
  lose(lost: ReadonlySet<Delivery>): void {
    const waiting = this.#ready.slice(this.#head);
    const gone = waiting.filter(delivery => lost.has(delivery));
    this.#ready = waiting.filter(delivery => !lost.has(delivery));
    this.#head = 0;
    for (const delivery of gone)
      if (delivery.key !== undefined) gone.push(...this.#takeLane(delivery.key));
    for (const [run, deliveries] of this.#runs) {
      const own = deliveries.find(delivery => lost.has(delivery));
      if (own) run.stop(new LeaseLost(own.id));
    }
    for (const [, lane] of this.#lanes) {
      const left = lane.filter(delivery => !lost.has(delivery));
      gone.push(...lane.filter(delivery => lost.has(delivery)));
      lane.splice(0, lane.length, ...left);
    }
    for (const delivery of gone) this.#forget(delivery);
  }

  #takeLane(key: string): Delivery[] {
    const lane = this.#lanes.get(key) ?? [];
    this.#lanes.delete(key);
    return lane;
  }

  /** Hands back what has not begun, and begins nothing more. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    const waiting = this.#ready.splice(this.#head);
    this.#ready = [];
    this.#head = 0;
    for (const [key, lane] of this.#lanes) {
      waiting.push(...lane.splice(0));
      if (waiting.some(delivery => delivery.key === key)) this.#lanes.delete(key);
    }
    if (waiting.length > 0) await this.#handBack(waiting);
  }

  /** Resolves when nothing is in hand. */
  async idle(): Promise<void> {
    if (this.#unsettled === 0) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#whenIdle = resolve;
    await promise;
  }

  /** Ends what is still being handled: it is handed back. */
  async cutOff(): Promise<void> {
    const runs = [...this.#runs];
    for (const [, deliveries] of runs) {
      await this.#consumer()
        .handBack(deliveries)
        .catch(() => {});
    }
    for (const [run, deliveries] of runs) run.stop(new LeaseLost(deliveries[0]!.id));
  }
}

async function decode(
  topic: Topic<never, unknown>,
  given: Delivery[],
): Promise<{ deliveries: Delivery[]; payloads: unknown[]; refused: Map<Delivery, unknown> }> {
  const deliveries: Delivery[] = [];
  const payloads: unknown[] = [];
  const refused = new Map<Delivery, unknown>();
  for (const delivery of given) {
    try {
      payloads.push(
        topic.schema ? await decodePayload(topic, delivery.payload) : JSON.parse(delivery.payload),
      );
      deliveries.push(delivery);
    } catch (error) {
      refused.set(delivery, error);
    }
  }
  return { deliveries, payloads, refused };
}

function textOf(error: unknown): string {
  return error instanceof Error
    ? (error.stack ?? `${error.name}: ${error.message}`)
    : String(error);
}
