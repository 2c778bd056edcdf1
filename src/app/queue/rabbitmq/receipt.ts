/**
 * What RabbitMQ has delivered and waits to hear of: a bundle, or a message that came alone, and the messages in it.
 *
 * Holds true here: a bundle is acknowledged when all of its messages are settled. If one of them is given back all of it is: those that
 * were done are known by their notes (ledger.ts).
 */
import type { Channel } from 'rabbitmq-client';
import type { Delivery } from '../engine.ts';
import type { Acknowledgements } from './acknowledgements.ts';
import type { Line } from './line.ts';

export class Parcel {
  readonly channel: Channel;
  readonly deliveryTag: number;
  readonly arrivedAt = performance.now();
  readonly #acknowledgements: Acknowledgements;
  /** Messages that are not settled. */
  #open: number;
  #isGivenBack = false;
  /** Ids of those that were done, as long as others keep the bundle from its acknowledgement. */
  done: string[] = [];

  constructor(
    channel: Channel,
    deliveryTag: number,
    messages: number,
    acknowledgements: Acknowledgements,
  ) {
    this.channel = channel;
    this.deliveryTag = deliveryTag;
    this.#open = messages;
    this.#acknowledgements = acknowledgements;
  }

  get isSettled(): boolean {
    return this.#open === 0;
  }

  settleOne(isGivenBack: boolean): void {
    this.#isGivenBack ||= isGivenBack;
    if (--this.#open > 0) return;
    if (this.#isGivenBack) this.#acknowledgements.requeue(this.deliveryTag);
    else this.#acknowledgements.acknowledge(this.deliveryTag);
  }
}

/** Where a delivery came from. */
export class RabbitReceipt {
  readonly parcel: Parcel;
  readonly line: Line;
  /** A suspect that was begun before, and its worker died. */
  comesAlone = false;
  #isSettled = false;

  constructor(parcel: Parcel, line: Line) {
    this.parcel = parcel;
    this.line = line;
  }

  get channel(): Channel {
    return this.parcel.channel;
  }

  /** @returns false when it is another worker's by now */
  acknowledge(): boolean {
    return this.#settle(false);
  }

  /** RabbitMQ gives it to another, as one that may have been done. */
  giveBack(): boolean {
    return this.#settle(true);
  }

  #settle(isGivenBack: boolean): boolean {
    if (this.#isSettled || !this.channel.active) return false;
    this.#isSettled = true;
    this.parcel.settleOne(isGivenBack);
    return true;
  }
}

/** Undefined of one that PostgreSQL delivered. */
export function rabbitReceipt({ receipt }: Delivery): RabbitReceipt | undefined {
  return receipt instanceof RabbitReceipt ? receipt : undefined;
}
