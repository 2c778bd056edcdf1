/**
 * Rows of several shards, each in order, as one sequence in that order, of which only the next are held.
 *
 * Holds true here:
 * - Of each shard at most one batch is buffered, so what is held does not grow with the result.
 * - In a round the buffered rows are sorted, and all are given up to the first that is the last of its shard's buffer:
 *   what that shard sends next comes after it. So how rows compare need not be known here: PostgreSQL may sort.
 */
import type { RawRow } from '../merge/gathered.ts';

/** One shard's rows. @returns fewer than were asked for only when there are no more */
export type Fetch = (count: number) => Promise<RawRow[]>;

interface Input {
  readonly fetch: Fetch;
  isDone: boolean;
}

export class OrderedRows {
  readonly #inputs: Input[];
  readonly #batch: number;
  readonly #sort: ((rows: RawRow[]) => Promise<RawRow[]>) | undefined;
  /** Which input a buffered row came from. */
  readonly #origin = new Map<RawRow, Input>();
  #buffered: RawRow[] = [];
  /** In order, and before all that is buffered or still to come. */
  #next: RawRow[] = [];

  /**
   * @param batch rows that are asked of a shard at a time
   * @param sort undefined: in any order, so that one shard's rows follow another's
   */
  constructor(
    inputs: readonly Fetch[],
    batch: number,
    sort: ((rows: RawRow[]) => Promise<RawRow[]>) | undefined,
  ) {
    this.#inputs = inputs.map(fetch => ({ fetch, isDone: false }));
    this.#batch = batch;
    this.#sort = sort;
  }

  /** Up to so many; fewer only when there are no more. */
  async take(count: number): Promise<RawRow[]> {
    const taken: RawRow[] = [];
    while (taken.length < count) {
      if (this.#next.length === 0 && !(await this.#refill())) break;
      const part = this.#next.splice(0, count - taken.length);
      for (const row of part) taken.push(row);
    }
    return taken;
  }

  /** @returns whether there are any more */
  async #refill(): Promise<boolean> {
    if (!this.#sort) return this.#follow();
    const held = new Set(this.#origin.values());
    await Promise.all(
      this.#inputs
        .filter(input => !input.isDone && !held.has(input))
        .map(async input => {
          const rows = await this.#fetch(input);
          for (const row of rows) {
            this.#origin.set(row, input);
            this.#buffered.push(row);
          }
        }),
    );
    if (this.#buffered.length === 0) return false;
    const sorted = await this.#sort(this.#buffered);
    const left = new Map<Input, number>();
    for (const input of this.#origin.values()) left.set(input, (left.get(input) ?? 0) + 1);
    let end = sorted.length;
    for (const [i, row] of sorted.entries()) {
      const input = this.#origin.get(row)!;
      const count = left.get(input)! - 1;
      left.set(input, count);
      if (count === 0 && !input.isDone) {
        end = i + 1;
        break;
      }
    }
    this.#next = sorted.slice(0, end);
    this.#buffered = sorted.slice(end);
    for (const row of this.#next) this.#origin.delete(row);
    return true;
  }

  async #follow(): Promise<boolean> {
    for (const input of this.#inputs) {
      if (input.isDone) continue;
      this.#next = await this.#fetch(input);
      if (this.#next.length > 0) return true;
    }
    return false;
  }

  async #fetch(input: Input): Promise<RawRow[]> {
    const rows = await input.fetch(this.#batch);
    input.isDone = rows.length < this.#batch;
    return rows;
  }
}
