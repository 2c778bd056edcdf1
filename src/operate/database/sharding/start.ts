/**
 * Starts the database tier: the one database, or one for each shard.
 *
 * Holds true here:
 * - Where the rows are counts, not what the configuration says: a deployment with tables runs as it was.
 * - How many shards there are, and what each owns, is written down before the second is made, so a start that was
 *   cut short is completed by the next.
 * - While there are no tables the number of shards follows the configuration: there is nothing to move.
 */
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { evenRanges } from '../../../app/database/shards/ranges.ts';
import type { Machine } from '../../../machines/unit.ts';
import type { CompleteTopology } from '../../../topology/complete.ts';
import type { Deployment } from '../../deployment.ts';
import {
  createCluster,
  createFurtherCluster,
  startCluster,
  startFurtherCluster,
} from '../cluster.ts';
import { ClusterHome } from '../cluster-home.ts';
import { recordOf, shardCountOf } from '../context.ts';
import { embeddedUnit, retireEmbedded, startEmbeddedDatabase } from '../embedded.ts';
import { useExternalDatabase } from '../external.ts';
import { etcdNames, nodeNames } from '../plan.ts';
import { withClient } from '../provision.ts';
import { type DatabaseRecord, readDatabaseRecord, writeDatabaseRecord } from '../record.ts';
import type { RunningDatabase } from '../running.ts';
import { databaseShapeOf } from '../shape.ts';

/**
 * @param note gets what is no error and should be known
 * @returns one for each shard, in the map's order
 */
export async function startDatabases(
  machine: Machine,
  deployment: Deployment,
  topology: CompleteTopology,
  note: (text: string) => void,
): Promise<RunningDatabase[]> {
  const { database } = topology;
  if (database.url) {
    const external = await useExternalDatabase(database.url, database.readers);
    for (const each of external.notes) note(each);
    return [external];
  }
  await beginRecord(deployment, topology);
  const running = [await startFirst(machine, deployment, topology)];
  const count = shardCountOf(recordOf(deployment));
  for (let shard = 1; shard < count; shard++) {
    running.push(await startFurther(machine, deployment, topology, shard));
  }
  return resize(machine, deployment, topology, running, note);
}

/** The first start of several shards; the record of a single database is written when that runs. */
async function beginRecord(deployment: Deployment, topology: CompleteTopology): Promise<void> {
  const { paths } = deployment;
  const record = readDatabaseRecord(paths);
  const isNew = record
    ? record.serving === 'cluster' && !record.cluster
    : !existsSync(paths.postgres);
  if (!isNew) return;
  const { shards, replicas } = topology.database;
  if (shards > 1) {
    const serving = replicas > 0 ? 'cluster' : 'embedded';
    await writeDatabaseRecord(deployment, { serving, sharding: newSharding(shards) });
  } else if (record) await rm(paths.database);
}

function newSharding(shards: number) {
  return { ranges: evenRanges(shards), tables: {}, unique: [] };
}

async function startFirst(
  machine: Machine,
  deployment: Deployment,
  topology: CompleteTopology,
): Promise<RunningDatabase> {
  const { paths } = deployment;
  const record = readDatabaseRecord(paths);
  if (record?.serving === 'cluster' && record.cluster) {
    return startCluster(machine, deployment, record.cluster);
  }
  const wanted = databaseShapeOf(topology);
  const isNew = record?.serving === 'cluster' || (!record && !existsSync(paths.postgres));
  if (isNew && wanted.kind === 'cluster') {
    const names = { etcd: etcdNames(wanted.etcd), nodes: nodeNames(wanted.replicas + 1) };
    return createCluster(machine, deployment, names, wanted.settings);
  }
  const running = await startEmbeddedDatabase(machine, deployment, topology.database);
  if (!record) await writeDatabaseRecord(deployment, { serving: 'embedded' });
  return running;
}

async function startFurther(
  machine: Machine,
  deployment: Deployment,
  topology: CompleteTopology,
  shard: number,
): Promise<RunningDatabase> {
  const first = recordOf(deployment);
  if (first.serving === 'embedded') {
    return startEmbeddedDatabase(machine, deployment, topology.database, shard);
  }
  const { cluster } = recordOf(deployment, shard);
  if (cluster) return startFurtherCluster(machine, deployment, shard, cluster);
  const names = nodeNames(first.cluster!.nodes.length, shard);
  return createFurtherCluster(machine, deployment, shard, names);
}

/** To the number of shards that the configuration asks for, when there is nothing to move. */
async function resize(
  machine: Machine,
  deployment: Deployment,
  topology: CompleteTopology,
  running: RunningDatabase[],
  note: (text: string) => void,
): Promise<RunningDatabase[]> {
  const wanted = topology.database.shards;
  if (wanted === running.length) return running;
  const used = await Promise.all(running.map(({ url }) => hasTables(url)));
  if (used.includes(true)) {
    note(
      `the rows are in ${countOf(running.length)}, and banyan.config.ts asks for ${wanted}: this version does not move rows between shards, so the deployment runs as it was. The number can be changed while there are no tables`,
    );
    return running;
  }
  for (let shard = running.length - 1; shard >= wanted; shard--) {
    await removeShard(machine, deployment, shard);
  }
  const { others = [], ...record } = recordOf(deployment);
  await writeDatabaseRecord(deployment, {
    ...record,
    others: others.slice(0, wanted - 1),
    sharding: newSharding(wanted),
  });
  const resized = running.slice(0, wanted);
  for (let shard = resized.length; shard < wanted; shard++) {
    resized.push(await startFurther(machine, deployment, topology, shard));
  }
  note(`there are no tables yet: the database is in ${countOf(wanted)} now`);
  return resized;
}

export function countOf(shards: number): string {
  return shards === 1 ? 'one database' : `${shards} shards`;
}

async function hasTables(url: string): Promise<boolean> {
  return withClient(url, async client => {
    const { rowCount } = await client.query(
      `select from pg_class c join pg_namespace n on n.oid = c.relnamespace
       where c.relkind in ('r', 'p', 'm', 'f') and n.nspname !~ '^pg_'
         and n.nspname not in ('information_schema', 'banyan')
       limit 1`,
    );
    return rowCount !== 0;
  });
}

async function removeShard(machine: Machine, deployment: Deployment, shard: number): Promise<void> {
  const { serving, cluster }: DatabaseRecord = recordOf(deployment, shard);
  if (serving === 'embedded') {
    await machine.stop(embeddedUnit(shard));
    return retireEmbedded(deployment, shard);
  }
  const home = await ClusterHome.open(deployment);
  for (const { name } of cluster?.nodes ?? []) {
    await machine.stop(name);
    await home.forget(name);
  }
}
