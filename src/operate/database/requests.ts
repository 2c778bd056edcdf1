/** Changes of a replicated database that a person asks for by name, as goals of an operation. */
import { BanyanError } from '../../errors.ts';
import type { Controller } from '../controller.ts';
import type { Change } from '../operations/change.ts';
import { primaryOf, standingsOf } from './cluster.ts';
import { ClusterHome } from './cluster-home.ts';
import { recordOf, shardCountOf } from './context.ts';
import type { ClusterRecord } from './record.ts';
import type { ClusterShape } from './shape.ts';
import { candidateOf } from './switch-over.ts';

/** Election, and what is to be replayed before. */
const FAILOVER_TIMEOUT_MS = 30_000;

export class NotReplicated extends BanyanError {
  constructor(command: string) {
    super('NOT_REPLICATED', {
      what: 'The database is a single server: there is nobody to take over',
      where: command,
      remedy: 'Write `database: { replicas: 1 }` into banyan.config.ts, and run `banyan apply`',
    });
  }
}

export class NoSuchServer extends BanyanError {
  constructor(name: string, known: string[]) {
    super('NO_SUCH_SERVER', {
      what: `No database server is called ${name}`,
      where: 'banyan status',
      remedy: `There are: ${known.join(', ')}`,
    });
  }
}

export class PrimaryIsWell extends BanyanError {
  constructor(primary: string, candidate: string) {
    super('PRIMARY_IS_WELL', {
      what: `${primary} is the primary and takes writes: there is nothing to fail over from`,
      where: 'banyan failover',
      remedy: `To change roles without a failed request: \`banyan switchover --to ${candidate}\``,
    });
  }
}

type Goal = Pick<Change, 'kind' | 'summary' | 'after' | 'database' | 'databaseBefore'>;

interface Cluster {
  shape: ClusterShape;
  record: ClusterRecord;
  home: ClusterHome;
}

/** @param to undefined: the replica that acknowledges with the primary. @throws NotReplicated, NoSuchServer, NoCandidate */
export async function switchOverGoal(
  controller: Controller,
  to: string | undefined,
): Promise<Goal> {
  const cluster = await clusterOf(controller, 'banyan switchover', to);
  const primary = await primaryOf(cluster.home, cluster.record);
  const successor = to ?? (await candidateOf(cluster.home, cluster.record, undefined));
  return {
    kind: 'switchover',
    summary: `primary ${primary.name} → ${successor}`,
    after: controller.present,
    database: { ...cluster.shape, primary: successor },
    databaseBefore: { ...cluster.shape, primary: primary.name },
  };
}

/** Every server is started anew, one by one: for a new minor version of PostgreSQL. @throws NotReplicated */
export async function restartGoal(controller: Controller): Promise<Goal> {
  const { shape } = await clusterOf(controller, 'banyan restart');
  return {
    kind: 'restart',
    summary: 'restart of the database servers',
    after: controller.present,
    database: { ...shape, startedAfter: new Date().toISOString() },
  };
}

/** Another server takes the place of one. @throws NotReplicated, NoSuchServer */
export async function replaceGoal(controller: Controller, name: string): Promise<Goal> {
  const { shape } = await clusterOf(controller, 'banyan replace', name);
  return {
    kind: 'replace',
    summary: `another database server for ${name}`,
    after: controller.present,
    database: { ...shape, retired: [name] },
  };
}

/**
 * Makes a replica the primary when there is none. Nothing acknowledged is lost: only one that acknowledged with the last
 * primary is taken.
 * @throws NotReplicated, NoSuchServer, PrimaryIsWell, PatroniRefused
 */
export async function failOver(controller: Controller, name: string): Promise<void> {
  const { home, record } = await clusterOf(controller, 'banyan failover', name);
  const standings = await standingsOf(home, record);
  const primary = standings.find(({ role, state }) => role === 'primary' && state === 'running');
  if (primary) throw new PrimaryIsWell(primary.name, name);
  const node = record.nodes.find(each => each.name === name)!;
  await (await home.api(node)).failOver(name, FAILOVER_TIMEOUT_MS);
  await primaryOf(home, record);
}

async function clusterOf(
  { deployment, presentDatabase }: Controller,
  command: string,
  name?: string,
): Promise<Cluster> {
  const whole = recordOf(deployment);
  const clusters = Array.from({ length: shardCountOf(whole) }, (_, shard) =>
    recordOf(deployment, shard),
  ).flatMap(({ cluster }) => cluster ?? []);
  if (presentDatabase.kind !== 'cluster' || clusters.length === 0) throw new NotReplicated(command);
  const known = clusters.flatMap(({ nodes }) => nodes.map(node => node.name));
  if (name !== undefined && !known.includes(name)) throw new NoSuchServer(name, known);
  // Without a name: of the first shard, or of the only one.
  const cluster =
    clusters.find(({ nodes }) => nodes.some(node => node.name === name)) ?? clusters[0]!;
  return { shape: presentDatabase, record: cluster, home: await ClusterHome.open(deployment) };
}
