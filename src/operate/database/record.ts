/**
 * Where the rows of a deployment are: `.banyan/database.json`.
 *
 * It cannot be in the catalog, which is a part of the database that has to be found first. It is written
 * when that changes, in one step: a start that comes after a crash in the middle of a move begins where the
 * rows still were, or where they already are.
 */
import { readFileSync } from 'node:fs';
import type { HashRange } from '../../app/database/shards/ranges.ts';
import type { EtcdMember } from '../../engines/etcd.ts';
import type { ClusterSettings, DatabaseNode } from '../../engines/patroni-config.ts';
import { hasCode } from '../../errors.ts';
import { writeFileAtomic } from '../../map/atomic-file.ts';
import type { Member } from '../../map/runtime-map.ts';
import type { CopiedColumn, TablePlacement } from '../../topology/complete.ts';
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
  /** The shards after the first, in the map's order. All are of the same kind. */
  others?: Pick<DatabaseRecord, 'embedded' | 'cluster'>[];
  /** Missing: one shard that has everything. */
  sharding?: Sharding;
}

/** How the rows are spread. */
export interface Sharding {
  /** What each shard owns, in the map's order: as many as there are shards. */
  ranges: HashRange[];
  /** By `schema.table`, as it is in force. */
  tables: Record<string, TablePlacement>;
  /** `schema.table.column` */
  unique: string[];
  /** Copies that are kept, by `schema.table.column`. Missing: none. */
  denormalize?: Record<string, CopiedColumn>;
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

/** What is written down of one shard; what all have in common is with the first. */
export function recordOfShard(whole: DatabaseRecord, shard: number): DatabaseRecord {
  return shard === 0 ? whole : { serving: whole.serving, ...whole.others?.[shard - 1] };
}

/** @param record of the shard: of the first, with what all have in common */
export function writeDatabaseRecord(
  { paths }: Pick<Deployment, 'paths'>,
  record: DatabaseRecord,
  shard = 0,
): Promise<void> {
  const whole = shard === 0 ? record : withShard(readDatabaseRecord(paths)!, record, shard);
  return writeFileAtomic(paths.database, `${JSON.stringify(whole, null, 2)}\n`);
}

function withShard(
  whole: DatabaseRecord,
  { embedded, cluster }: DatabaseRecord,
  shard: number,
): DatabaseRecord {
  const others = [...(whole.others ?? [])];
  others[shard - 1] = { ...(embedded ? { embedded } : {}), ...(cluster ? { cluster } : {}) };
  return { ...whole, others };
}
