/**
 * `nextId()`: 64-bit ids that are unique across processes and sort by time, made without asking anyone.
 *
 *     const id = nextId();   // '250184417058328576'
 *
 * Holds true here:
 * - Each id is made of a millisecond, a number that only this process has (`seat.ts`), and a counter (`layout.ts`). The
 *   ids of one process rise, whatever the clock does: it goes on from its last millisecond when the clock is behind,
 *   and borrows from the next when it makes more than 256 in one.
 * - No two processes of one machine make the same id, nor does one that is started after another has ended: a seat
 *   comes with the first millisecond that none of those who had it before can have used.
 * - Machines are told apart by `BANYAN_MACHINE`, 0 to 31. Without it the machine's name decides, and two of them have
 *   the same number with a probability of 1 in 32; then two processes on them have the same seat with one of 1 in 256 at
 *   worst, and make the same id only in the same millisecond with the same count. Containers that share no `/tmp`
 *   are machines in this sense.
 *
 * Text, not a bigint: pg gives an int8 as text, so an id that was just made equals the one that is read back, and
 * JSON has no bigint.
 */

import { BanyanError } from '../../errors.ts';
import { COUNTS, ID_EPOCH_MS } from './layout.ts';
import { type Seat, takeSeat } from './seat.ts';

/** So far ahead of the clock ids may be made: 256,000 in a burst. Then the clock is waited for. */
const BURST_MS = 1_000;
/** A seat that was just left may begin 10 s ahead; further the clock was set back. */
const FURTHEST_AHEAD_MS = 60_000;

export class ClockBehind extends BanyanError {
  constructor(byMs: number) {
    super('CLOCK_BEHIND', {
      what: `The clock is ${Math.round(byMs / 1_000)} s behind the last id that was made`,
      where: 'nextId()',
      remedy:
        "The machine's clock was set back, or ids are made faster than 256 a millisecond: set the clock right, or wait until it has caught up",
    });
  }
}

/** Makes ids, on one seat after the other. */
export class IdMaker {
  readonly #take: () => Seat;
  readonly #now: () => number;
  #seat: Seat;
  #lastMs = 0;
  #count = COUNTS;

  /**
   * @param take gives a seat, and another when that is lost
   * @param now the clock, in milliseconds since 1970
   */
  constructor(take: () => Seat = takeSeat, now: () => number = Date.now) {
    this.#take = take;
    this.#now = now;
    this.#seat = this.#sit();
  }

  /** @throws ClockBehind when it would be more than a minute ahead of the clock */
  next(): string {
    const nowMs = this.#now();
    if (nowMs > this.#lastMs) {
      this.#lastMs = nowMs;
      this.#count = 0;
    } else if (++this.#count >= COUNTS) {
      this.#lastMs++;
      this.#count = 0;
      this.#waitFor(nowMs);
    }
    if (!this.#seat.use(this.#lastMs)) {
      this.#seat = this.#sit();
      return this.next();
    }
    const low = this.#seat.number * COUNTS + this.#count;
    return String((BigInt(this.#lastMs - ID_EPOCH_MS) << 22n) | BigInt(low));
  }

  /** Gives the seat back. */
  leave(): void {
    this.#seat.leave();
  }

  #sit(): Seat {
    const seat = this.#take();
    // What this process made before, on another seat, stays the earlier.
    this.#lastMs = Math.max(this.#lastMs, seat.firstMs - 1);
    this.#count = COUNTS;
    return seat;
  }

  /** A burst waits; a clock that was set back by more is an error, which waiting would hide. */
  #waitFor(nowMs: number): void {
    const aheadMs = this.#lastMs - nowMs;
    if (aheadMs > FURTHEST_AHEAD_MS) throw new ClockBehind(aheadMs);
    if (aheadMs > BURST_MS) Atomics.wait(PAUSE, 0, 0, 1);
  }
}

const PAUSE = new Int32Array(new SharedArrayBuffer(4));

let maker: IdMaker | undefined;

/**
 * A new id for a row: a signed 64-bit number, in decimal, later than all that this process made before.
 * @throws NoSeat when 256 processes of this machine make ids; ClockBehind, MachineNumberWrong
 */
export function nextId(): string {
  if (!maker) {
    const made = new IdMaker();
    process.once('exit', () => made.leave());
    maker = made;
  }
  return maker.next();
}
