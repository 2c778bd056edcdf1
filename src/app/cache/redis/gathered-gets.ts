/**
 * Entries that are asked for in the same turn of the event loop are asked of Redis in one question for each bucket: for a busy server
 * that is most of what a hit costs, here and there.
 *
 * Holds true here: nobody waits for others. What is gathered goes out when the turn is over, in the order in which it was asked.
 */
import type { RedisConnection, Reply } from './connection.ts';

/** In one question: more would keep the next ones waiting for too long. */
const MOST_KEYS = 64;

interface Asked {
  readonly key: string;
  readonly resolve: (bytes: Buffer | null) => void;
  readonly reject: (error: unknown) => void;
}

export class GatheredGets {
  readonly #connection: RedisConnection;
  /** By bucket. */
  #asked = new Map<number, Asked[]>();

  constructor(connection: RedisConnection) {
    this.#connection = connection;
  }

  /**
   * @param bucket that the key is in: all of its keys are in one slot
   * @throws CacheAway
   */
  get(bucket: number, key: string): Promise<Buffer | null> {
    return new Promise((resolve, reject) => {
      const asked = this.#asked.get(bucket);
      if (asked) {
        asked.push({ key, resolve, reject });
        return;
      }
      // After all promises that are settled now have gone on: they are about to ask too.
      if (this.#asked.size === 0) process.nextTick(() => this.#send());
      this.#asked.set(bucket, [{ key, resolve, reject }]);
    });
  }

  #send(): void {
    const all = this.#asked;
    this.#asked = new Map();
    for (const asked of all.values()) {
      for (let from = 0; from < asked.length; from += MOST_KEYS) {
        this.#ask(asked.length <= MOST_KEYS ? asked : asked.slice(from, from + MOST_KEYS));
      }
    }
  }

  #ask(asked: readonly Asked[]): void {
    const first = asked[0]!;
    if (asked.length === 1) {
      this.#connection
        .command(first.key, ['GET', first.key], true)
        .then(reply => first.resolve(reply as Buffer | null), first.reject);
      return;
    }
    const words = ['MGET'];
    for (const { key } of asked) words.push(key);
    this.#connection.command(first.key, words, true).then(
      reply => {
        const values = reply as Reply[];
        for (let n = 0; n < asked.length; n++) asked[n]!.resolve(values[n] as Buffer | null);
      },
      error => {
        for (const { reject } of asked) reject(error);
      },
    );
  }
}
