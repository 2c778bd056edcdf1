/**
 * Holds the application's writes for a moment, so that who is the primary can change without a failed request.
 *
 * The runtime map tells every pool to send nothing new; each closes its connections as they become idle. That they
 * are gone is seen in the database itself, so no pool has to be asked. A hold ends by itself: pools that
 * hear nothing more go on after `HOLD_MS`.
 */
import { randomUUID } from 'node:crypto';
import { BanyanError } from '../../errors.ts';
import type { Member } from '../../map/runtime-map.ts';
import { changeMap } from '../change-map.ts';
import type { DeploymentPaths } from '../deployment.ts';
import { pollUntil } from '../poll.ts';
import type { Queryable } from './move/movable.ts';

/** As long as a pool lets a request wait anyway. */
export const HOLD_MS = 10_000;
/** For what is under way to come to its end. */
const DRAIN_MS = 5_000;

export class StillBusy extends BanyanError {
  constructor(sessions: string[]) {
    super('STILL_BUSY', {
      what: `The primary could not be changed: after ${DRAIN_MS / 1_000} s these still are in the middle of something: ${sessions.join('; ')}`,
      where: 'the database that serves now',
      remedy: 'Nothing was switched, and writes go on. Try again when they are done',
    });
  }
}

/** Publishes who the members of a shard are; with `hold`, that they are not to be sent anything new. */
export async function publishMembers(
  { map: file }: Pick<DeploymentPaths, 'map'>,
  members: Member[] | undefined,
  hold?: { id: string; forMs: number },
  shard = 0,
): Promise<void> {
  await changeMap(file, map => ({
    ...map,
    database: {
      ...map.database,
      shards: map.database.shards.map(({ hold: before, ...present }, index) =>
        index === shard
          ? { ...present, members: members ?? present.members, ...(hold ? { hold } : {}) }
          : { ...present, ...(before ? { hold: before } : {}) },
      ),
    },
  }));
}

/**
 * Runs `body` while the application writes nothing.
 * @param primary a superuser's connection to it
 * @param database the application's
 * @throws StillBusy, and what `body` throws; writes go on in any case
 */
export async function whileHeld<T>(
  paths: DeploymentPaths,
  primary: Queryable,
  database: string,
  body: () => Promise<T>,
  shard = 0,
): Promise<T> {
  await publishMembers(paths, undefined, { id: randomUUID(), forMs: HOLD_MS }, shard);
  try {
    await untilDrained(primary, database);
    return await body();
  } finally {
    await publishMembers(paths, undefined, undefined, shard);
  }
}

async function untilDrained(primary: Queryable, database: string): Promise<void> {
  let busy: string[] = [];
  const begun = performance.now();
  const drained = await pollUntil(DRAIN_MS, async () => {
    const { rows } = await primary.query<{
      pid: number;
      who: string;
      state: string;
      idle: boolean;
    }>(
      `select pid, coalesce(nullif(application_name, ''), usename::text) as who, state,
              state = 'idle' and xact_start is null as idle
       from pg_stat_activity
       where datname = $1 and backend_type = 'client backend' and application_name <> 'banyan operation'
         and pid <> pg_backend_pid()`,
      [database],
    );
    busy = rows
      .filter(({ idle }) => !idle)
      .map(({ pid, who, state }) => `${who} (pid ${pid}, ${state})`);
    if (rows.length === 0) return true;
    // Pools have had the time to see the map. Who is still there and idle does not know of it: a prompt, a tool.
    const late = performance.now() - begun > DRAIN_MS / 2;
    return late && busy.length === 0 ? true : undefined;
  });
  if (!drained) throw new StillBusy(busy);
}
