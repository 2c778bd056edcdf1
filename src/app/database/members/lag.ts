/**
 * How far a replica is behind, in time: measured here, by where the primary was when.
 *
 * PostgreSQL's own `pg_last_xact_replay_timestamp()` says how old the last transaction is, which on a quiet
 * primary is old without any lag, and it compares two machines' clocks.
 */

/** Each poll of the primary adds one; together they reach back ten minutes and more. */
const MAX_SAMPLES = 2_400;
const MIN_SPACING_MS = 250;

export class PrimaryHistory {
  /** In ascending order of both. */
  readonly #times: number[] = [];
  readonly #lsns: bigint[] = [];
  #latestTime = Number.NEGATIVE_INFINITY;

  /**
   * @param at when the question was sent, by `performance.now()`
   * @param lsn where the primary was, at that moment or later
   */
  add(at: number, lsn: bigint): void {
    this.#latestTime = at;
    const last = this.#times.length - 1;
    // A primary that did not move was there at the later time as well.
    if (last >= 0 && this.#lsns[last] === lsn) {
      this.#times[last] = at;
      return;
    }
    if (last >= 0 && at - this.#times[last]! < MIN_SPACING_MS) return;
    this.#times.push(at);
    this.#lsns.push(lsn);
    if (this.#times.length > MAX_SAMPLES) {
      this.#times.shift();
      this.#lsns.shift();
    }
  }

  /** The primary is another one: what was known is of another timeline. */
  clear(): void {
    this.#times.length = 0;
    this.#lsns.length = 0;
    this.#latestTime = Number.NEGATIVE_INFINITY;
  }

  /** Milliseconds by which who has replayed up to `replayed` was behind when the primary last answered. */
  lagMs(replayed: bigint): number {
    const seen = this.#seenAt(replayed);
    return seen === undefined ? Number.POSITIVE_INFINITY : this.#latestTime - seen;
  }

  /** At most so many milliseconds old is what is read there: the time in which nobody asked the primary counts too. */
  stalenessMs(replayed: bigint, now: number): number {
    const seen = this.#seenAt(replayed);
    return seen === undefined ? Number.POSITIVE_INFINITY : now - seen;
  }

  /** When the primary was last known not to be past it. */
  #seenAt(replayed: bigint): number | undefined {
    let [low, high] = [0, this.#lsns.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#lsns[middle]! <= replayed) low = middle + 1;
      else high = middle;
    }
    return this.#times[low - 1];
  }
}
