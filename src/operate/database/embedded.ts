/**
 * The database of rung 1: one PostgreSQL from npm, as a unit; one for each shard, when there are several.
 */
import { realpath, rename, rm, statfs } from 'node:fs/promises';
import path from 'node:path';
import {
  clearPidFile,
  configure,
  dataVersion,
  initialise,
  postgresUnit,
  settle,
} from '../../engines/postgres.ts';
import { BanyanError } from '../../errors.ts';
import {
  freePort,
  isPortFree,
  onFreePort,
  PortInUse,
  portHolder,
} from '../../machines/free-port.ts';
import type { Machine } from '../../machines/unit.ts';
import { readRuntimeMap } from '../../map/map-file.ts';
import type { CompleteTopology } from '../../topology/complete.ts';
import type { Deployment } from '../deployment.ts';
import { isProvisioned, provision } from './provision.ts';
import { DATA_CENTRE, ownerUrl, type RunningDatabase } from './running.ts';

/** The unit's name. */
export const embeddedUnit = (shard: number) => `postgres-${shard + 1}`;
export const EMBEDDED_UNIT = embeddedUnit(0);

const LOOPBACK = '127.0.0.1';

/** A new cluster takes 40 MB and its first log segments; a running one must be able to start a few more. */
const FIRST_START_MB = 200;
const WARM_START_MB = 64;

export class DiskFull extends BanyanError {
  constructor(folder: string, freeMb: number, neededMb: number) {
    super('DISK_FULL', {
      what: `The disk is full: ${freeMb} MB are free, and the database needs ${neededMb} MB to start`,
      where: folder,
      remedy:
        'Nothing was changed. Free some space (`df -h` shows where it went) and run the command again',
    });
  }
}

/**
 * Starts the embedded PostgreSQL; makes its data, its role and its database when they are not there.
 * @param shard an index into the map's
 * @throws DataVersionMismatch, DiskFull, PortInUse, InitFailed, UnitStartFailed
 */
export async function startEmbeddedDatabase(
  machine: Machine,
  deployment: Deployment,
  topology: CompleteTopology['database'],
  shard = 0,
): Promise<RunningDatabase> {
  const home = await settle(embeddedFolder(deployment, shard), deployment.id);
  const isNew = (await dataVersion(home.dataFolder)) === undefined;
  await requireSpace(path.dirname(home.dataFolder), isNew ? FIRST_START_MB : WARM_START_MB);
  if (isNew) await initialise(home, deployment.secrets.superuserPassword);
  await clearPidFile(home.dataFolder);

  const start = async (port: number): Promise<number> => {
    await configure(home, {
      host: LOOPBACK,
      port,
      memoryMb: topology.memoryMb,
      maxConnections: topology.maxConnections,
      extra: topology.settings,
    });
    await machine.start(postgresUnit(embeddedUnit(shard), home, `${LOOPBACK}:${port}`));
    return port;
  };
  const wanted = shard === 0 ? topology.port : 0;
  if (wanted !== 0) await requirePort(wanted);
  const port =
    wanted === 0
      ? await onFreePort(LOOPBACK, () => choosePort(deployment, shard), start)
      : await start(wanted);
  const at = { host: LOOPBACK, port };
  if (isNew || !(await isProvisioned(deployment, at))) await provision(deployment, at);
  return {
    url: ownerUrl(deployment, at),
    members: [{ ...at, dataCentre: DATA_CENTRE }],
    name: deployment.database,
    maxConnections: topology.maxConnections,
    summary: `PostgreSQL ${home.binaries.version} on ${LOOPBACK}:${port}${isNew ? ', new' : ''}`,
  };
}

/** Where a shard's server has its data. */
function embeddedFolder({ paths }: Deployment, shard: number): string {
  return shard === 0 ? paths.postgres : `${paths.postgres}-${shard + 1}`;
}

/** The port of the last time while it is free, so that tools that know it go on working. */
async function choosePort({ paths }: Deployment, shard: number): Promise<number> {
  try {
    const last = readRuntimeMap(paths.map).database.shards[shard]?.members[0];
    if (last?.host === LOOPBACK && (await isPortFree(last.port, LOOPBACK))) return last.port;
  } catch {
    // No map yet, or a damaged one: any port will do.
  }
  return freePort(LOOPBACK);
}

async function requirePort(port: number): Promise<void> {
  if (await isPortFree(port, LOOPBACK)) return;
  throw new PortInUse(
    port,
    LOOPBACK,
    await portHolder(port),
    'Stop what uses it, or set `database.port` to another one (0 for any that is free)',
  );
}

async function requireSpace(folder: string, neededMb: number): Promise<void> {
  const { bavail, bsize } = await statfs(folder);
  const freeMb = Math.floor((bavail * bsize) / 1024 / 1024);
  if (freeMb < neededMb) throw new DiskFull(folder, freeMb, neededMb);
}

/** Puts a server's data aside, which has been stopped: one copy is kept, whatever a move may have missed. */
export async function retireEmbedded(deployment: Deployment, shard = 0): Promise<void> {
  const folder = embeddedFolder(deployment, shard);
  const data = await realpath(folder).catch(() => undefined);
  // A link to where the account can come by is made anew by the next first start.
  if (data !== folder) await rm(folder, { force: true, recursive: true });
  if (!data) return;
  const old = `${data}.old`;
  await rm(old, { recursive: true, force: true });
  await rename(data, old);
}
