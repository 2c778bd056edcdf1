/** What the applications' processes say they ask of which shard and key, put together for `banyan status`. */
import { mkdirSync } from 'node:fs';
import { readdir, readFile, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { type Load, type LoadSnapshot, summarise } from '../app/database/shards/hot/load.ts';
import { LOAD_INTERVAL_MS } from '../map/load-folder.ts';

/** A process that has not written for this long is gone. */
const GONE_MS = 3 * LOAD_INTERVAL_MS;
/** Files of processes that were killed do not gather. */
const FORGOTTEN_MS = 3_600_000;

/** From now on processes tell their load. For the deployment's account alone: keys are values of rows. */
export function askForLoad(folder: string): void {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
}

/** Undefined when nobody has told anything of late. */
export async function readLoad(folder: string): Promise<Load | undefined> {
  const names = await readdir(folder).catch((): string[] => []);
  const snapshots = await Promise.all(
    names.filter(name => name.endsWith('.json')).map(name => readOne(path.join(folder, name))),
  );
  const found = snapshots.filter(snapshot => snapshot !== undefined);
  return found.length > 0 ? summarise(found) : undefined;
}

async function readOne(file: string): Promise<LoadSnapshot | undefined> {
  try {
    const age = Date.now() - (await stat(file)).mtimeMs;
    if (age > FORGOTTEN_MS) await rm(file, { force: true });
    if (age > GONE_MS) return undefined;
    return JSON.parse(await readFile(file, 'utf8')) as LoadSnapshot;
  } catch {
    // It ended between the look and the read.
    return undefined;
  }
}
