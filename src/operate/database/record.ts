/**
 * Where the rows of a deployment are: `.banyan/database.json`.
 *
 * It cannot be in the catalog, which is a part of the database that has to be found first. It is written
 * when that changes, in one step: a start that comes after a crash in the middle of a move begins where the
 * rows still were, or where they already are.
 */
import { readFileSync } from 'node:fs';
import type { EtcdMember } from '../../engines/etcd.ts';
import type { ClusterSettings, DatabaseNode } from '../../engines/patroni-config.ts';
import { hasCode } from '../../errors.ts';
import { writeFileAtomic } from '../../map/atomic-file.ts';
import type { Member } from '../../map/runtime-map.ts';
import type { Line } from '../backup/lines.ts';
import { type Deployment, DeploymentDamaged, type DeploymentPaths } from '../deployment.ts';

export interface ClusterRecord {
  /** Names the cluster in etcd. */
  scope: string;
  etcd: EtcdMember[];
  nodes: DatabaseNode[];
  /** As they were last asked for. */
  settings: ClusterSettings;
  /** What became of it by restores; undefined when it was never restored. */
  lines?: Line[];
}

export interface DatabaseRecord {
  /** Who has the rows. */
  serving: 'embedded' | 'cluster';
  /** Where the single server listens, while it is made in a move. */
  embedded?: Member;
  /** There also while it is being made, and does not serve yet. */
  cluster?: ClusterRecord;
}

/** Undefined before the first start. @throws DeploymentDamaged */
export function readDatabaseRecord(paths: DeploymentPaths): DatabaseRecord | undefined {
  try {
    return JSON.parse(readFileSync(paths.database, 'utf8')) as DatabaseRecord;
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'ENOTDIR')) return undefined;
    throw new DeploymentDamaged(paths.database, error);
  }
}

export function writeDatabaseRecord(
  { paths }: Pick<Deployment, 'paths'>,
  record: DatabaseRecord,
): Promise<void> {
  return writeFileAtomic(paths.database, `${JSON.stringify(record, null, 2)}\n`);
}
