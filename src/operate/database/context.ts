/** What the operations on the database tier work with, and what is observed of it. */

import type { Machine, UnitState } from '../../machines/unit.ts';
import { readRuntimeMap } from '../../map/map-file.ts';
import type { CompleteTopology } from '../../topology/complete.ts';
import type { Deployment } from '../deployment.ts';
import { standingsOf } from './cluster.ts';
import { ClusterHome } from './cluster-home.ts';
import { embeddedUnit } from './embedded.ts';
import type { CutOver } from './move/cut-over.ts';
import type { ObservedDatabase } from './plan.ts';
import { withClient } from './provision.ts';
import { type DatabaseRecord, readDatabaseRecord, recordOfShard } from './record.ts';
import { type ServerAddress, superuserUrl } from './running.ts';
import { settingsRevision } from './shape.ts';

export interface DatabaseContext {
  machine: Machine & {
    /** The moment of a move, which only the supervisor may carry out: see `move/cut-over.ts`. */
    cutOver(move: CutOver): Promise<number>;
  };
  deployment: Deployment;
  /** Which shard it is about: an index into the map's. Default: 0, the first or only one. */
  shard?: number;
  /** The database is run by somebody else. */
  isExternal: boolean;
  /** How an embedded server would be run. @throws what reading the configuration throws */
  embeddedTier(): CompleteTopology['database'];
}

/** What is not written down is a single server: that of the first start. */
export function recordOf({ paths }: Deployment, shard = 0): DatabaseRecord {
  return recordOfShard(readDatabaseRecord(paths) ?? { serving: 'embedded' }, shard);
}

/** How many databases the rows are spread over. */
export function shardCountOf({ sharding }: DatabaseRecord): number {
  return sharding?.ranges.length ?? 1;
}

/** @param known the units' states, where they have been asked for already */
export async function observeDatabase(
  { machine, deployment, shard = 0, isExternal }: DatabaseContext,
  known?: UnitState[],
): Promise<ObservedDatabase> {
  const nothing = { embeddedRuns: false, etcd: [], nodes: [], revision: undefined };
  if (isExternal) return { serving: 'external', ...nothing };
  const { serving, cluster } = recordOf(deployment, shard);
  const states = known ?? (await machine.states());
  const runs = (name: string) => states.some(unit => unit.name === name && unit.phase === 'ready');
  const embeddedRuns = states.some(({ name }) => name === embeddedUnit(shard));
  if (!cluster) return { serving, ...nothing, embeddedRuns };
  const { members } = readRuntimeMap(deployment.paths.map).database.shards[shard]!;
  const standings = cluster.nodes.some(({ name }) => runs(name))
    ? await standingsOf(await ClusterHome.open(deployment), cluster)
    : [];
  return {
    serving,
    embeddedRuns,
    // All shards have the same, which the first looks after.
    etcd: (shard === 0 ? cluster.etcd : []).map(({ name }) => ({ name, runs: runs(name) })),
    nodes: await Promise.all(
      cluster.nodes.map(async node => {
        const standing = standings.find(({ name }) => name === node.name);
        return {
          name: node.name,
          isPrimary: standing?.role === 'primary',
          runs: runs(node.name),
          joined: members.some(({ host, port }) => host === node.host && port === node.port),
          pendingRestart: standing?.pendingRestart ?? false,
          startedAt: runs(node.name) ? await startOf(deployment, node) : undefined,
        };
      }),
    ),
    revision: settingsRevision(cluster.settings),
  };
}

/** When a server was started; undefined when it does not answer. */
async function startOf(deployment: Deployment, at: ServerAddress): Promise<string | undefined> {
  try {
    return await withClient(superuserUrl(deployment, at, 'postgres'), async client => {
      const { rows } = await client.query<{ at: Date }>('select pg_postmaster_start_time() as at');
      return rows[0]?.at.toISOString();
    });
  } catch {
    return undefined;
  }
}
