/**
 * A topic's way to RabbitMQ: what is published at the same time goes together (bundle.ts).
 *
 * Holds true here:
 * - Nobody waits for company. What was published in one turn of the event loop goes together; and while some bundles are on their
 *   way, what comes gathers until one of them has arrived, as in a database's group commit.
 * - Each bundle has one fate, and each caller is told that of his own messages.
 */
import type { OutgoingMessage } from '../engine.ts';
import { charactersOf, fitsTogether, inBundles } from './bundle.ts';

/** Bundles that are not full wait while so many are on their way. */
const UNDER_WAY = 4;

/** Messages of one caller, few enough to travel together. */
interface Party {
  readonly messages: readonly OutgoingMessage[];
  readonly settle: (isTaken: boolean) => void;
  readonly fail: (error: unknown) => void;
}

/** What became of a caller's messages. */
export interface Fate {
  /** Certainly not taken. */
  readonly refused: OutgoingMessage[];
  /** Taken or not, nobody knows. */
  readonly uncertain: OutgoingMessage[];
  /** Why that is so. */
  readonly cause: unknown;
}

export class Lane {
  /** Resolves to whether RabbitMQ has them; rejects when that is not known. */
  readonly #carry: (messages: readonly OutgoingMessage[]) => Promise<boolean>;
  readonly #waiting: Party[] = [];
  #underWay = 0;
  #isDue = false;

  constructor(carry: (messages: readonly OutgoingMessage[]) => Promise<boolean>) {
    this.#carry = carry;
  }

  async publish(messages: readonly OutgoingMessage[]): Promise<Fate> {
    const parties = inBundles(messages);
    const outcomes = await Promise.allSettled(parties.map(party => this.#join(party)));
    const refused: OutgoingMessage[] = [];
    const uncertain: OutgoingMessage[] = [];
    let cause: unknown;
    for (const [index, outcome] of outcomes.entries()) {
      if (outcome.status === 'rejected') {
        uncertain.push(...parties[index]!);
        cause = outcome.reason;
      } else if (!outcome.value) refused.push(...parties[index]!);
    }
    return { refused, uncertain, cause };
  }

  #join(messages: readonly OutgoingMessage[]): Promise<boolean> {
    const { promise, resolve, reject } = Promise.withResolvers<boolean>();
    this.#waiting.push({ messages, settle: resolve, fail: reject });
    if (!this.#isDue) {
      this.#isDue = true;
      setImmediate(() => {
        this.#isDue = false;
        this.#send();
      });
    }
    return promise;
  }

  #send(): void {
    for (;;) {
      const { parties, isFull } = this.#next();
      if (parties === 0 || (!isFull && this.#underWay >= UNDER_WAY)) return;
      void this.#sendTogether(this.#waiting.splice(0, parties));
    }
  }

  /** Of those that wait, how many go together next; full: waiting longer brings no more company. */
  #next(): { parties: number; isFull: boolean } {
    let count = 0;
    let characters = 0;
    for (const [parties, { messages }] of this.#waiting.entries()) {
      count += messages.length;
      characters += charactersOf(messages);
      if (parties > 0 && !fitsTogether(count, characters)) return { parties, isFull: true };
    }
    return { parties: this.#waiting.length, isFull: !fitsTogether(count + 1, characters) };
  }

  async #sendTogether(parties: readonly Party[]): Promise<void> {
    this.#underWay++;
    try {
      const isTaken = await this.#carry(parties.flatMap(({ messages }) => messages));
      for (const { settle } of parties) settle(isTaken);
    } catch (error) {
      for (const { fail } of parties) fail(error);
    }
    this.#underWay--;
    this.#send();
  }

  /** RabbitMQ takes none: those that wait are not sent any more. */
  refuse(): void {
    for (const { settle } of this.#waiting.splice(0)) settle(false);
  }
}
