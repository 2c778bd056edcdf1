/**
 * The keys that get the most of something, found in one pass with a fixed number of counters.
 *
 * Source: Metwally, Agrawal, El Abbadi, "Efficient Computation of Frequent and Top-k Elements in Data Streams" (2005),
 * the Space-Saving algorithm. With `size` counters over a total weight W:
 * - every key with more than W / size of it has a counter;
 * - a counter is never less than its key's true weight, and at most `overBy` more, which is never above W / size.
 *
 * The lowest counter is found by a heap, so an observation costs a map look-up and at most log2(size) swaps.
 */

export interface HeavyKey {
  key: string;
  /** Its weight, or up to `overBy` more. */
  weight: number;
  overBy: number;
}

interface Counter extends HeavyKey {
  /** Its place in the heap. */
  at: number;
}

export class SpaceSaving {
  readonly #size: number;
  readonly #counters = new Map<string, Counter>();
  /** The lowest weight first. */
  readonly #heap: Counter[] = [];
  #total = 0;

  /** @param size how many keys are kept: those with more than a `size`th part are found for certain */
  constructor(size: number) {
    this.#size = size;
  }

  /** The weight of everything that was observed. */
  get total(): number {
    return this.#total;
  }

  observe(key: string, weight: number): void {
    this.#total += weight;
    let counter = this.#counters.get(key);
    if (!counter && this.#heap.length < this.#size) {
      counter = { key, weight: 0, overBy: 0, at: this.#heap.length };
      this.#counters.set(key, counter);
      this.#heap.push(counter);
      this.#rise(counter);
    } else if (!counter) {
      // The lowest makes room, and its weight may have been this key's.
      counter = this.#heap[0]!;
      this.#counters.delete(counter.key);
      this.#counters.set(key, counter);
      counter.key = key;
      counter.overBy = counter.weight;
    }
    counter.weight += weight;
    this.#sink(counter);
  }

  /** The heaviest first. */
  top(count: number): HeavyKey[] {
    return this.#heap
      .toSorted((a, b) => b.weight - a.weight)
      .slice(0, count)
      .map(({ key, weight, overBy }) => ({ key, weight, overBy }));
  }

  /** Everything weighs half: what was long ago counts less and less. */
  halve(): void {
    this.#total /= 2;
    for (const counter of this.#heap) {
      counter.weight /= 2;
      counter.overBy /= 2;
    }
  }

  #rise(counter: Counter): void {
    while (counter.at > 0) {
      const parent = this.#heap[(counter.at - 1) >> 1]!;
      if (parent.weight <= counter.weight) return;
      this.#swap(counter, parent);
    }
  }

  #sink(counter: Counter): void {
    for (;;) {
      const left = this.#heap[2 * counter.at + 1];
      const right = this.#heap[2 * counter.at + 2];
      const lower = right && left && right.weight < left.weight ? right : left;
      if (!lower || lower.weight >= counter.weight) return;
      this.#swap(counter, lower);
    }
  }

  #swap(one: Counter, other: Counter): void {
    [one.at, other.at] = [other.at, one.at];
    this.#heap[one.at] = one;
    this.#heap[other.at] = other;
  }
}
