/**
 * What this process asks of each shard and each key: calls and time, of late.
 *
 * Holds true here:
 * - Bounded: 256 keys by calls, 256 by time, two numbers for each shard, whatever there are. A key with more than a
 *   256th part of either is found for certain (`space-saving.ts`).
 * - What was a minute ago counts half. It is halved when it is written to or read, so nothing runs while nothing is
 *   asked.
 * - Keys are values of rows: they are shown to whoever runs the deployment, and not logged.
 */
import { type Load, type LoadSnapshot, SEPARATOR, summarise } from './load.ts';
import { SpaceSaving } from './space-saving.ts';

const KEYS = 256;
/** Of each list, as it is shown and told to others. */
const TOLD_KEYS = 64;
const HALF_LIFE_MS = 60_000;
/** After so many halvings nothing is left of anything. */
const MOST_HALVINGS = 64;

export class LoadSketch {
  readonly #now: () => number;
  readonly #shards = new Map<string, { calls: number; timeMs: number }>();
  readonly #byCalls = new SpaceSaving(KEYS);
  readonly #byTime = new SpaceSaving(KEYS);
  #halvedAtMs: number;

  /** @param now a clock that goes forward, in milliseconds */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
    this.#halvedAtMs = now();
  }

  /**
   * A shard has answered.
   * @param shard its id in the map
   * @param family of the key, and `key` its value: of a statement that named one
   * @param times how many statements this one stands for
   */
  observe(shard: string, timeMs: number, family?: string, key?: string, times = 1): void {
    this.#halve();
    const load = this.#shards.get(shard);
    if (load) {
      load.calls += times;
      load.timeMs += timeMs * times;
    } else this.#shards.set(shard, { calls: times, timeMs: timeMs * times });
    if (family === undefined || key === undefined) return;
    const name = family + SEPARATOR + key;
    this.#byCalls.observe(name, times);
    this.#byTime.observe(name, timeMs * times);
  }

  /** For whoever puts that of several processes together. */
  snapshot(): LoadSnapshot {
    this.#halve();
    return {
      shards: Object.fromEntries(this.#shards),
      byCalls: this.#byCalls.top(TOLD_KEYS),
      byTime: this.#byTime.top(TOLD_KEYS),
    };
  }

  /** Of this process alone. */
  load(): Load {
    return summarise([this.snapshot()]);
  }

  #halve(): void {
    const passed = Math.floor((this.#now() - this.#halvedAtMs) / HALF_LIFE_MS);
    if (passed <= 0) return;
    this.#halvedAtMs += passed * HALF_LIFE_MS;
    for (let i = 0; i < Math.min(passed, MOST_HALVINGS); i++) {
      this.#byCalls.halve();
      this.#byTime.halve();
      for (const load of this.#shards.values()) {
        load.calls /= 2;
        load.timeMs /= 2;
      }
    }
  }
}
