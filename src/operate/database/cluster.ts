/** A replicated database that runs: how it is started whole, and who is who in it. */
import { setTimeout as delay } from 'node:timers/promises';
import type { NodeStanding } from '../../engines/patroni-api.ts';
import type { ClusterSettings, DatabaseNode } from '../../engines/patroni-config.ts';
import { BanyanError } from '../../errors.ts';
import type { Machine } from '../../machines/unit.ts';
import type { Member } from '../../map/runtime-map.ts';
import type { Deployment } from '../deployment.ts';
import { pollUntil } from '../poll.ts';
import {
  ClusterHome,
  findClusterPrograms,
  furtherClusterRecord,
  hasData,
  newClusterRecord,
  withFreeNodePorts,
  withFreePorts,
} from './cluster-home.ts';
import { provision, withClient } from './provision.ts';
import { type ClusterRecord, readDatabaseRecord, writeDatabaseRecord } from './record.ts';
import { requireDisk, requireMemory } from './room.ts';
import { DATA_CENTRE, ownerUrl, type RunningDatabase, superuserUrl } from './running.ts';

/** How much longer than the first the others may take to say how they stand. */
const OTHERS_MS = 250;
/** After a start all nodes are there and one of them has to be elected. */
const PRIMARY_TIMEOUT_MS = 60_000;

export class NoPrimary extends BanyanError {
  constructor(standings: NodeStanding[]) {
    const seen = standings.map(({ name, role, state }) => `${name} is a ${role}, ${state}`);
    super('NO_PRIMARY', {
      what: 'The replicated database has no primary that takes writes',
      where: seen.join('; ') || 'no node answers',
      remedy:
        'See `banyan logs` of the nodes. When the last primary is lost for good, `banyan failover <node>` makes another the primary',
    });
  }
}

export class DataLost extends BanyanError {
  constructor(folders: string[]) {
    super('DATA_LOST', {
      what: 'The data of all database servers are gone, and there are backups of them',
      where: folders.join(', '),
      remedy:
        '`banyan restore --to latest` brings the database back; `banyan backups` shows what there is',
    });
  }
}

/**
 * Makes a new replicated database: etcd, the first node, then the others as copies of it.
 * @throws SystemPostgresMissing, PatroniMissing, EtcdMissing, NoRoom before anything is touched
 */
export async function createCluster(
  machine: Machine,
  deployment: Deployment,
  names: { etcd: string[]; nodes: string[] },
  settings: ClusterSettings,
): Promise<RunningDatabase> {
  findClusterPrograms();
  await requireMemory(names.nodes.length, settings);
  await requireDisk(deployment.paths.root, names.nodes.length, 0);
  const home = await ClusterHome.open(deployment);
  const record = await newClusterRecord(home, deployment, names, settings);
  await writeDatabaseRecord(deployment, {
    ...readDatabaseRecord(deployment.paths),
    serving: 'cluster',
    cluster: record,
  });
  await startEtcd(machine, home, record);
  return createNodes(machine, deployment, home, record);
}

/** The same for a further shard, while the first runs. */
export async function createFurtherCluster(
  machine: Machine,
  deployment: Deployment,
  shard: number,
  nodes: string[],
): Promise<RunningDatabase> {
  const home = await ClusterHome.open(deployment);
  const { serving, cluster: first } = readDatabaseRecord(deployment.paths)!;
  const record = await furtherClusterRecord(home, first!, shard, nodes);
  await writeDatabaseRecord(deployment, { serving, cluster: record }, shard);
  return createNodes(machine, deployment, home, record);
}

async function createNodes(
  machine: Machine,
  deployment: Deployment,
  home: ClusterHome,
  record: ClusterRecord,
): Promise<RunningDatabase> {
  const [first, ...others] = record.nodes;
  await home.startNode(machine, record, first!);
  await primaryOf(home, record);
  await Promise.all(others.map(node => home.startNode(machine, record, node)));
  // Only now: a commit may have to wait for a replica.
  await provision(deployment, first!);
  return runningCluster(deployment, home, record, first!);
}

/** Starts one that was stopped. @throws DataLost */
export async function startCluster(
  machine: Machine,
  deployment: Deployment,
  stopped: ClusterRecord,
): Promise<RunningDatabase> {
  const home = await ClusterHome.open(deployment);
  const record = await withFreePorts(stopped);
  if (!record.nodes.some(hasData)) await refuseToBeginAnew(home, record);
  await writeDatabaseRecord(deployment, {
    ...readDatabaseRecord(deployment.paths)!,
    cluster: record,
  });
  await startEtcd(machine, home, record);
  return startNodes(machine, deployment, home, record);
}

/** The same for a further shard, while the first runs. */
export async function startFurtherCluster(
  machine: Machine,
  deployment: Deployment,
  shard: number,
  stopped: ClusterRecord,
): Promise<RunningDatabase> {
  const home = await ClusterHome.open(deployment);
  const { serving, cluster: first } = readDatabaseRecord(deployment.paths)!;
  const record = await withFreeNodePorts({ ...stopped, etcd: first!.etcd });
  await writeDatabaseRecord(deployment, { serving, cluster: record }, shard);
  return startNodes(machine, deployment, home, record);
}

async function startNodes(
  machine: Machine,
  deployment: Deployment,
  home: ClusterHome,
  record: ClusterRecord,
): Promise<RunningDatabase> {
  // Who has no rows begins after the others, and copies them: alone it would make a new, empty database.
  const full = record.nodes.filter(hasData);
  const empty = record.nodes.filter(node => !hasData(node));
  await Promise.all(full.map(node => home.startNode(machine, record, node)));
  if (full.length > 0 && empty.length > 0) await primaryOf(home, record);
  await Promise.all(empty.map(node => home.startNode(machine, record, node)));
  const primary = await primaryOf(home, record);
  await provision(deployment, primary);
  return runningCluster(deployment, home, record, primary);
}

/** A cluster without any rows is a first start that did not come to its end; with backups of it, a loss. */
async function refuseToBeginAnew(home: ClusterHome, { nodes, settings }: ClusterRecord) {
  const repository = await home.repository(settings);
  const backups = (await repository?.info())?.backups.length ?? 0;
  if (backups > 0) throw new DataLost(nodes.map(({ folder }) => folder));
}

async function startEtcd(
  machine: Machine,
  home: ClusterHome,
  record: ClusterRecord,
): Promise<void> {
  // Together: none of them is well before most of them are there.
  await Promise.all(record.etcd.map(member => home.startEtcd(machine, record, member)));
}

function runningCluster(
  deployment: Deployment,
  home: ClusterHome,
  record: ClusterRecord,
  primary: DatabaseNode,
): RunningDatabase {
  const replicas = record.nodes.length - 1;
  return {
    url: ownerUrl(deployment, primary),
    members: membersOf(record),
    name: deployment.database,
    maxConnections: record.settings.maxConnections,
    summary: `PostgreSQL ${home.postgres.version}, ${primary.name} and ${replicas} replica${replicas === 1 ? '' : 's'}`,
  };
}

/** For the runtime map. */
export function membersOf({ nodes }: ClusterRecord): Member[] {
  return nodes.map(({ host, port }) => ({ host, port, dataCentre: DATA_CENTRE }));
}

/**
 * How each node stands; empty when none answers. One may be frozen, and one that is cut off, or has just woken,
 * tells of the time before: who knows the newest timeline is believed.
 * @param timeoutMs for whoever would rather do without than wait
 */
export async function standingsOf(
  home: ClusterHome,
  { nodes }: ClusterRecord,
  timeoutMs?: number,
): Promise<NodeStanding[]> {
  const answers: NodeStanding[][] = [];
  const asked = nodes.map(async node =>
    answers.push(await (await home.api(node)).cluster(timeoutMs)),
  );
  await Promise.any(asked).catch(() => {});
  await Promise.race([Promise.allSettled(asked), delay(OTHERS_MS, undefined, { ref: false })]);
  const timeline = (standings: NodeStanding[]) =>
    standings.find(({ role }) => role === 'primary')?.timeline ?? 0;
  const [newest = []] = answers.toSorted((a, b) => timeline(b) - timeline(a));
  // Patroni goes on to name one that was removed, until it has not heard of it for long enough.
  return newest.filter(({ name }) => nodes.some(each => each.name === name));
}

/**
 * The primary, when it takes writes.
 * @throws NoPrimary after a minute
 */
export async function primaryOf(home: ClusterHome, record: ClusterRecord): Promise<DatabaseNode> {
  let standings: NodeStanding[] = [];
  const found = await pollUntil(PRIMARY_TIMEOUT_MS, async () => {
    standings = await standingsOf(home, record);
    const leader = standings.find(({ role }) => role === 'primary');
    const node = record.nodes.find(({ name }) => name === leader?.name);
    return node && (await takesWrites(home, node)) ? node : undefined;
  });
  if (!found) throw new NoPrimary(standings);
  return found;
}

/** A node that was just elected answers reads alone for a moment. */
async function takesWrites(home: ClusterHome, node: DatabaseNode): Promise<boolean> {
  return (await roleOf(home, node)) === 'primary';
}

/** Whether its PostgreSQL takes sessions; Patroni's word may be of a moment ago. */
export async function answers(home: ClusterHome, node: DatabaseNode): Promise<boolean> {
  return (await roleOf(home, node)) !== undefined;
}

async function roleOf(
  home: ClusterHome,
  node: DatabaseNode,
): Promise<'primary' | 'standby' | undefined> {
  try {
    return await withClient(superuserUrlOf(home, node), async client => {
      const { rows } = await client.query<{ standby: boolean }>(
        'select pg_is_in_recovery() as standby',
      );
      return rows[0]?.standby ? 'standby' : 'primary';
    });
  } catch {
    return undefined;
  }
}

function superuserUrlOf({ passwords }: ClusterHome, node: DatabaseNode): string {
  return superuserUrl({ secrets: { superuserPassword: passwords.superuser } }, node, 'postgres');
}
