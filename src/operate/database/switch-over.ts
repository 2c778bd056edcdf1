/** Changes who is the primary, in good order and otherwise, and restarts servers around that. */

import type { DatabaseNode } from '../../engines/patroni-config.ts';
import { BanyanError } from '../../errors.ts';
import { pollUntil } from '../poll.ts';
import { answers, primaryOf, standingsOf } from './cluster.ts';
import type { ClusterHome } from './cluster-home.ts';
import type { DatabaseContext } from './context.ts';
import { whileHeld } from './hold.ts';
import { withClient } from './provision.ts';
import type { ClusterRecord } from './record.ts';
import { superuserUrl } from './running.ts';
import type { ClusterShape } from './shape.ts';

/** Patroni stops the old primary and waits until the new one serves. */
const SWITCH_TIMEOUT_MS = 30_000;
/** A restart writes a checkpoint first. */
const RESTART_TIMEOUT_MS = 120_000;
const CANDIDATE_TIMEOUT_MS = 30_000;

export class NoCandidate extends BanyanError {
  constructor(wanted: string | undefined, seen: string) {
    super('NO_CANDIDATE', {
      what: wanted
        ? `${wanted} cannot take over: it is not a replica that has everything the primary acknowledged`
        : 'No replica can take over: none has everything that the primary acknowledged',
      where: seen,
      remedy:
        'Nothing was changed. See `banyan status` for which replica is synchronous; wait until one is',
    });
  }
}

type Context = Pick<DatabaseContext, 'deployment' | 'shard'>;

/**
 * Makes another node the primary while writes wait.
 * @param to undefined: the replica that acknowledges with the primary
 * @throws NoCandidate, StillBusy, PatroniRefused
 */
export async function switchOver(
  { deployment, shard }: Context,
  home: ClusterHome,
  cluster: ClusterRecord,
  to: string | undefined,
): Promise<void> {
  const primary = await primaryOf(home, cluster);
  if (primary.name === to) return;
  if (to) await acknowledgeOn(home, cluster, cluster.nodes.length - 1);
  try {
    const candidate = await candidateOf(home, cluster, to);
    await withClient(superuserUrl(deployment, primary, 'postgres'), client =>
      whileHeld(
        deployment.paths,
        client,
        deployment.database,
        async () => {
          await (await home.api(primary)).switchOver(primary.name, candidate, SWITCH_TIMEOUT_MS);
          await untilPrimary(home, cluster, candidate);
        },
        shard,
      ),
    );
  } finally {
    if (to) await acknowledgeOn(home, cluster, 1);
  }
}

/**
 * Only who acknowledges with the primary has everything. When it is a certain one that is wished for, all replicas
 * are made to acknowledge for the moment.
 * @throws NoCandidate
 */
export async function candidateOf(
  home: ClusterHome,
  cluster: ClusterRecord,
  wanted: string | undefined,
): Promise<string> {
  let seen = '';
  const found = await pollUntil(CANDIDATE_TIMEOUT_MS, async () => {
    const standings = await standingsOf(home, cluster);
    seen = standings.map(({ name, role, state }) => `${name} is a ${role}, ${state}`).join('; ');
    const fit = standings.filter(({ role }) => role === 'synchronous replica');
    return (wanted ? fit.find(({ name }) => name === wanted) : fit[0])?.name;
  });
  if (!found) throw new NoCandidate(wanted, seen);
  return found;
}

/** How many replicas a commit waits for. */
async function acknowledgeOn(home: ClusterHome, cluster: ClusterRecord, count: number) {
  const api = await home.api(await primaryOf(home, cluster));
  await api.patchConfig({ synchronous_node_count: count });
}

async function untilPrimary(
  home: ClusterHome,
  cluster: ClusterRecord,
  name: string,
): Promise<void> {
  await pollUntil(SWITCH_TIMEOUT_MS, async () =>
    (await primaryOf(home, cluster)).name === name ? true : undefined,
  );
}

/** Restarts whoever needs it, replicas first; the primary hands over before it is its turn. */
export async function restartNodes(
  context: Context,
  home: ClusterHome,
  cluster: ClusterRecord,
  { startedAfter }: ClusterShape,
): Promise<void> {
  const needsIt = async (node: DatabaseNode) => {
    if (await (await home.api(node)).pendingRestart()) return true;
    return startedAfter !== undefined && (await startedAt(context, node)) < startedAfter;
  };
  const primary = await primaryOf(home, cluster);
  const replicas = cluster.nodes.filter(({ name }) => name !== primary.name);
  for (const node of replicas) if (await needsIt(node)) await restart(home, cluster, node);
  if (!(await needsIt(primary))) return;
  await switchOver(context, home, cluster, undefined);
  // Patroni starts it anew as a replica; a setting may still wait for a restart.
  await untilRuns(home, cluster, primary);
  if (await needsIt(primary)) await restart(home, cluster, primary);
}

async function restart(
  home: ClusterHome,
  cluster: ClusterRecord,
  node: DatabaseNode,
): Promise<void> {
  await (await home.api(node)).restart(RESTART_TIMEOUT_MS);
  await untilRuns(home, cluster, node);
}

/** It serves, and follows the primary if it is none. */
async function untilRuns(
  home: ClusterHome,
  cluster: ClusterRecord,
  node: DatabaseNode,
): Promise<void> {
  await pollUntil(RESTART_TIMEOUT_MS, async () => {
    const standing = (await standingsOf(home, cluster)).find(({ name }) => name === node.name);
    const runs = standing?.state === 'running' || standing?.state === 'streaming';
    return (runs && (await answers(home, node))) || undefined;
  });
}

async function startedAt({ deployment }: Context, node: DatabaseNode): Promise<string> {
  return withClient(superuserUrl(deployment, node, 'postgres'), async client => {
    const { rows } = await client.query<{ at: Date }>('select pg_postmaster_start_time() as at');
    return rows[0]!.at.toISOString();
  });
}
