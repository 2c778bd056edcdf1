/**
 * From where a restore works: through the supervisor of a deployment that is up, or, when it cannot come up without its
 * database, in its place, under its lock.
 */
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

/** @throws NotRunning, NothingToBackUp, BackrestMissing, RepositoryUnusable */
export async function withStandpoint<T>(
  paths: DeploymentPaths,
  command: string,
  body: (at: Standpoint) => Promise<T>,
): Promise<T> {
  const deployment = existingDeployment(paths);
  if (!deployment) throw new NotRunning(paths.app);
  const found = readDatabaseRecord(paths);
  const record = found?.serving === 'cluster' ? found.cluster : undefined;
  if (!record?.settings.backup) throw new NothingToBackUp(command, record !== undefined);
  const home = await ClusterHome.open(deployment);
  const repository = (await home.repository(record.settings))!;
  const client = new ControlClient(paths.socket, paths.app);
  const base = { deployment, home, record, repository };
  // Asked from the lock, not from the supervisor: to tell how everything fares takes it long when nothing answers.
  if (await lockHolder(paths.lock)) {
    const primary = await primaryNow(home, record);
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
