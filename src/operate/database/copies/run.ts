/**
 * The unit that keeps copies: follows the map, and runs a keeper for what that says.
 *
 * Holds true here:
 * - When it is killed, copies fall behind, and nothing else happens: the next one goes on where it was.
 * - Another declaration, another number of shards, tables that a migration changed: a new keeper.
 * - Members that come and go need none: the readers look for them by themselves.
 */

import { setTimeout as delay } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import pino from 'pino';
import { readSchema } from '../../../app/database/shards/declaration/schema.ts';
import { SUPERUSER } from '../../../engines/postgres.ts';
import { BanyanError } from '../../../errors.ts';
import { writeFileAtomic } from '../../../map/atomic-file.ts';
import { readRuntimeMap, watchRuntimeMap } from '../../../map/map-file.ts';
import type { RuntimeMap } from '../../../map/runtime-map.ts';
import { type Deployment, type DeploymentPaths, existingDeployment } from '../../deployment.ts';
import { findPrimary } from '../primary.ts';
import { withClient } from '../provision.ts';
import { superuserUrl } from '../running.ts';
import { type Copy, resolveCopies } from './copies.ts';
import { CopyKeeper } from './keeper.ts';
import type { CopiesTold } from './standing.ts';

const TELL_INTERVAL_MS = 1_000;
/** Between two looks at the tables: a migration may have changed them. */
const LOOK_INTERVAL_MS = 15_000;
const PAUSE_MS = 2_000;

const log = pino({ base: {} });

/** Runs until it is told to stop. */
export async function runCopies(paths: DeploymentPaths, signal: AbortSignal): Promise<void> {
  const deployment = existingDeployment(paths);
  if (!deployment) throw new Error(`there is no deployment in ${paths.app}`);
  let map = readRuntimeMap(paths.map);
  let stirred = Promise.withResolvers<void>();
  const stop = watchRuntimeMap(paths.map, map, next => {
    const before = map;
    map = next;
    if (isDeepStrictEqual(shapeOf(before), shapeOf(next))) return;
    stirred.resolve();
    stirred = Promise.withResolvers();
  });
  const aborted = new Promise<void>(resolve => signal.addEventListener('abort', () => resolve()));
  try {
    while (!signal.aborted) {
      const changed = Promise.race([stirred.promise, aborted]);
      try {
        await runKeeper(deployment, () => map, changed, signal);
      } catch (error) {
        complain(error, 'copies cannot be kept');
      }
      await delay(PAUSE_MS, undefined, { signal }).catch(() => {});
    }
  } finally {
    stop();
  }
}

/** What a keeper is made for; members may change under it. */
function shapeOf({ database }: RuntimeMap) {
  const { denormalize, tables, shards } = database;
  return { denormalize, tables, shards: shards.map(({ id, range }) => ({ id, range })) };
}

async function runKeeper(
  deployment: Deployment,
  map: () => RuntimeMap,
  changed: Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  const copies = await resolve(deployment, map());
  if (copies.length === 0) {
    // The tables are still to be made; or the declaration was taken away, and so is this unit, in a moment.
    await tell(deployment.paths, { filled: [], filling: [], shards: [] });
    await Promise.race([changed, delay(PAUSE_MS, undefined, { signal }).catch(() => {})]);
    return;
  }
  const { database, secrets } = deployment;
  const keeper = new CopyKeeper({
    copies,
    shards: () => map().database.shards,
    connection: { user: SUPERUSER, password: secrets.superuserPassword, database },
    onTrouble: complain,
  }).start();
  log.info({ copies: copies.map(({ name }) => name) }, 'keeping copies');
  let isOver = false;
  const over = () => {
    isOver = true;
  };
  void changed.then(over);
  void keeper.broken.then(over);
  try {
    for (let looked = performance.now(); !isOver; ) {
      await tell(deployment.paths, keeper.standing());
      const pause = delay(TELL_INTERVAL_MS, undefined, { ref: true });
      await Promise.race([changed, keeper.broken, pause]);
      if (isOver || performance.now() - looked < LOOK_INTERVAL_MS) continue;
      looked = performance.now();
      const now = await resolve(deployment, map()).catch(() => copies);
      if (!isDeepStrictEqual(now, copies)) over();
    }
  } finally {
    await keeper.close();
  }
}

async function resolve(deployment: Deployment, { database }: RuntimeMap): Promise<Copy[]> {
  const { denormalize = {}, tables = {}, unique = [], shards } = database;
  if (Object.keys(denormalize).length === 0) return [];
  const primary = await findPrimary(deployment, shards[0]!.members);
  const url = superuserUrl(deployment, primary, deployment.database);
  const { copies, problems } = resolveCopies(
    { denormalize, tables, unique },
    await withClient(url, readSchema),
  );
  for (const { table, what } of problems) log.warn(`${table}: ${what}`);
  return copies;
}

async function tell(paths: DeploymentPaths, standing: Omit<CopiesTold, 'at'>): Promise<void> {
  const told: CopiesTold = { at: new Date().toISOString(), ...standing };
  await writeFileAtomic(paths.copies, JSON.stringify(told)).catch(() => {});
}

function complain(error: unknown, what: string): void {
  const why = error instanceof BanyanError ? error.what : (error as Error).message;
  log.warn({ err: error }, `${what}: ${why}`);
}
