/** `banyan backup` and `banyan backups`: one is made now; what there is, and what can be restored from it. */
import { setTimeout as delay } from 'node:timers/promises';
import { BackupUnderWay } from '../../engines/pgbackrest.ts';
import type { Backup } from '../../engines/pgbackrest-info.ts';
import { NotRunning } from '../control/client.ts';
import { primaryOf } from '../database/cluster.ts';
import type { DeploymentPaths } from '../deployment.ts';
import { FIRST_LINES, type Line } from './lines.ts';
import { coverageOf, parseSegment, segmentName, timelineOf } from './log-coverage.ts';
import { lookFrom } from './restore/standpoint.ts';
import { typeOfNext } from './schedule.ts';

const LOOK_AGAIN_MS = 500;

/**
 * Another backup that is under way is waited for: what was written since it began would not be in it.
 *
 * @param progress how far it is, in percent; `waiting` while another is under way
 * @throws NotRunning, NothingToBackUp, NoPrimary, BackrestFailed
 */
export async function makeBackup(
  paths: DeploymentPaths,
  isFull: boolean,
  progress: (percent: number | 'waiting') => void,
): Promise<Backup> {
  return lookFrom(paths, 'banyan backup', async ({ isUp, home, record, repository }) => {
    if (!isUp) throw new NotRunning(paths.app);
    const node = await primaryOf(home, record);
    for (;;) {
      try {
        await repository.ensureStanza(node);
        const { everyMs } = repository.settings;
        const { backups } = await repository.info();
        const type = isFull ? 'full' : typeOfNext(backups, everyMs, new Date());
        await repository.backup(node, type, { percent: progress });
        return (await repository.info()).backups.at(-1)!;
      } catch (error) {
        if (!(error instanceof BackupUnderWay)) throw error;
        progress('waiting');
        await delay(LOOK_AGAIN_MS);
      }
    }
  });
}

export interface BackupList {
  repository: string;
  backups: Backup[];
  /** Of databases that were here before this one. */
  others: number;
  /** Restores: from when on what was written went on from another moment. */
  lines: readonly Line[];
  /** The earliest moment that can be restored; undefined without a backup. */
  from: Date | undefined;
  /** `now` while the primary serves; else the repository alone is sure, up to about its last segment. */
  until: 'now' | 'the last archived log' | undefined;
  /** Segments that are missing since the last backup but one: moments in there cannot be reached. */
  missing: string[];
}

/** @throws NotRunning, NothingToBackUp, BackrestFailed */
export async function listBackups(paths: DeploymentPaths): Promise<BackupList> {
  return lookFrom(paths, 'banyan backups', async ({ record, repository, primary }) => {
    const { backups, others, archiveId } = await repository.info();
    const [first] = backups;
    let missing: string[] = [];
    const start = first && parseSegment(first.firstSegment);
    if (first && start && archiveId) {
      const archived = await repository.archived(archiveId, first.firstSegment);
      const current = Math.max(
        ...archived.map(name => parseSegment(name)?.timeline ?? 0),
        start.timeline,
      );
      const history = await repository.history(archiveId, current);
      missing = coverageOf(archived, start.number, current, history).missing.map(number =>
        segmentName({ timeline: timelineOf(number, current, history), number }),
      );
    }
    return {
      repository: repository.folder,
      backups,
      others,
      lines: record.lines ?? FIRST_LINES,
      from: first?.endedAt,
      until: first && (primary ? 'now' : 'the last archived log'),
      missing,
    };
  });
}
