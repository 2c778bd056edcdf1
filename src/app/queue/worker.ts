/**
 * This process as a worker: asks the queue for what its subscribers have room for, and ends in good order.
 *
 * Holds true here:
 * - One question at a time. When nothing came it waits to be told, and asks by itself now and then.
 * - Suspects are taken in waves: one, then two, four and so on while none kills this process (README.md).
 * - To close: nothing more is taken; what has not begun is handed back at once; what has begun may finish within the time,
 *   and then is handed back too.
 */
import { readEnvironment } from '../environment.ts';
import { log } from '../telemetry/log.ts';
import type { Consumer, Delivery, QueueEngine, Schedule, Want } from './engine.ts';
import type { Subscriber } from './subscriber.ts';

/** Behind NOTIFY, which may be lost, and for what is due. */
const POLL_MS = 500;
/**
 * Who has just run out of work looks again this much later, then more and more rarely: a publisher that looked for sleepers before this
 * one was known to be one, and whose commit took longer than this one's last look, has woken nobody.
 */
const FIRST_LOOK_MS = 10;
const RARER = 4;
const RETRY_MS = 500;
const LARGEST_WAVE = 64;

export class Worker {
  readonly #engine: QueueEngine;
  readonly #subscribers: readonly Subscriber[];
  readonly #schedules: readonly Schedule[];
  readonly #outside: <T>(work: () => T) => T;
  readonly #isReady = Promise.withResolvers<void>();
  #consumer: Consumer | undefined;
  #isClosing = false;
  #turn = 0;
  /** How many suspects the next wave may have. */
  #wave = 1;
  /** The last wave had some. */
  #hadSuspects = false;
  #loop: Promise<void> = Promise.resolve();
  /** Something may have come since the last question. */
  #isTold = true;
  #tell = () => {};

  constructor(
    engine: QueueEngine,
    subscribers: readonly Subscriber[],
    schedules: readonly Schedule[],
    outside: <T>(work: () => T) => T,
  ) {
    this.#engine = engine;
    this.#subscribers = subscribers;
    this.#schedules = schedules;
    this.#outside = outside;
    this.#isReady.promise.catch(() => {});
  }

  get consumer(): Consumer {
    return this.#consumer!;
  }

  /** @param before what has to be over first */
  start(before: Promise<void> | undefined): void {
    this.#loop = this.#outside(async () => {
      await before;
      await this.#declare();
      if (this.#isClosing) return;
      const name = `${readEnvironment().unit}:${process.pid}`;
      const policies = this.#subscribers.map(({ options }) => options.policy);
      this.#consumer = this.#engine.consume(
        name,
        { wake: () => this.wake(), lost: deliveries => this.#lose(deliveries) },
        policies,
      );
      await this.#run();
    });
    this.#loop.catch(error => log.error({ err: error }, 'the queue has stopped to take messages'));
  }

  /** All that is declared is known, and messages are asked for. */
  ready(): Promise<void> {
    return this.#isReady.promise;
  }

  wake(): void {
    this.#isTold = true;
    this.#tell();
  }

  /** Again until it goes: an application starts though its database is away. */
  async #declare(): Promise<void> {
    for (let complaint = ''; !this.#isClosing; ) {
      try {
        await this.#engine.declare(this.#subscribers.map(({ options }) => options.policy));
        if (this.#schedules.length > 0) await this.#engine.schedule(this.#schedules);
        return;
      } catch (error) {
        if (String(error) !== complaint) {
          log.warn({ err: error }, 'the queue cannot be reached yet; it is tried again');
        }
        complaint = String(error);
        await this.#pause(RETRY_MS);
      }
    }
  }

  async #run(): Promise<void> {
    let lookMs = FIRST_LOOK_MS;
    while (!this.#isClosing) {
      this.#isTold = false;
      const wants = this.#wants();
      let got: Delivery[] = [];
      if (wants.length > 0) {
        try {
          got = await this.#consumer!.take(wants);
        } catch (error) {
          log.error({ err: error }, 'the queue could not be asked');
          await this.#pause(RETRY_MS);
        }
      }
      this.#isReady.resolve();
      this.#hand(got, wants);
      if (got.length > 0) lookMs = FIRST_LOOK_MS;
      else if (wants.length === 0 && !this.#isTold) await this.#pause(POLL_MS);
      else if (!this.#isTold) {
        await this.#pause(lookMs);
        lookMs = Math.min(POLL_MS, lookMs * RARER);
      }
    }
  }

  #wants(): Want[] {
    const isFree = !this.#subscribers.some(({ hasSuspect }) => hasSuspect);
    if (isFree && this.#hadSuspects) {
      this.#hadSuspects = false;
      this.#wave = Math.min(LARGEST_WAVE, this.#wave * 2);
    }
    // One of them may have some, each in turn.
    const turn = this.#turn++ % this.#subscribers.length;
    return this.#subscribers.flatMap(({ room, options: { policy } }, index) =>
      room === 0
        ? []
        : [
            {
              topic: policy.topic,
              subscription: policy.name,
              count: room,
              suspects: isFree && index === turn ? this.#wave : 0,
            },
          ],
    );
  }

  #hand(deliveries: readonly Delivery[], wants: readonly Want[]): void {
    if (deliveries.length === 0) return;
    this.#hadSuspects ||= deliveries.some(({ isSuspect }) => isSuspect);
    for (const subscriber of this.#subscribers) {
      const { topic, name } = subscriber.options.policy;
      const own = deliveries.filter(each => each.topic === topic && each.subscription === name);
      const wanted = wants.find(want => want.topic === topic && want.subscription === name);
      if (own.length > 0) subscriber.accept(own, wanted?.count ?? 0);
    }
  }

  #lose(deliveries: readonly Delivery[]): void {
    // It stood still for longer than the lease, and one of these may be why.
    this.#wave = 1;
    this.#hadSuspects = false;
    const lost = new Set(deliveries);
    for (const subscriber of this.#subscribers) subscriber.lose(lost);
    this.wake();
  }

  async #pause(ms: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, ms);
    this.#tell = resolve;
    await promise;
    clearTimeout(timer);
    this.#tell = () => {};
  }

  /** @param drainMs how long what has begun may take */
  async close(drainMs: number): Promise<void> {
    this.#isClosing = true;
    this.#tell();
    await this.#loop.catch(() => {});
    if (!this.#consumer) return;
    await Promise.all(this.#subscribers.map(subscriber => subscriber.stop()));
    const idle = Promise.all(this.#subscribers.map(subscriber => subscriber.idle()));
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<'late'>(resolve => {
      timer = setTimeout(() => resolve('late'), drainMs);
    });
    if ((await Promise.race([idle, late])) === 'late') {
      log.warn(`messages were still being handled after ${drainMs} ms and are handed back`);
      await Promise.all(this.#subscribers.map(subscriber => subscriber.cutOff()));
    }
    clearTimeout(timer);
    await this.#consumer.close();
  }
}
