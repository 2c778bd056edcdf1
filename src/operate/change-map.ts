/**
 * Changes the runtime map: all who write it come by here.
 *
 * Holds true here: of several processes (the supervisor, a command, the invalidator) one changes it at a time, by a lock beside the file,
 * so that none puts what another has changed back. A lock of a process that was killed is taken over.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { BanyanError, hasCode } from '../errors.ts';
import { AlreadyRunning, takeLock } from '../machines/lock.ts';
import { changeRuntimeMap, type MapContents, publishRuntimeMap } from '../map/map-file.ts';
import type { RuntimeMap } from '../map/runtime-map.ts';

/** A change takes some milliseconds; a disk that is busy may make it a second. */
const PATIENCE_MS = 30_000;
const PAUSE_MS = 5;
const LONGEST_PAUSE_MS = 100;

export class MapBusy extends BanyanError {
  constructor(where: string, pid: number | undefined) {
    super('MAP_BUSY', {
      what: `The runtime map has been locked for ${PATIENCE_MS / 1_000} s${pid === undefined ? '' : `, by the process ${pid}`}`,
      where,
      remedy: 'Look what that process is waiting for, a full disk for instance; then try again',
    });
  }
}

/** Of this process: in their turn. */
const last = new Map<string, Promise<unknown>>();

/** Publishes what `change` makes of the map on disk. @throws RuntimeMapMissing, InvalidRuntimeMap, MapBusy */
export function changeMap(
  file: string,
  change: (map: MapContents) => MapContents,
): Promise<RuntimeMap> {
  return alone(file, () => changeRuntimeMap(file, change));
}

/** Publishes a map whatever was there before. @throws MapBusy */
export function publishMap(file: string, next: MapContents): Promise<RuntimeMap> {
  return alone(file, () => publishRuntimeMap(file, next));
}

function alone<T>(file: string, body: () => Promise<T>): Promise<T> {
  const run = async () => {
    const release = await untilLocked(`${file}.lock`);
    try {
      return await body();
    } finally {
      release();
    }
  };
  const before = last.get(file) ?? Promise.resolve();
  const done = before.then(run, run);
  last.set(file, done);
  const over = () => {
    if (last.get(file) === done) last.delete(file);
  };
  done.then(over, over);
  return done;
}

async function untilLocked(file: string): Promise<() => void> {
  const deadline = performance.now() + PATIENCE_MS;
  for (let pause = PAUSE_MS; ; pause = Math.min(pause * 1.5, LONGEST_PAUSE_MS)) {
    try {
      return await takeLock(file);
    } catch (error) {
      // Many who want it change hands too fast for each other at times.
      const isHeld = error instanceof AlreadyRunning;
      if (!isHeld && !hasCode(error, 'LOCK_CONTENDED', 'EEXIST', 'ENOENT')) throw error;
      if (performance.now() >= deadline) {
        throw new MapBusy(file, isHeld ? error.pid : undefined);
      }
    }
    await delay(pause * (0.5 + Math.random()));
  }
}
