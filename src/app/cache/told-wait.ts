/**
 * Waiting until a change has been told: who wrote a moment ago is given what is kept, as soon as it is known that it is of after.
 *
 * Holds true here: nobody waits for longer than `TOLD_WAIT_MS`, and after a wait in vain nobody waits for a second.
 */
import type { CheckedTo } from './entry-format.ts';
import type { InvalidationMemory } from './memory.ts';
import { NOWHERE } from './session-needs.ts';

/** Who has to be shown what was written a moment ago waits for so long until that has been told, then asks the database. */
const TOLD_WAIT_MS = 50;
/** After a wait in vain nobody waits for so long. */
const IMPATIENT_MS = 1_000;

export class ToldWait {
  readonly #memory: InvalidationMemory;
  readonly #waiting = new Set<() => void>();
  /** By `performance.now()`: until then nobody waits. */
  #impatientUntil = 0;

  constructor(memory: InvalidationMemory) {
    this.#memory = memory;
  }

  /** Something has been told. */
  look(): void {
    for (const look of this.#waiting) look();
  }

  /** Waits until what a session has to see has been told, where that is a matter of a moment. */
  async until(needed: CheckedTo): Promise<void> {
    const memory = this.#memory;
    const isTold = () => {
      for (const cluster in needed)
        if (!((memory.uptoOf(cluster) ?? 0n) >= needed[cluster]!)) return false;
      return true;
    };
    const isKnown = !Object.values(needed).includes(NOWHERE) && memory.isWhole;
    if (isTold() || !isKnown || performance.now() < this.#impatientUntil) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const look = () => {
      if (isTold()) resolve();
    };
    this.#waiting.add(look);
    const timer = setTimeout(() => {
      this.#impatientUntil = performance.now() + IMPATIENT_MS;
      resolve();
    }, TOLD_WAIT_MS);
    await promise;
    clearTimeout(timer);
    this.#waiting.delete(look);
  }
}
