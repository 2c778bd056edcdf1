/**
 * The acknowledgements of a channel, those of a few milliseconds together: for RabbitMQ each is a command of its own in the
 * queue's log, which is synced, and one that is meant for many costs as much as one that is meant for one.
 *
 * Holds true here:
 * - Only what was settled is acknowledged. "All up to this one" is said where all before it have been settled.
 * - It names one that RabbitMQ waits for: of any other it would close the channel.
 */
import type { Channel } from 'rabbitmq-client';

/** Should the worker die within it, what it has done just now comes again. */
const LATER_MS = 5;

export class Acknowledgements {
  readonly #channel: Channel;
  readonly #most: number;
  /** To be acknowledged soon. */
  #due: number[] = [];
  #timer: NodeJS.Timeout | undefined;
  /** All up to here are settled. Tags of a channel count from 1. */
  #upto = 0;
  /** Beyond that. */
  readonly #settled = new Set<number>();

  /** @param most that wait for others: RabbitMQ sends no more while too many are not acknowledged */
  constructor(channel: Channel, most: number) {
    this.#channel = channel;
    this.#most = most;
  }

  acknowledge(tag: number): void {
    this.#settled.add(tag);
    this.#due.push(tag);
    if (this.#due.length >= this.#most) this.flush();
    else this.#timer ??= setTimeout(() => this.flush(), LATER_MS);
  }

  /** It is given back, so nobody waits for it any more. */
  requeue(tag: number): void {
    // What is due was settled before.
    this.flush();
    this.#settled.add(tag);
    this.#channel.basicNack({ deliveryTag: tag, requeue: true });
  }

  /** What is due is sent now. */
  flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const due = this.#due.sort((a, b) => a - b);
    this.#due = [];
    while (this.#settled.delete(this.#upto + 1)) this.#upto++;
    if (!this.#channel.active) return;
    const before = due.filter(tag => tag <= this.#upto);
    const last = before.at(-1);
    if (last !== undefined) {
      this.#channel.basicAck({ deliveryTag: last, multiple: before.length > 1 });
    }
    for (const tag of due.slice(before.length)) this.#channel.basicAck({ deliveryTag: tag });
  }
}
