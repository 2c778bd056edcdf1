/**
 * The runtime map as a file: written atomically by the controller, read and watched by applications.
 *
 * The folder is watched, not the file: an atomic replacement gives the name a new inode, and a
 * watch on the old inode would fall silent. `fs.watch` may miss an event or send several, so each
 * event only says "look again", and a slow poll catches what was missed. A map with a lower or equal
 * epoch is never handed on.
 */
import { type FSWatcher, readFileSync, watch } from 'node:fs';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { hasCode } from '../errors.ts';
import { writeFileAtomic } from './atomic-file.ts';
import {
  InvalidRuntimeMap,
  MAP_FORMAT,
  parseRuntimeMap,
  type RuntimeMap,
  RuntimeMapMissing,
} from './runtime-map.ts';

/** A missed file system event is noticed after this long. Reading a kilobyte costs next to nothing. */
const POLL_INTERVAL_MS = 2_000;

/** By then every process that works has read a map, also one that missed the change of the file. */
export const MAP_SEEN_MS = POLL_INTERVAL_MS + 500;

/** What a map says, without what it is known by. */
export type MapContents = Omit<RuntimeMap, 'epoch' | 'format'>;

/** The environment variable that tells an application process where its map lies. */
export const MAP_VARIABLE = 'BANYAN_MAP';

/** @throws InvalidRuntimeMap, RuntimeMapMissing */
export function readRuntimeMap(file: string): RuntimeMap {
  return parseRuntimeMap(readText(file), file);
}

function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw hasCode(error, 'ENOENT', 'ENOTDIR') ? new RuntimeMapMissing(file, error) : error;
  }
}

/**
 * Writes the next map with an epoch one above that of the map on disk, and returns it. A map that says
 * what the one on disk says already is not written: an epoch stands for a change.
 *
 * A damaged map on disk is replaced; its epoch is lost, so the clock's seconds stand in: they are
 * above any epoch that counting from one can have reached.
 */
export async function publishRuntimeMap(file: string, next: MapContents): Promise<RuntimeMap> {
  let epoch = 1;
  try {
    const current = readRuntimeMap(file);
    const same: RuntimeMap = { format: MAP_FORMAT, epoch: current.epoch, ...next };
    if (isDeepStrictEqual(current, same)) return current;
    epoch = current.epoch + 1;
  } catch (error) {
    if (error instanceof InvalidRuntimeMap) epoch = Math.floor(Date.now() / 1000);
    else if (!(error instanceof RuntimeMapMissing)) throw error;
  }
  const map: RuntimeMap = { format: MAP_FORMAT, epoch, ...next };
  await writeFileAtomic(file, `${JSON.stringify(map, null, 2)}\n`, 0o644);
  return map;
}

/** Publishes what `change` makes of the map on disk. @throws RuntimeMapMissing, InvalidRuntimeMap */
export function changeRuntimeMap(
  file: string,
  change: (map: MapContents) => MapContents,
): Promise<RuntimeMap> {
  const { epoch: _epoch, format: _format, ...map } = readRuntimeMap(file);
  return publishRuntimeMap(file, change(map));
}

/**
 * Calls `onChange` with every newer map until the returned function is called; its `look` looks at once.
 * A map that cannot be read is reported to `onError`, once for each new reason, and the last good one
 * stays in force.
 */
export function watchRuntimeMap(
  file: string,
  current: RuntimeMap,
  onChange: (map: RuntimeMap) => void,
  onError: (error: unknown) => void = () => {},
): (() => void) & { look(): Promise<void> } {
  let { epoch } = current;
  let closed = false;
  let complaint: string | undefined;

  const look = async () => {
    try {
      const map = parseRuntimeMap(await readFile(file, 'utf8'), file);
      complaint = undefined;
      if (closed || map.epoch <= epoch) return;
      epoch = map.epoch;
      onChange(map);
    } catch (error) {
      // The poll comes by every two seconds, and would say the same each time.
      const reason = String(error);
      if (closed || reason === complaint) return;
      complaint = reason;
      onError(error);
    }
  };

  let watcher: FSWatcher | undefined;
  try {
    watcher = watch(path.dirname(file), { persistent: false }, (_event, name) => {
      if (name === null || name === path.basename(file)) void look();
    });
    watcher.on('error', () => watcher?.close());
  } catch {
    // Out of watches (ENOSPC): the poll alone serves, only slower.
  }
  const poll = setInterval(() => void look(), POLL_INTERVAL_MS);
  poll.unref();

  const stop = () => {
    closed = true;
    watcher?.close();
    clearInterval(poll);
  };
  return Object.assign(stop, { look });
}
