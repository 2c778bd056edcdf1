/**
 * The acknowledgements of a channel, those of one turn of the event loop together: for RabbitMQ each is a command of its own in the
 * queue's log, and one that is meant for many costs as much as one that is meant for one.
 *
 * Holds true here:
 * - Only what was settled is acknowledged. "All up to this one" is said where all before it have been settled.
 * - It names one that RabbitMQ waits for: of any other it would close the channel.
 */
import type { Channel } from 'rabbitmq-client';

export class Acknowledgements {
  readonly #channel: Channel;
  /** To be acknowledged when the turn is over. */
  #due: number[] = [];
  /** All up to here are settled. Tags of a channel count from 1. */
  #upto = 0;
  /** Beyond that. */
  readonly #settled = new Set<number>();

  constructor(channel: Channel) {
    this.#channel = channel;
  }

  acknowledge(tag: number): void {
    this.#settled.add(tag);
    if (this.#due.length === 0) process.nextTick(() => this.flush());
    this.#due.push(tag);
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
