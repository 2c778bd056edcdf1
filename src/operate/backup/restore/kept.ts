/** Which of the data folders that a restore put aside has the most. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import type { ClusterRecord } from '../../database/record.ts';
import { logFilesIn } from '../log-files.ts';

/**
 * The primary's, when it is known who that was and its folder can be read; else that with the furthest log.
 * @returns undefined when there is none that a server could start on
 */
export async function furthestKept(
  kept: string,
  { nodes }: ClusterRecord,
  primary: string | undefined,
): Promise<string | undefined> {
  const folders = nodes
    .map(({ name }) => ({ name, folder: path.join(kept, name) }))
    .filter(({ folder }) => existsSync(path.join(folder, 'global', 'pg_control')));
  const own = folders.find(({ name }) => name === primary);
  if (own) return own.folder;
  let best: { folder: string; last: string } | undefined;
  for (const { folder } of folders) {
    const last = (await logFilesIn(folder)).segments.at(-1) ?? '';
    if (!best || last > best.last) best = { folder, last };
  }
  return best?.folder;
}
