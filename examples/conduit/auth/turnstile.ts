/**
 * Lets a few in at a time. Hashing a password takes 32 MiB and a thread of the few that Node also reads files
 * with, so a flood of logins must neither fill the memory nor stop everything else.
 */
import { Problem } from '../problem.ts';

export class Turnstile {
  readonly #atOnce: number;
  readonly #waitingLimit: number;
  readonly #waiting: (() => void)[] = [];
  #inside = 0;

  /**
   * @param atOnce how many run at the same time
   * @param waitingLimit how many may wait for their turn; who comes then is sent away
   */
  constructor(atOnce: number, waitingLimit: number) {
    this.#atOnce = atOnce;
    this.#waitingLimit = waitingLimit;
  }

  /** Runs `body` when it is its turn. @throws Problem 503 when too many wait */
  async pass<T>(body: () => Promise<T>): Promise<T> {
    if (this.#inside < this.#atOnce) this.#inside++;
    else await this.#wait();
    try {
      return await body();
    } finally {
      // The place is handed on, so nobody who comes meanwhile can take it.
      const next = this.#waiting.shift();
      if (next) next();
      else this.#inside--;
    }
  }

  #wait(): Promise<void> {
    if (this.#waiting.length >= this.#waitingLimit) {
      throw new Problem(503, { body: ['too many people are logging in; try again in a moment'] });
    }
    return new Promise(resolve => this.#waiting.push(resolve));
  }
}
