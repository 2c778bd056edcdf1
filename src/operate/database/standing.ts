/** How the servers of a replicated database stand, for `banyan status`: roles, who is synchronous, who is behind. */
import type { NodeRole, NodeStanding } from '../../engines/patroni-api.ts';
import type { Deployment } from '../deployment.ts';
import { standingsOf } from './cluster.ts';
import { ClusterHome } from './cluster-home.ts';
import { withClient } from './provision.ts';
import { type ClusterRecord, readDatabaseRecord } from './record.ts';
import { superuserUrl } from './running.ts';

export interface DatabaseServer {
  name: string;
  role: NodeRole;
  /** Patroni's word: `running`, `streaming`, `starting`, `stopped`, … */
  state: string;
  timeline: number | undefined;
  /** What it has not replayed yet; undefined for the primary, and when it is not known. */
  lagBytes: number | undefined;
  /** For how long it has not: 0 when it has replayed everything. */
  lagSeconds: number | undefined;
  pendingRestart: boolean;
}

const ANSWER_MS = 1_000;

interface Replication {
  name: string;
  bytes: string;
  seconds: number | null;
}

/** Undefined for a database that is not replicated. Nodes that do not answer are left out. */
export async function databaseServers(
  deployment: Deployment,
): Promise<DatabaseServer[] | undefined> {
  const record = readDatabaseRecord(deployment.paths);
  if (record?.serving !== 'cluster' || !record.cluster) return undefined;
  const clusters = [record, ...(record.others ?? [])].flatMap(({ cluster }) => cluster ?? []);
  const servers = await Promise.all(clusters.map(cluster => serversOf(deployment, cluster)));
  return servers.flat();
}

async function serversOf(
  deployment: Deployment,
  cluster: ClusterRecord,
): Promise<DatabaseServer[]> {
  const standings = await standingsOf(await ClusterHome.open(deployment), cluster);
  const leader = standings.find(({ role }) => role === 'primary');
  const primary = cluster.nodes.find(({ name }) => name === leader?.name);
  const replication = primary
    ? await withClient(
        superuserUrl(deployment, primary, 'postgres'),
        async client => {
          const { rows } = await client.query<Replication>(
            `select application_name as name, extract(epoch from replay_lag)::float8 as seconds,
                  pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::text as bytes
           from pg_stat_replication`,
          );
          return rows;
        },
        // A primary that is frozen is told of by the others.
        { connectMs: ANSWER_MS, queryMs: ANSWER_MS },
      ).catch(() => [])
    : [];
  return standings.map(standing => withLag(standing, replication));
}

function withLag(
  { name, role, state, timeline, lagBytes, pendingRestart }: NodeStanding,
  replication: Replication[],
): DatabaseServer {
  const seen = replication.find(each => each.name === name);
  const bytes = seen ? Math.max(0, Number(seen.bytes)) : lagBytes;
  const isPrimary = role === 'primary';
  return {
    name,
    role,
    state,
    timeline,
    pendingRestart,
    lagBytes: isPrimary ? undefined : bytes,
    // What was measured last says nothing when there is nothing to replay.
    lagSeconds: isPrimary ? undefined : bytes === 0 ? 0 : (seen?.seconds ?? undefined),
  };
}
