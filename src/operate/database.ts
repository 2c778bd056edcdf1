/**
 * Brings the database of rung 1 up: the embedded PostgreSQL as a unit, or an external one as it is.
 */
import { statfs } from 'node:fs/promises';
import path from 'node:path';
import pg from 'pg';
import {
  clearPidFile,
  configure,
  dataVersion,
  initialise,
  postgresUnit,
  SUPERUSER,
  settle,
} from '../engines/postgres.ts';
import { BanyanError, hasCode } from '../errors.ts';
import { freePort, isPortFree, onFreePort, PortInUse, portHolder } from '../machines/free-port.ts';
import type { LocalMachine } from '../machines/local.ts';
import { readRuntimeMap } from '../map/map-file.ts';
import type { CompleteTopology } from '../topology/defaults.ts';
import type { Deployment } from './deployment.ts';

/** A database that serves. */
export interface RunningDatabase {
  /** For the application: the owner's credentials. A secret. */
  url: string;
  host: string;
  port: number;
  /** The database's name. */
  name: string;
  /** How many connections it allows. */
  maxConnections: number;
  /** For people: `PostgreSQL 18.4 on 127.0.0.1:40123`. */
  summary: string;
}

const LOOPBACK = '127.0.0.1';

/** A new cluster takes 40 MB and its first log segments; a running one must be able to start a few more. */
const FIRST_START_MB = 200;
const WARM_START_MB = 64;

const CONNECT_TIMEOUT_MS = 5_000;

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

export class ExternalDatabaseUnreachable extends BanyanError {
  constructor(where: string, cause: Error) {
    super('EXTERNAL_DATABASE_UNREACHABLE', {
      what: `The database that the topology names cannot be used: ${cause.message || String(cause)}`,
      where,
      remedy:
        'Check `database.url`: host, port, user, password and database name; remove it to let Banyan run PostgreSQL',
      cause,
    });
  }
}

/** @throws ExternalDatabaseUnreachable */
export async function useExternalDatabase(url: string): Promise<RunningDatabase> {
  const { hostname, port, pathname } = new URL(url);
  const where = { host: hostname || 'localhost', port: Number(port || 5432) };
  const client = new pg.Client({
    connectionString: url,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
  });
  client.on('error', () => {});
  try {
    await client.connect();
    const { rows } = await client.query<{ version: string; name: string; allowed: number }>(
      `select current_setting('server_version') as version, current_database() as name,
              current_setting('max_connections')::int as allowed`,
    );
    const { version, name, allowed } = rows[0]!;
    return {
      url,
      maxConnections: allowed,
      ...where,
      name: decodeURIComponent(pathname.slice(1)) || name,
      summary: `PostgreSQL ${version} on ${where.host}:${where.port}, not run by Banyan`,
    };
  } catch (error) {
    throw new ExternalDatabaseUnreachable(`${where.host}:${where.port}`, error as Error);
  } finally {
    await client.end().catch(() => {});
  }
}

/**
 * Starts the embedded PostgreSQL; makes its data, its role and its database when they are not there.
 * @throws DataVersionMismatch, DiskFull, PortInUse, InitFailed, UnitStartFailed
 */
export async function startEmbeddedDatabase(
  machine: LocalMachine,
  deployment: Deployment,
  topology: CompleteTopology['database'],
): Promise<RunningDatabase> {
  const home = await settle(deployment.paths.postgres, deployment.id);
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
    await machine.start(postgresUnit('postgres-1', home, `${LOOPBACK}:${port}`));
    return port;
  };
  if (topology.port !== 0) await requirePort(topology.port);
  const port =
    topology.port === 0
      ? await onFreePort(LOOPBACK, () => choosePort(deployment), start)
      : await start(topology.port);
  await provision(deployment, port, isNew);
  return {
    url: ownerUrl(deployment, port),
    host: LOOPBACK,
    port,
    name: deployment.database,
    maxConnections: topology.maxConnections,
    summary: `PostgreSQL ${home.binaries.version} on ${LOOPBACK}:${port}${isNew ? ', new' : ''}`,
  };
}

/** The application's own credentials: the role that owns the database, no superuser. */
export function ownerUrl({ database, secrets }: Deployment, port: number): string {
  return `postgres://${database}:${secrets.ownerPassword}@${LOOPBACK}:${port}/${database}`;
}

/** For operations alone. */
export function superuserUrl(
  { database, secrets }: Deployment,
  port: number,
  name = database,
): string {
  return `postgres://${SUPERUSER}:${secrets.superuserPassword}@${LOOPBACK}:${port}/${name}`;
}

/** The port of the last time while it is free, so that tools that know it go on working. */
async function choosePort({ paths }: Deployment): Promise<number> {
  try {
    const last = readRuntimeMap(paths.map).database.shards[0]?.members[0];
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

/**
 * Makes the owner's role and the database, unless the owner can connect already. Each statement leaves
 * what is there alone, so that a start that was cut short is completed by the next.
 */
async function provision(deployment: Deployment, port: number, isNew: boolean): Promise<void> {
  if (!isNew && (await canConnect(ownerUrl(deployment, port)))) return;
  const { database, secrets } = deployment;
  const client = new pg.Client({ connectionString: superuserUrl(deployment, port, 'postgres') });
  client.on('error', () => {});
  await client.connect();
  try {
    const name = pg.escapeIdentifier(database);
    const password = pg.escapeLiteral(secrets.ownerPassword);
    const role = await client.query('select from pg_roles where rolname = $1', [database]);
    await client.query(
      `${role.rowCount ? 'alter' : 'create'} role ${name} with login password ${password}`,
    );
    const found = await client.query('select from pg_database where datname = $1', [database]);
    if (!found.rowCount) await client.query(`create database ${name} owner ${name}`);
  } finally {
    await client.end();
  }
}

async function canConnect(url: string): Promise<boolean> {
  const client = new pg.Client({
    connectionString: url,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
  });
  client.on('error', () => {});
  try {
    await client.connect();
    return true;
  } catch (error) {
    // Wrong password, no such role, no such database: what provisioning mends.
    if (hasCode(error, '28P01', '28000', '3D000')) return false;
    throw error;
  } finally {
    await client.end().catch(() => {});
  }
}
