/**
 * A subscription in this worker: a channel over which its messages come by themselves, as many as there is room for, and what has come.
 *
 * Holds true here:
 * - A delivery is settled by an acknowledgement, once, over the channel that it came by. When that is gone RabbitMQ gives it to
 *   another; so whoever works on it is told that it is lost.
 * - What RabbitMQ delivers again was in the hands of a worker that died, or whose line broke: it is a suspect, and looked up
 *   first. One that is given out alone is counted when it is begun: RabbitMQ counts all that was sent ahead, also what nobody began.
 */
import { setTimeout as delay, setImmediate as turn } from 'node:timers/promises';
import type { AsyncMessage, Channel } from 'rabbitmq-client';
import { log } from '../../telemetry/log.ts';
import type { Delivery, SubscriptionPolicy } from '../engine.ts';
import { isTransient } from '../postgres/link.ts';
import { Acknowledgements } from './acknowledgements.ts';
import { type Carried, unpack } from './bundle.ts';
import type { RabbitConsumerParts } from './consumer.ts';
import type { Tally } from './ledger.ts';
import { declareTopic, queueOf, SUSPECT } from './names.ts';
import { Parcel, RabbitReceipt, rabbitReceipt } from './receipt.ts';

const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 2_000;
/** What would wait here longer others may have time for. */
const SLOW_MS = 1_000;
const TAKE_APART_AGAIN_MS = 1_000;

export interface LineParts
  extends Pick<RabbitConsumerParts, 'events' | 'ledger' | 'isDraining' | 'sendAlone'> {
  readonly policy: SubscriptionPolicy;
  /** A channel of the worker's connection. */
  readonly acquire: () => Promise<Channel>;
  /** Of RabbitMQ's messages, how many may be here at a time. */
  readonly prefetchCount: number;
}

export class Line {
  readonly #parts: LineParts;
  /** Come, and not begun. */
  readonly #waiting: Delivery[] = [];
  /** Those, and what is being handled. */
  readonly #inHand = new Set<Delivery>();
  /** That are not settled. */
  readonly #bundles = new Set<Parcel>();
  readonly #tally: Tally = { completed: 0, failed: 0, died: 0 };
  /** Since when something waits; by `performance.now()`. */
  #waitsSince = 0;
  /** Since the last look. */
  #taken = 0;
  /** No more is wanted. */
  #isLeft = false;
  /** No more comes by the present channel. */
  #cancel: () => Promise<void> = async () => {};
  #closeChannel: () => Promise<void> = async () => {};

  constructor(parts: LineParts) {
    this.#parts = parts;
    void this.#keepOpen();
  }

  get isEmpty(): boolean {
    return this.#inHand.size === 0;
  }

  /** Of what has come. @param suspects how many of them may be suspects; one that was begun before comes by itself */
  take(count: number, suspects: number): Delivery[] {
    const got: Delivery[] = [];
    let left = suspects;
    for (let index = 0; index < this.#waiting.length && got.length < count; ) {
      const delivery = this.#waiting[index]!;
      if (delivery.isSuspect) {
        const { comesAlone } = rabbitReceipt(delivery)!;
        if (left === 0 || (comesAlone && left < suspects)) {
          index++;
          continue;
        }
        left = comesAlone ? 0 : left - 1;
      }
      this.#waiting.splice(index, 1);
      this.#taken++;
      got.push(delivery);
    }
    return got;
  }

  async #keepOpen(): Promise<void> {
    const { prefetchCount, isDraining } = this.#parts;
    const { topic, name } = this.#parts.policy;
    let pauseMs = FIRST_PAUSE_MS;
    while (!this.#isLeft) {
      try {
        const channel = await this.#parts.acquire();
        const { promise: closed, resolve } = Promise.withResolvers<void>();
        channel.once('close', () => resolve());
        channel.on('error', error => log.debug({ err: error }, 'a channel of RabbitMQ broke'));
        if (!isDraining()) await declareTopic(channel, topic, [name]);
        await channel.basicQos({ prefetchCount });
        const acknowledgements = new Acknowledgements(channel, Math.ceil(prefetchCount / 4));
        if (this.#isLeft) return;
        const { consumerTag } = await channel.basicConsume(
          { queue: queueOf(topic, name) },
          message => {
            this.#arrived(channel, acknowledgements, message).catch(error => {
              // Nobody knows whether it was done: the line is broken, and it comes again.
              if (!isTransient(error))
                log.error({ err: error }, 'a message could not be looked up');
              channel.close().catch(() => {});
            });
          },
        );
        channel.on('basic.cancel', () => void channel.close().catch(() => {}));
        this.#cancel = async () => {
          await channel.basicCancel({ consumerTag });
        };
        this.#closeChannel = () => {
          acknowledgements.flush();
          return channel.close();
        };
        pauseMs = FIRST_PAUSE_MS;
        await closed;
      } catch (error) {
        log.debug({ err: error }, 'the queue: RabbitMQ has to wait');
      }
      this.#lose();
      await delay(pauseMs, undefined, { ref: false });
      pauseMs = Math.min(pauseMs * 2, LONGEST_PAUSE_MS);
    }
  }

  #lose(): void {
    this.#waiting.length = 0;
    for (const bundle of this.#bundles) if (!bundle.channel.active) this.#bundles.delete(bundle);
    const lost = [...this.#inHand].filter(each => !rabbitReceipt(each)!.channel.active);
    for (const delivery of lost) this.#inHand.delete(delivery);
    if (lost.length > 0) this.#parts.events.lost(lost);
  }

  async #arrived(
    channel: Channel,
    acknowledgements: Acknowledgements,
    message: AsyncMessage,
  ): Promise<void> {
    const messages = unpack(message);
    const parcel = new Parcel(channel, message.deliveryTag, messages.length, acknowledgements);
    const { headers = {} } = message;
    const isSuspect = Number(headers['x-delivery-count'] ?? 0) > 0 || headers[SUSPECT] === true;
    if (isSuspect && messages.length > 1) return this.#takeApart(parcel, messages);
    const { topic, name } = this.#parts.policy;
    let deliveries = messages.map(
      ({ id, payload }): Delivery => ({
        id,
        topic,
        subscription: name,
        payload,
        key: undefined,
        attempt: 1,
        isSuspect,
        group: 'rabbitmq',
        receipt: new RabbitReceipt(parcel, this),
      }),
    );
    if (isSuspect) deliveries = await this.#triable(deliveries[0]!);
    if (deliveries.length === 0 || !channel.active) return;
    if (messages.length > 1) this.#bundles.add(parcel);
    for (const delivery of deliveries) this.#inHand.add(delivery);
    if (this.#isLeft) return this.handBack(deliveries);
    if (this.#waiting.length === 0) {
      this.#waitsSince = performance.now();
      // Once for all that come together.
      queueMicrotask(() => this.#parts.events.wake());
    }
    this.#waiting.push(...deliveries);
  }

  /** @returns it with its attempt; nothing of one that was done, or is dead */
  async #triable(suspect: Delivery): Promise<Delivery[]> {
    const { ledger, policy } = this.#parts;
    const [noted, trials] = await Promise.all([
      ledger.noted([suspect.id], policy),
      ledger.trialsOf(suspect.id, policy),
    ]);
    if (noted.size === 0) {
      rabbitReceipt(suspect)!.comesAlone = trials !== undefined;
      const begun = trials ?? 0;
      if (begun < policy.maxAttempts) return [{ ...suspect, attempt: begun + 1 }];
      await ledger.bury(
        { ...suspect, attempt: begun },
        'Its worker died, or froze, with it in hand',
      );
      this.#tally.died++;
    }
    rabbitReceipt(suspect)!.acknowledge();
    return [];
  }

  /** @returns suspects that may be begun: that they are is written down, and they are no other worker's by now */
  async begin(suspects: readonly Delivery[]): Promise<Delivery[]> {
    try {
      await this.#parts.ledger.begin(suspects);
    } catch (error) {
      log.debug({ err: error }, 'the queue: suspects have to wait');
      this.#waiting.unshift(...suspects.filter(each => rabbitReceipt(each)!.channel.active));
      return [];
    }
    return suspects.filter(each => this.#inHand.has(each));
  }

  /**
   * One of a bundle whose worker died may be what killed it, and it must not take the others with it: each of them that was not done goes
   * on by itself. Until RabbitMQ has them the bundle is not acknowledged; so they may come twice, and are never lost.
   */
  async #takeApart(parcel: Parcel, messages: readonly Carried[]): Promise<void> {
    const { ledger, sendAlone, policy } = this.#parts;
    const ids = messages.map(({ id }) => id);
    while (parcel.channel.active) {
      try {
        const noted = await ledger.noted(ids, policy);
        const left = messages.filter(({ id }) => !noted.has(id));
        await sendAlone(queueOf(policy.topic, policy.name), left);
        for (const _ of messages) parcel.settleOne(false);
        return;
      } catch (error) {
        log.debug({ err: error }, 'the queue: a bundle could not be taken apart yet');
        await delay(TAKE_APART_AGAIN_MS, undefined, { ref: false });
      }
    }
  }

  /** @returns false when it is another worker's by now */
  complete(delivery: Delivery): boolean {
    if (!this.#settle(delivery)) return false;
    this.#tally.completed++;
    rabbitReceipt(delivery)!.parcel.done.push(delivery.id);
    return true;
  }

  /** It goes on in PostgreSQL; in RabbitMQ when that does not take it. @returns false when it is another worker's by now */
  async fail(delivery: Delivery, error: string, retryInMs: number | undefined): Promise<boolean> {
    const { ledger } = this.#parts;
    if (!rabbitReceipt(delivery)!.channel.active) return false;
    try {
      if (retryInMs === undefined) {
        await ledger.bury(delivery, error);
        this.#tally.died++;
      } else {
        const again = { ...delivery, isSuspect: false };
        await ledger.move(again, Math.max(1, retryInMs), delivery.attempt);
        this.#tally.failed++;
      }
    } catch (refusal) {
      log.warn({ err: refusal }, 'the queue: PostgreSQL did not take a message that failed');
      return this.#settle(delivery, true);
    }
    return this.#settle(delivery);
  }

  /** To PostgreSQL, since RabbitMQ would count it as a death of its worker; to RabbitMQ all the same when PostgreSQL does not take it. */
  async handBack(deliveries: readonly Delivery[]): Promise<void> {
    await this.#moveOn(deliveries, (delivery, error) => {
      log.warn({ err: error }, 'the queue: PostgreSQL did not take a message back');
      this.#settle(delivery, true);
    });
  }

  /** Once a second. */
  async look(): Promise<void> {
    await Promise.all([this.#count(), this.#passOn(), this.#note()]);
  }

  /**
   * More was sent ahead than is begun within a second, as the last one shows: the rest goes on in PostgreSQL, where whoever has time
   * takes it. While PostgreSQL does not, it waits on.
   */
  async #passOn(): Promise<void> {
    const taken = this.#taken;
    this.#taken = 0;
    if (performance.now() - this.#waitsSince < SLOW_MS) return;
    const { suspects = [], others = [] } = Object.groupBy(this.#waiting, ({ isSuspect }) =>
      isSuspect ? 'suspects' : 'others',
    );
    const parked = others.splice(taken);
    if (parked.length === 0) return;
    this.#waiting.splice(0, this.#waiting.length, ...suspects, ...others);
    const refused: Delivery[] = [];
    await this.#moveOn(parked, delivery => refused.push(delivery));
    // It may have been told to leave meanwhile, and nobody looks at what waits any more.
    if (this.#isLeft) await this.handBack(refused);
    else this.#waiting.push(...refused.filter(each => rabbitReceipt(each)!.channel.active));
  }

  /** What was done of a bundle that takes long: should its worker die, that is not done again. */
  async #note(): Promise<void> {
    const { ledger, policy } = this.#parts;
    const before = performance.now() - SLOW_MS;
    for (const parcel of this.#bundles) {
      if (parcel.arrivedAt > before || parcel.done.length === 0) continue;
      const ids = parcel.done;
      parcel.done = [];
      try {
        await ledger.note(ids, policy);
      } catch {
        parcel.done.push(...ids);
      }
    }
  }

  async #count(): Promise<void> {
    const { completed, failed, died } = this.#tally;
    if (completed + failed + died === 0) return;
    Object.assign(this.#tally, { completed: 0, failed: 0, died: 0 });
    try {
      await this.#parts.ledger.count(this.#parts.policy, { completed, failed, died });
    } catch {
      // With the next ones.
      this.#tally.completed += completed;
      this.#tally.failed += failed;
      this.#tally.died += died;
    }
  }

  /** Not begun, they are PostgreSQL's. @param refused told of those that it does not take */
  async #moveOn(
    deliveries: readonly Delivery[],
    refused: (delivery: Delivery, error: unknown) => void,
  ): Promise<void> {
    await Promise.all(
      deliveries.map(async delivery => {
        if (!rabbitReceipt(delivery)!.channel.active) return;
        try {
          await this.#parts.ledger.move(delivery, 0, delivery.attempt - 1);
          this.#settle(delivery);
        } catch (error) {
          refused(delivery, error);
        }
      }),
    );
  }

  #settle(delivery: Delivery, isGivenBack = false): boolean {
    const receipt = rabbitReceipt(delivery)!;
    this.#inHand.delete(delivery);
    const isOurs = isGivenBack ? receipt.giveBack() : receipt.acknowledge();
    if (receipt.parcel.isSettled) this.#bundles.delete(receipt.parcel);
    return isOurs;
  }

  /** Takes no more, and gives back what nobody has begun. */
  async leave(): Promise<void> {
    this.#isLeft = true;
    await this.#cancel().catch(() => {});
    // What arrived before RabbitMQ's answer is given to us in a turn of its own, after it.
    await turn();
    await this.handBack(this.#waiting.splice(0));
  }

  /** What was acknowledged and counted has been heard, and the channel is no more. */
  async close(): Promise<void> {
    await this.#count();
    await this.#closeChannel().catch(() => {});
  }
}
