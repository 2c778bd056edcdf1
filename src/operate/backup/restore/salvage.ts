/**
 * The last of the log: what the servers' own folders have and the repository lacks.
 *
 * A write is acknowledged when it is in a server's log, not when it is in the repository. So what can be read of the
 * servers' folders goes into a restore: complete segments into the repository as well, for the one that was being
 * written a copy will do, since the new timeline begins within it.
 */
import { chown, copyFile } from 'node:fs/promises';
import path from 'node:path';
import { dataFolderOf } from '../../../engines/patroni-config.ts';
import { BanyanError } from '../../../errors.ts';
import type { ClusterHome } from '../../database/cluster-home.ts';
import type { ClusterRecord } from '../../database/record.ts';
import { parseSegment } from '../log-coverage.ts';
import { examineSegment, type FoundSegment, furthest, logFilesIn } from '../log-files.ts';
import type { Repository } from '../repository.ts';

export interface Salvaged {
  /** Segments that were only in the servers' folders. */
  segments: string[];
  /** What could not be archived, and why. */
  notArchived: string | undefined;
}

/**
 * @param target the restored data folder; its log gets what is found
 * @param firstSegment of the backup: nothing before it is needed
 */
export async function salvage(
  home: ClusterHome,
  { nodes }: ClusterRecord,
  repository: Repository,
  archiveId: string,
  target: string,
  firstSegment: string,
): Promise<Salvaged> {
  const archived = new Set(await repository.archived(archiveId, firstSegment));
  const folders = nodes.map(dataFolderOf);
  const first = parseSegment(firstSegment)!;
  const names = new Set<string>();
  const histories = new Map<string, string>();
  for (const folder of folders) {
    const found = await logFilesIn(folder);
    for (const name of found.segments) {
      const { timeline, number } = parseSegment(name)!;
      if (!archived.has(name) && timeline >= first.timeline && number >= first.number)
        names.add(name);
    }
    for (const name of found.histories) if (!archived.has(name)) histories.set(name, folder);
  }
  const segments: FoundSegment[] = [];
  for (const name of [...names].sort()) {
    const copies: FoundSegment[] = [];
    for (const folder of folders) {
      // Not every server has it, and of a damaged disk not everything can be read.
      const found = await examineSegment(folder, name).catch(() => undefined);
      if (found) copies.push(found);
    }
    const best = await furthest(copies, home.postgres.bin);
    if (best) segments.push(best);
  }
  for (const [name, folder] of histories) {
    await put(home, path.join(folder, 'pg_wal', name), target);
  }
  for (const { file } of segments) await put(home, file, target);
  const last = Math.max(...segments.map(({ name }) => parseSegment(name)!.number));
  const complete = segments.filter(({ name }) => parseSegment(name)!.number < last);
  try {
    // Histories first: they tell which timeline the next one comes after.
    for (const name of histories.keys()) await repository.push(target, name);
    for (const { name } of complete) await repository.push(target, name);
  } catch (error) {
    const what = error instanceof BanyanError ? error.what : String(error);
    return { segments: segments.map(({ name }) => name), notArchived: what };
  }
  return { segments: segments.map(({ name }) => name), notArchived: undefined };
}

/**
 * Puts the histories of all timelines that the servers' folders know into `target`: the one that a recovery there begins
 * is then none of those. The repository learns of a timeline only when it has been archived, which may take a minute.
 */
export async function salvageHistories(
  home: ClusterHome,
  { nodes }: ClusterRecord,
  target: string,
): Promise<void> {
  for (const folder of nodes.map(dataFolderOf)) {
    for (const name of (await logFilesIn(folder)).histories) {
      // Of a damaged disk not everything can be read; that no number was taken is looked at afterwards.
      await put(home, path.join(folder, 'pg_wal', name), target).catch(() => {});
    }
  }
}

async function put({ account }: ClusterHome, file: string, target: string): Promise<void> {
  const to = path.join(target, 'pg_wal', path.basename(file));
  await copyFile(file, to);
  if (account) await chown(to, account.uid, account.gid);
}
