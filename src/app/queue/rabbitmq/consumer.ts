/** A worker's side on RabbitMQ: a connection, and a line (line.ts) for each subscription that it was asked for. */
import { setTimeout as delay } from 'node:timers/promises';
import type { Connection } from 'rabbitmq-client';
import type { ConsumerEvents, Delivery, SubscriptionPolicy, Want } from '../engine.ts';
import type { Carried } from './bundle.ts';
import type { Ledger } from './ledger.ts';
import { Line } from './line.ts';
import { rabbitReceipt } from './receipt.ts';

const LOOK_EVERY_MS = 1_000;
const LEFT_EVERY_MS = 50;
/** For the last acknowledgements to be heard. */
const CLOSE_MS = 1_000;
/** Beside what is asked for, so that the next are there when those are done: what RabbitMQ takes to hear of it and to send is longer than many. */
const AHEAD = 4;
const MOST_AHEAD = 2_000;

export interface RabbitConsumerParts {
  readonly open: () => Promise<Connection>;
  readonly events: ConsumerEvents;
  readonly policies: readonly SubscriptionPolicy[];
  readonly ledger: Ledger;
  /** Nothing is published any more, and nothing may be made. */
  readonly isDraining: () => boolean;
  /** To a queue, each by itself. Rejects unless all are there. */
  readonly sendAlone: (queue: string, messages: readonly Carried[]) => Promise<void>;
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
      for (const line of this.#lines.values()) void line.look();
    }, LOOK_EVERY_MS);
  }

  /** Of what has come. A subscription that is asked for the first time begins to be delivered. */
  async take(wants: readonly Want[]): Promise<Delivery[]> {
    const got: Delivery[] = [];
    let suspects: Delivery[] = [];
    for (const want of wants) {
      const most = suspects.length > 0 ? 0 : want.suspects;
      const taken = this.#lineOf(want)?.take(want.count, most) ?? [];
      if (most > 0) suspects = taken.filter(({ isSuspect }) => isSuspect);
      got.push(...taken);
    }
    if (suspects.length === 0) return got;
    const begun = await rabbitReceipt(suspects[0]!)!.line.begin(suspects);
    return got.filter(delivery => !delivery.isSuspect || begun.includes(delivery));
  }

  #lineOf({ topic, subscription, count }: Want): Line | undefined {
    const key = `${topic}/${subscription}`;
    const known = this.#lines.get(key);
    if (known || this.#isClosed || this.#isRetired) return known;
    const { policies, open } = this.#parts;
    const policy = policies.find(each => each.topic === topic && each.name === subscription);
    if (!policy) return undefined;
    const line = new Line({
      ...this.#parts,
      policy,
      acquire: async () => {
        this.#connection ??= open();
        return (await this.#connection).acquire();
      },
      prefetchCount: Math.min(MOST_AHEAD, Math.max(1, count) * AHEAD),
    });
    this.#lines.set(key, line);
    return line;
  }

  /** Gives back what nobody has begun, takes no more, and closes when what is in hand is done. */
  async retire(): Promise<void> {
    if (this.#isRetired) return;
    this.#isRetired = true;
    for (const line of this.#lines.values()) await line.leave();
    while (!this.#isClosed && [...this.#lines.values()].some(line => !line.isEmpty)) {
      await delay(LEFT_EVERY_MS, undefined, { ref: false });
    }
    await this.close();
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    clearInterval(this.#timer);
    for (const line of this.#lines.values()) await line.leave();
    // Acknowledgements are on their way: they are waited for, but not without end.
    const heard = Promise.all([...this.#lines.values()].map(line => line.close()));
    await Promise.race([heard, delay(CLOSE_MS, undefined, { ref: false })]);
    const connection = await this.#connection?.catch(() => undefined);
    connection?.unsafeDestroy();
  }
}
