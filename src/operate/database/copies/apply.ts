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
import { removeSlot } from '../../../app/changes/remove.ts';
import { COPIES, copiesUnit } from '../../../engines/copies.ts';
import { SUPERUSER } from '../../../engines/postgres.ts';
import type { Machine } from '../../../machines/unit.ts';
import { readRuntimeMap } from '../../../map/map-file.ts';
import type { Deployment } from '../../deployment.ts';
import { pollUntil } from '../../poll.ts';
import { keepSlot } from '../kept-slot.ts';
import { findPrimary } from '../primary.ts';
import { withClient } from '../provision.ts';
import { superuserUrl } from '../running.ts';
import { COPIES_SLOT } from './keeper.ts';
import { copiesStanding } from './standing.ts';

/** A table of millions takes longer, and is filled while everything serves. */
const FILL_PATIENCE_MS = 60_000;

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
  await keepSlot(deployment, COPIES_SLOT, true);
  const runs = (await machine.states()).some(({ name }) => name === COPIES);
  if (!runs) await machine.start(copiesUnit(deployment.paths.app, environment));
  const filled = await pollUntil(patienceMs, async () => {
    const told = await copiesStanding(deployment.paths);
    return names.every(name => told?.filled.includes(name)) || undefined;
  });
  return filled
    ? `${names.length === 1 ? 'one copied column is' : `${names.length} copied columns are`} filled and kept`
    : 'copied columns are being filled: see `banyan status`';
}

/**
 * After the database has moved: where it is replicated now, Patroni carries the slot over from here on. The unit finds the new place by
 * the map, has no slot there yet, and looks at all rows once.
 */
export async function keepCopiesAfterMove(deployment: Deployment): Promise<void> {
  const { denormalize = {} } = readRuntimeMap(deployment.paths.map).database;
  if (Object.keys(denormalize).length > 0) await keepSlot(deployment, COPIES_SLOT, true);
}

async function removeCopies(machine: Machine, deployment: Deployment): Promise<string | undefined> {
  const { paths, database, secrets } = deployment;
  // It is there from when the unit first ran until all of it is gone.
  if (!(await copiesStanding(paths))) return undefined;
  await machine.stop(COPIES);
  await keepSlot(deployment, COPIES_SLOT, false);
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
