/**
 * Tells the operator's half what this process asks of which shard and key: a small file beside the runtime map,
 * replaced now and then, which `banyan status` reads. The folder's being there is the wish to be told.
 */
import { existsSync, rmSync } from 'node:fs';
import path from 'node:path';
import { threadId } from 'node:worker_threads';
import { writeFileAtomic } from '../../../../map/atomic-file.ts';
import { LOAD_FOLDER, LOAD_INTERVAL_MS } from '../../../../map/load-folder.ts';
import type { LoadSketch } from './load-sketch.ts';

/**
 * Writes it every ten seconds until the returned function is called.
 * @param mapFile the runtime map
 */
export function reportLoad(mapFile: string, sketch: LoadSketch): () => void {
  const folder = path.join(path.dirname(mapFile), LOAD_FOLDER);
  const file = path.join(folder, `${process.pid}-${threadId}.json`);
  const write = async () => {
    if (!existsSync(folder)) return;
    // A full disk is told by those who cannot do without it.
    await writeFileAtomic(file, JSON.stringify(sketch.snapshot())).catch(() => {});
  };
  const timer = setInterval(() => void write(), LOAD_INTERVAL_MS);
  timer.unref();
  return () => {
    clearInterval(timer);
    rmSync(file, { force: true });
  };
}
