/**
 * One timer for all questions that are under way, in the place of one for each: they all wait equally long, so the first that was
 * asked is the first to be given up.
 *
 * Holds true here: a question is given up after its time, and at most a quarter of that later; nothing is kept of it then.
 */

export interface Patient {
  /** It has been answered. */
  isOver: boolean;
  /** It has waited for long enough. */
  giveUp(): void;
}

/** Ticks that make up the time. */
const TICKS = 4;

export class Patience {
  readonly #tickMs: number;
  /** By the tick in which they were asked, the oldest first; the last is the present one. */
  readonly #asked: Patient[][] = [[]];
  #timer: NodeJS.Timeout | undefined;

  constructor(timeoutMs: number) {
    this.#tickMs = timeoutMs / TICKS;
  }

  add(patient: Patient): void {
    this.#asked.at(-1)!.push(patient);
    this.#timer ??= setInterval(() => this.#tick(), this.#tickMs);
  }

  #tick(): void {
    this.#asked.push([]);
    // The present tick, those that are whole, and the one in which the oldest was asked, which may have been at its end.
    if (this.#asked.length > TICKS + 2) {
      for (const patient of this.#asked.shift()!) {
        if (patient.isOver) continue;
        patient.isOver = true;
        patient.giveUp();
      }
    }
    if (this.#asked.some(list => list.length > 0)) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#asked.length = 1;
  }
}
