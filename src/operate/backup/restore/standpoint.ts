/**
 * From where a restore works: through the supervisor of a deployment that is up, or, when it cannot come up without its
 * database, in its place, under its lock.
 */
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { ENGINES } from '../../../engines/engines.ts';
import type { DatabaseNode } from '../../../engines/patroni-config.ts';
import { BanyanError } from '../../../errors.ts';
import { LocalMachine } from '../../../machines/local.ts';
import { lockHolder, takeLock } from '../../../machines/lock.ts';
import type { Machine } from '../../../machines/unit.ts';
import { ControlClient, NotRunning } from '../../control/client.ts';
import { ClusterHome } from '../../database/cluster-home.ts';
import { type ClusterRecord, readDatabaseRecord } from '../../database/record.ts';
import { type Deployment, type DeploymentPaths, existingDeployment } from '../../deployment.ts';
import { primaryNow } from '../keeper.ts';
import type { Repository } from '../repository.ts';

export class NothingToBackUp extends BanyanError {
  constructor(where: string, isReplicated: boolean) {
    super('NO_BACKUPS_MADE', {
      what: isReplicated
        ? 'No backups are made of this database'
        : 'No backups are made of a single server from npm: pgBackRest works with the PostgreSQL of replicated servers',
      where,
      remedy: `Write ${isReplicated ? '`backup: {}`' : '`replicas: 1, backup: {}`'} under \`database\` in banyan.config.ts, and run \`banyan apply\`${isReplicated ? '' : ', which moves there online'}`,
    });
  }
}

export interface Standpoint {
  machine: Machine;
  deployment: Deployment;
  home: ClusterHome;
  record: ClusterRecord;
  repository: Repository;
  /** The supervisor runs: servers are started again. Otherwise `banyan up` does it. */
  isUp: boolean;
  /** Who takes writes at this moment. */
  primary: { node: DatabaseNode; timeline: number } | undefined;
}

export class RestoreUnderWay extends BanyanError {
  constructor(pid: number) {
    super('RESTORE_UNDER_WAY', {
      what: 'Another restore is under way',
      where: `pid ${pid}`,
      remedy: 'Wait for it to end; `banyan status` shows how the servers fare',
    });
  }
}

/** Who restores at this moment; undefined when nobody does. */
export function restoreLock({ run }: DeploymentPaths): string {
  return path.join(run, 'restore.lock');
}

/**
 * For what only looks: nothing is ended, nobody is kept out.
 * @throws NotRunning, NothingToBackUp, BackrestMissing, RepositoryUnusable
 */
export async function lookFrom<T>(
  paths: DeploymentPaths,
  command: string,
  body: (at: Omit<Standpoint, 'machine'>) => Promise<T>,
): Promise<T> {
  const base = await openAll(paths, command);
  const isUp = (await lockHolder(paths.lock)) !== undefined;
  const primary = isUp ? await primaryNow(base.home, base.record) : undefined;
  return body({ ...base, isUp, primary });
}

/**
 * For what changes something: one at a time.
 * @throws RestoreUnderWay, NotRunning, NothingToBackUp, BackrestMissing, RepositoryUnusable
 */
export async function withStandpoint<T>(
  paths: DeploymentPaths,
  command: string,
  body: (at: Standpoint) => Promise<T>,
): Promise<T> {
  const base = await openAll(paths, command);
  const other = await lockHolder(restoreLock(paths));
  if (other) throw new RestoreUnderWay(other.pid);
  await mkdir(paths.run, { recursive: true, mode: 0o700 });
  const leave = await takeLock(restoreLock(paths));
  try {
    return await enter(paths, base, body);
  } finally {
    leave();
  }
}

type Opened = Pick<Standpoint, 'deployment' | 'home' | 'record' | 'repository'>;

async function openAll(paths: DeploymentPaths, command: string): Promise<Opened> {
  const deployment = existingDeployment(paths);
  if (!deployment) throw new NotRunning(paths.app);
  const found = readDatabaseRecord(paths);
  const record = found?.serving === 'cluster' ? found.cluster : undefined;
  if (!record?.settings.backup) throw new NothingToBackUp(command, record !== undefined);
  const home = await ClusterHome.open(deployment);
  const repository = (await home.repository(record.settings))!;
  return { deployment, home, record, repository };
}

async function enter<T>(
  paths: DeploymentPaths,
  base: Opened,
  body: (at: Standpoint) => Promise<T>,
): Promise<T> {
  // Asked from the lock, not from the supervisor: to tell how everything fares takes it long when nothing answers.
  if (await lockHolder(paths.lock)) {
    const client = new ControlClient(paths.socket, paths.app);
    const primary = await primaryNow(base.home, base.record);
    return body({ ...base, machine: client, isUp: true, primary });
  }
  const release = await takeLock(paths.lock);
  const machine = new LocalMachine({
    recordsFolder: paths.records,
    logFolder: paths.logs,
    logLimits: { maxFileMb: 10, keepFiles: 5 },
    engines: ENGINES,
  });
  try {
    // Else a server that outlived its supervisor would still write.
    await machine.endLeftovers();
    return await body({ ...base, machine, isUp: false, primary: undefined });
  } finally {
    await machine.stopAll();
    release();
  }
}
