/**
 * The map as a sharded pool follows it, and reads it again when a shard says that a row belongs elsewhere.
 *
 * Holds true here: what the guard refused was not kept. By itself it is sent once more, where the newer map says; within
 * a transaction its error says that the whole may be run again, which `pool.transaction` does. Without a newer map
 * nothing is sent again: it would come to the same shard.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { watchRuntimeMap } from '../../../map/map-file.ts';
import type { RuntimeMap } from '../../../map/runtime-map.ts';
import { log } from '../../telemetry/log.ts';
import { RowBelongsElsewhere } from './misplaced.ts';

/**
 * Whoever moves rows fences the old place first and publishes the map after: a moment later, on a machine that may be
 * busy. Only a trigger or a rule that changes keys makes anyone wait for so long in vain.
 */
const WAIT_MS = 2_000;
const PAUSE_MS = 20;

export class MapWatch {
  readonly #watch: ReturnType<typeof watchRuntimeMap>;
  #epoch: number;

  /** @param onChange called with each newer map */
  constructor(file: string, map: RuntimeMap, onChange: (map: RuntimeMap) => void) {
    this.#epoch = map.epoch;
    this.#watch = watchRuntimeMap(
      file,
      map,
      next => {
        this.#epoch = next.epoch;
        onChange(next);
      },
      error => log.warn({ err: error }, 'the runtime map cannot be read; the last one stays'),
    );
  }

  get epoch(): number {
    return this.#epoch;
  }

  stop(): void {
    this.#watch();
  }

  /**
   * Of an error: whether it comes of a map older than the one that is followed now.
   * @param epoch of the map by which the statement was sent
   */
  async explains(error: unknown, epoch: number): Promise<boolean> {
    const misplaced = misplacedIn(error);
    if (!misplaced) return false;
    const deadline = performance.now() + WAIT_MS;
    while (this.#epoch <= epoch && performance.now() < deadline) {
      await this.#watch.look();
      if (this.#epoch <= epoch) await delay(PAUSE_MS);
    }
    misplaced.isMapNew = this.#epoch > epoch;
    return misplaced.isMapNew;
  }

  /** Runs what is kept as a whole or not at all; once more when it went by an old map. */
  async follow<T>(run: () => Promise<T>): Promise<T> {
    const { epoch } = this;
    try {
      return await run();
    } catch (error) {
      if (!(await this.explains(error, epoch))) throw error;
      return run();
    }
  }
}

function misplacedIn(error: unknown): RowBelongsElsewhere | undefined {
  let one = error;
  for (let i = 0; i < 5 && one !== undefined && one !== null; i++) {
    if (one instanceof RowBelongsElsewhere) return one;
    one = (one as { cause?: unknown }).cause;
  }
  return undefined;
}
