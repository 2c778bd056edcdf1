/**
 * Brings the keeping of copies in force, and takes it away: the unit, and in a replicated database the slots that
 * Patroni carries over to a new primary.
 *
 * Holds true here:
 * - May be done again at any time.
 * - A slot is in Patroni's settings before somebody reads with it, and out of them before it is dropped.
 * - When no copy is declared, nothing is left that would hold back a server's log.
 */
import { rm } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { removeSlot } from '../../../app/changes/remove.ts';
import { COPIES, copiesUnit } from '../../../engines/copies.ts';
import { SUPERUSER } from '../../../engines/postgres.ts';
import type { Machine } from '../../../machines/unit.ts';
import { readRuntimeMap } from '../../../map/map-file.ts';
import type { Deployment } from '../../deployment.ts';
import { pollUntil } from '../../poll.ts';
import { primaryOf } from '../cluster.ts';
import { ClusterHome } from '../cluster-home.ts';
import { recordOf } from '../context.ts';
import { findPrimary } from '../primary.ts';
import { withClient } from '../provision.ts';
import { superuserUrl } from '../running.ts';
import { COPIES_SLOT } from './keeper.ts';
import { copiesStanding } from './standing.ts';

/** A table of millions takes longer, and is filled while everything serves. */
const FILL_PATIENCE_MS = 60_000;
/** By then no node goes by settings that it read before: twice its `loop_wait`, and a little. */
const PATRONI_LOOP_MS = 2_500;

/**
 * By what the map says.
 * @param environment of the unit
 * @param patienceMs how long to wait until all rows are filled, in milliseconds. Default: 60000
 * @returns what was done, for people; undefined when nothing was
 */
export async function applyCopies(
  machine: Machine,
  deployment: Deployment,
  environment: NodeJS.ProcessEnv,
  patienceMs = FILL_PATIENCE_MS,
): Promise<string | undefined> {
  const { denormalize = {} } = readRuntimeMap(deployment.paths.map).database;
  const names = Object.keys(denormalize);
  if (names.length === 0) return removeCopies(machine, deployment);
  await keepThroughFailover(deployment, true);
  const runs = (await machine.states()).some(({ name }) => name === COPIES);
  if (!runs) {
    // The command that runs at this moment, whether it was built or runs from its sources.
    const program = [...process.execArgv, process.argv[1]!];
    await machine.start(copiesUnit(program, deployment.paths.app, environment));
  }
  const filled = await pollUntil(patienceMs, async () => {
    const told = await copiesStanding(deployment.paths);
    return names.every(name => told?.filled.includes(name)) || undefined;
  });
  return filled
    ? `${names.length === 1 ? 'one copied column is' : `${names.length} copied columns are`} filled and kept`
    : 'copied columns are being filled: see `banyan status`';
}

async function removeCopies(machine: Machine, deployment: Deployment): Promise<string | undefined> {
  const { paths, database, secrets } = deployment;
  // It is there from when the unit first ran until all of it is gone.
  if (!(await copiesStanding(paths))) return undefined;
  await machine.stop(COPIES);
  if (await keepThroughFailover(deployment, false)) await delay(PATRONI_LOOP_MS);
  for (const { members } of readRuntimeMap(paths.map).database.shards) {
    await removeSlot({
      members,
      connection: { user: SUPERUSER, password: secrets.superuserPassword, database },
      slot: COPIES_SLOT,
      publication: COPIES_SLOT,
    });
    const primary = await findPrimary(deployment, members);
    await withClient(superuserUrl(deployment, primary, database), client =>
      client.query('drop table if exists banyan.copies'),
    );
  }
  await rm(paths.copies, { force: true });
  return 'no copied columns are kept any more: they stay as they are';
}

/**
 * Tells Patroni to have the slot on every server. A replica takes it over by a restart of its PostgreSQL, once: for
 * that second it answers nothing.
 * @returns whether it did not know before
 */
async function keepThroughFailover(deployment: Deployment, keeps: boolean): Promise<boolean> {
  if (recordOf(deployment).serving !== 'cluster') return false;
  let isChanged = false;
  const home = await ClusterHome.open(deployment);
  const { shards } = readRuntimeMap(deployment.paths.map).database;
  for (const index of shards.keys()) {
    const { cluster } = recordOf(deployment, index);
    if (!cluster) continue;
    const api = await home.api(await primaryOf(home, cluster));
    const { slots = {} } = (await api.config()) as { slots?: Record<string, unknown> };
    if (COPIES_SLOT in slots === keeps) continue;
    const slot = { type: 'logical', database: deployment.database, plugin: 'pgoutput' };
    await api.patchConfig({ slots: { [COPIES_SLOT]: keeps ? slot : null } });
    isChanged = true;
  }
  return isChanged;
}
