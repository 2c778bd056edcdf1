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
  /**
   * `running` for the primary and `streaming` for a replica that follows it, by the primary's own word. Else
   * what is known: `not following`, or Patroni's `starting`, `stopped`, `creating replica`, …
   */
  state: string;
  timeline: number | undefined;
  /** What it has not replayed yet; undefined for the primary, and when it is not known. */
  lagBytes: number | undefined;
  /** For how long it has not: 0 when it has replayed everything. */
  lagSeconds: number | undefined;
  pendingRestart: boolean;
}

const ANSWER_MS = 1_000;
/** Patroni's words, which differ by its version, for a server that runs; it tells them a moment late. */
const RUNS: ReadonlySet<string> = new Set(['running', 'streaming']);
/** Less than a command waits for the supervisor's answer, which has this in it. */
const STANDINGS_MS = 2_000;

interface Replication {
  name: string;
  state: string;
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
  const standings = await standingsOf(await ClusterHome.open(deployment), cluster, STANDINGS_MS);
  const leader = standings.find(({ role }) => role === 'primary');
  const primary = cluster.nodes.find(({ name }) => name === leader?.name);
  const replication: Replication[] | undefined = primary
    ? await withClient(
        superuserUrl(deployment, primary, 'postgres'),
        async client => {
          const { rows } = await client.query<Replication>(
            `select application_name as name, state, extract(epoch from replay_lag)::float8 as seconds,
                  pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::text as bytes
           from pg_stat_replication`,
          );
          return rows;
        },
        // A primary that is frozen is told of by the others.
        { connectMs: ANSWER_MS, queryMs: ANSWER_MS },
      ).catch(() => undefined)
    : undefined;
  return standings.map(standing => seenBy(replication, standing));
}

/** A server as its Patroni told last, corrected by what the primary sees; undefined when that was not to be had. */
function seenBy(
  replication: Replication[] | undefined,
  { name, role, state, timeline, lagBytes, pendingRestart }: NodeStanding,
): DatabaseServer {
  if (role === 'primary') {
    return {
      name,
      role,
      state,
      timeline,
      pendingRestart,
      lagBytes: undefined,
      lagSeconds: undefined,
    };
  }
  const seen = replication?.find(each => each.name === name);
  const bytes = seen ? Math.max(0, Number(seen.bytes)) : replication ? undefined : lagBytes;
  return {
    name,
    role,
    state: replication && RUNS.has(state) ? (seen?.state ?? 'not following') : state,
    timeline,
    pendingRestart,
    lagBytes: bytes,
    // What was measured last says nothing when there is nothing to replay.
    lagSeconds: bytes === 0 ? 0 : (seen?.seconds ?? undefined),
  };
}
