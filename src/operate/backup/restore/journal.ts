/**
 * The journal of restores: `.banyan/restore.json`. What the others note in the catalog this one cannot: it is the
 * catalog's own database that is put in the place of another.
 */
import { readFileSync } from 'node:fs';
import { hasCode } from '../../../errors.ts';
import { writeFileAtomic } from '../../../map/atomic-file.ts';
import type { ClusterRecord } from '../../database/record.ts';
import { DeploymentDamaged, type DeploymentPaths } from '../../deployment.ts';
import type { JournaledStep } from '../../operations/journal.ts';
import type { CatalogRows } from './carry-over.ts';

export interface RestoreRecord {
  /**
   * `preparing`: the old data are untouched, its servers may be stopped. `switching`: data folders change places. `done`,
   * `undone`: it is over.
   */
  state: 'preparing' | 'switching' | 'done' | 'undone';
  summary: string;
  startedAt: string;
  endedAt?: string;
  steps: JournaledStep[];
  before: ClusterRecord;
  after: ClusterRecord;
  /** Who was the primary before; undefined when nobody was. */
  primary: string | undefined;
  /** The last commit that the restored database has; ISO 8601. */
  reachedAt?: string | undefined;
  /** What the catalog had, to be kept over the restore. */
  catalog?: CatalogRows | undefined;
}

/** Undefined when nothing was ever restored. @throws DeploymentDamaged */
export function readRestore({ restore: file }: DeploymentPaths): RestoreRecord | undefined {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as RestoreRecord;
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'ENOTDIR')) return undefined;
    throw new DeploymentDamaged(file, error);
  }
}

export function writeRestore(paths: DeploymentPaths, record: RestoreRecord): Promise<void> {
  return writeFileAtomic(paths.restore, `${JSON.stringify(record, null, 2)}\n`);
}

export function isUnderWay(record: RestoreRecord | undefined): boolean {
  return record?.state === 'preparing' || record?.state === 'switching';
}
