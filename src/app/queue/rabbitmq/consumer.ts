/**
 * A worker's side on RabbitMQ: a channel for each subscription, over which messages come by themselves, as many as there is room
 * for.
 *
 * Holds true here:
 * - A delivery is settled by an acknowledgement, once, over the channel that it came by. When that is gone RabbitMQ gives it to
 *   another; so whoever works on it is told that it is lost.
 * - What RabbitMQ delivers again was in the hands of a worker that died, or whose line broke: it is a suspect, and looked up
 *   first. What dies again is counted.
 */
import { setTimeout as delay, setImmediate as turn } from 'node:timers/promises';
import type { AsyncMessage, Channel, Connection } from 'rabbitmq-client';
import { log } from '../../telemetry/log.ts';
import type {
  ConsumerEvents,
  Delivery,
  Failure,
  Outcome,
  SubscriptionPolicy,
  Want,
} from '../engine.ts';
import { isTransient } from '../postgres/link.ts';
import { Acknowledgements } from './acknowledgements.ts';
import type { Ledger, Tally } from './ledger.ts';
import { declareTopic, queueOf } from './names.ts';

const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 2_000;
const COUNT_EVERY_MS = 1_000;
const LOOK_MS = 50;
/** For the last acknowledgements to be heard. */
const CLOSE_MS = 1_000;
/** Beside what is asked for, so that the next are there when those are done: what RabbitMQ takes to hear of it and to send is longer than many. */
const AHEAD = 4;
/** What has waited here for so long, while nothing was taken, others may have time for. */
const SLOW_MS = 1_000;
const MOST_AHEAD = 2_000;

/** Where a delivery came from. */
export class RabbitReceipt {
  readonly channel: Channel;
  readonly deliveryTag: number;
  readonly consumer: RabbitConsumer;
  readonly #acknowledgements: Acknowledgements;
  isSettled = false;

  constructor(
    channel: Channel,
    deliveryTag: number,
    consumer: RabbitConsumer,
    acknowledgements: Acknowledgements,
  ) {
    this.channel = channel;
    this.deliveryTag = deliveryTag;
    this.consumer = consumer;
    this.#acknowledgements = acknowledgements;
  }

  /** @returns false when it is another worker's by now */
  acknowledge(): boolean {
    if (this.isSettled || !this.channel.active) return false;
    this.isSettled = true;
    this.#acknowledgements.acknowledge(this.deliveryTag);
    return true;
  }

  /** RabbitMQ gives it to another, as one that may have been done. */
  requeue(): void {
    if (this.isSettled || !this.channel.active) return;
    this.isSettled = true;
    this.#acknowledgements.requeue(this.deliveryTag);
  }
}

/** Undefined of one that PostgreSQL delivered. */
export function rabbitReceipt({ receipt }: Delivery): RabbitReceipt | undefined {
  return receipt instanceof RabbitReceipt ? receipt : undefined;
}

interface Line {
  readonly policy: SubscriptionPolicy;
  readonly waiting: Delivery[];
  readonly inHand: Set<Delivery>;
  readonly tally: Tally;
  /** When something was taken of what waits, or began to wait; by `performance.now()`. */
  tookAt: number;
  /** No more comes by the present channel. */
  cancel: () => Promise<void>;
  /** What was acknowledged has been heard, and the channel is no more. */
  closeChannel: () => Promise<void>;
}

export interface RabbitConsumerParts {
  readonly open: () => Promise<Connection>;
  readonly events: ConsumerEvents;
  readonly policies: readonly SubscriptionPolicy[];
  readonly ledger: Ledger;
}

export class RabbitConsumer {
  readonly #parts: RabbitConsumerParts;
  readonly #lines = new Map<string, Line>();
  readonly #timer: NodeJS.Timeout;
  #connection: Promise<Connection> | undefined;
  /** Takes no more. */
  #isRetired = false;
  #isClosed = false;

  constructor(parts: RabbitConsumerParts) {
    this.#parts = parts;
    this.#timer = setInterval(() => {
      void this.#count();
      for (const line of this.#lines.values()) void this.#passOn(line);
    }, COUNT_EVERY_MS);
  }

  /** Of what has come. A subscription that is asked for the first time begins to be delivered. */
  take(wants: readonly Want[]): Delivery[] {
    const got: Delivery[] = [];
    for (const { topic, subscription, count, suspect } of wants) {
      const line = this.#lineOf(topic, subscription, count);
      if (!line) continue;
      let maySuspect = suspect;
      for (let index = 0, taken = 0; index < line.waiting.length && taken < count; ) {
        const delivery = line.waiting[index]!;
        if (delivery.isSuspect && !maySuspect) {
          index++;
          continue;
        }
        if (delivery.isSuspect) maySuspect = false;
        line.waiting.splice(index, 1);
        line.tookAt = performance.now();
        got.push(delivery);
        taken++;
      }
    }
    return got;
  }

  #lineOf(topic: string, subscription: string, count: number): Line | undefined {
    const key = `${topic}/${subscription}`;
    const known = this.#lines.get(key);
    if (known || this.#isClosed || this.#isRetired) return known;
    const policy = this.#parts.policies.find(
      each => each.topic === topic && each.name === subscription,
    );
    if (!policy) return undefined;
    const tally = { completed: 0, failed: 0, died: 0 };
    const nothing = async () => {};
    const line: Line = {
      policy,
      waiting: [],
      inHand: new Set(),
      tally,
      tookAt: 0,
      cancel: nothing,
      closeChannel: nothing,
    };
    this.#lines.set(key, line);
    void this.#keepOpen(line, Math.min(MOST_AHEAD, Math.max(1, count) * AHEAD));
    return line;
  }

  /** Until it is closed. */
  async #keepOpen(line: Line, prefetchCount: number): Promise<void> {
    let pauseMs = FIRST_PAUSE_MS;
    while (!this.#isClosed && !this.#isRetired) {
      try {
        this.#connection ??= this.#parts.open();
        const channel = await (await this.#connection).acquire();
        const { promise: closed, resolve } = Promise.withResolvers<void>();
        channel.once('close', () => resolve());
        channel.on('error', error => log.debug({ err: error }, 'a channel of RabbitMQ broke'));
        const { topic, name } = line.policy;
        await declareTopic(channel, topic, [name]);
        await channel.basicQos({ prefetchCount });
        const acknowledgements = new Acknowledgements(channel);
        if (this.#isRetired) return;
        const { consumerTag } = await channel.basicConsume(
          { queue: queueOf(topic, name) },
          message => {
            this.#arrived(line, channel, acknowledgements, message).catch(error => {
              // Nobody knows whether it was done: the line is broken, and it comes again.
              if (!isTransient(error))
                log.error({ err: error }, 'a message could not be looked up');
              channel.close().catch(() => {});
            });
          },
        );
        channel.on('basic.cancel', () => void channel.close().catch(() => {}));
        line.cancel = async () => {
          await channel.basicCancel({ consumerTag });
        };
        line.closeChannel = () => {
          acknowledgements.flush();
          return channel.close();
        };
        pauseMs = FIRST_PAUSE_MS;
        await closed;
      } catch (error) {
        log.debug({ err: error }, 'the queue: RabbitMQ has to wait');
      }
      this.#lose(line);
      await delay(pauseMs, undefined, { ref: false });
      pauseMs = Math.min(pauseMs * 2, LONGEST_PAUSE_MS);
    }
  }

  #lose(line: Line): void {
    line.waiting.length = 0;
    const lost = [...line.inHand].filter(each => !rabbitReceipt(each)!.channel.active);
    for (const delivery of lost) line.inHand.delete(delivery);
    if (lost.length > 0) this.#parts.events.lost(lost);
  }

  async #arrived(
    line: Line,
    channel: Channel,
    acknowledgements: Acknowledgements,
    message: AsyncMessage,
  ): Promise<void> {
    const { policy } = line;
    const receipt = new RabbitReceipt(channel, message.deliveryTag, this, acknowledgements);
    const deliveredBefore = Number(message.headers?.['x-delivery-count'] ?? 0);
    const delivery: Delivery = {
      id: String(message.messageId),
      topic: policy.topic,
      subscription: policy.name,
      payload: String(message.body),
      key: undefined,
      attempt: Math.max(1, deliveredBefore),
      isSuspect: deliveredBefore > 0,
      group: 'rabbitmq',
      receipt,
    };
    if (delivery.isSuspect) {
      if (await this.#parts.ledger.isNoted(delivery.id, policy)) {
        receipt.acknowledge();
        return;
      }
      if (deliveredBefore > policy.maxAttempts) {
        await this.#parts.ledger.bury(delivery, 'Its worker died, or froze, with it in hand');
        line.tally.died++;
        receipt.acknowledge();
        return;
      }
    }
    if (!channel.active) return;
    line.inHand.add(delivery);
    if (this.#isRetired || this.#isClosed) return this.handBack([delivery]);
    if (line.waiting.length === 0) line.tookAt = performance.now();
    line.waiting.push(delivery);
    // Once for all that came together.
    if (line.waiting.length === 1) queueMicrotask(() => this.#parts.events.wake());
  }

  /** @returns those that are others' by now */
  complete(outcomes: readonly Outcome[]): Delivery[] {
    return outcomes
      .map(({ delivery }) => delivery)
      .filter(delivery => {
        const isOurs = this.#settle(delivery);
        if (isOurs) this.#lineWith(delivery).tally.completed++;
        return !isOurs;
      });
  }

  /** They go on in PostgreSQL. @returns those that are others' by now */
  async fail(failures: readonly Failure[]): Promise<Delivery[]> {
    const { ledger } = this.#parts;
    const lost = await Promise.all(
      failures.map(async ({ delivery, error, retryInMs }) => {
        if (!rabbitReceipt(delivery)!.channel.active) return delivery;
        const { tally } = this.#lineWith(delivery);
        if (retryInMs === undefined) {
          await ledger.bury(delivery, error);
          tally.died++;
        } else {
          await ledger.move(
            { ...delivery, isSuspect: false },
            Math.max(1, retryInMs),
            delivery.attempt,
          );
          tally.failed++;
        }
        return this.#settle(delivery) ? undefined : delivery;
      }),
    );
    return lost.filter(each => each !== undefined);
  }

  /** To PostgreSQL, since RabbitMQ would count it as a death of its worker; to RabbitMQ all the same when PostgreSQL does not take it. */
  async handBack(deliveries: readonly Delivery[]): Promise<void> {
    await this.#moveOn(deliveries, (delivery, error) => {
      log.warn({ err: error }, 'the queue: PostgreSQL did not take a message back');
      this.#lineWith(delivery).inHand.delete(delivery);
      rabbitReceipt(delivery)!.requeue();
    });
  }

  /**
   * Handlers take long, and what was sent ahead waits behind them: it goes on in PostgreSQL, where whoever has time takes it. While
   * PostgreSQL does not, it waits on.
   */
  async #passOn(line: Line): Promise<void> {
    if (performance.now() - line.tookAt < SLOW_MS) return;
    const { suspects = [], parked = [] } = Object.groupBy(line.waiting, ({ isSuspect }) =>
      isSuspect ? 'suspects' : 'parked',
    );
    line.waiting.splice(0, line.waiting.length, ...suspects);
    const refused: Delivery[] = [];
    await this.#moveOn(parked, delivery => refused.push(delivery));
    // It may have been told to leave meanwhile, and nobody looks at what waits any more.
    if (this.#isRetired || this.#isClosed) await this.handBack(refused);
    else line.waiting.push(...refused.filter(each => rabbitReceipt(each)!.channel.active));
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

  #settle(delivery: Delivery): boolean {
    this.#lineWith(delivery).inHand.delete(delivery);
    return rabbitReceipt(delivery)!.acknowledge();
  }

  #lineWith({ topic, subscription }: Delivery): Line {
    return this.#lines.get(`${topic}/${subscription}`)!;
  }

  async #count(): Promise<void> {
    for (const { policy, tally } of this.#lines.values()) {
      const { completed, failed, died } = tally;
      if (completed + failed + died === 0) continue;
      Object.assign(tally, { completed: 0, failed: 0, died: 0 });
      try {
        await this.#parts.ledger.count(policy, { completed, failed, died });
      } catch {
        // With the next ones.
        tally.completed += completed;
        tally.failed += failed;
        tally.died += died;
      }
    }
  }

  /** Gives back what nobody has begun, takes no more, and closes when what is in hand is done. */
  async retire(): Promise<void> {
    if (this.#isRetired) return;
    this.#isRetired = true;
    for (const line of this.#lines.values()) await this.#leave(line);
    while (!this.#isClosed && [...this.#lines.values()].some(({ inHand }) => inHand.size > 0)) {
      await delay(LOOK_MS, undefined, { ref: false });
    }
    await this.close();
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    clearInterval(this.#timer);
    for (const line of this.#lines.values()) await this.#leave(line);
    await this.#count();
    // Acknowledgements are on their way: they are waited for, but not without end.
    const heard = [...this.#lines.values()].map(line => line.closeChannel().catch(() => {}));
    await Promise.race([Promise.all(heard), delay(CLOSE_MS, undefined, { ref: false })]);
    const connection = await this.#connection?.catch(() => undefined);
    connection?.unsafeDestroy();
  }

  /** Takes no more of it, and gives back what nobody has begun. */
  async #leave(line: Line): Promise<void> {
    await line.cancel().catch(() => {});
    // What arrived before RabbitMQ's answer is given to us in a turn of its own, after it.
    await turn();
    await this.handBack(line.waiting.splice(0));
  }
}
