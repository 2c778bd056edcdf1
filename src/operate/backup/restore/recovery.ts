/**
 * Recovery: PostgreSQL replays its log up to a moment and then begins a new timeline. It runs for that by itself,
 * without Patroni, on a port that nobody knows.
 *
 * Holds true here:
 * - When the moment is not reached, PostgreSQL ends with an error and the folder is not used: nobody claims a moment that
 *   the log does not have. (recovery ended before configured recovery target was reached, xlogrecovery.c)
 * - Nothing of it stays in the data folder's own configuration: a setting that was left there would make a replica stop
 *   at that moment one day.
 * - What the new timeline writes is archived by the server that is started on the folder later, not here: a
 *   recovery that is given up leaves no trace in the repository.
 */
import { chmod, chown, mkdir, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { clusterSettings } from '../../../engines/patroni-config.ts';
import { postgresUnit } from '../../../engines/postgres.ts';
import { BanyanError } from '../../../errors.ts';
import { freePort } from '../../../machines/free-port.ts';
import type { Machine } from '../../../machines/unit.ts';
import type { ClusterHome } from '../../database/cluster-home.ts';
import { withClient } from '../../database/provision.ts';
import type { ClusterRecord } from '../../database/record.ts';
import { superuserUrl } from '../../database/running.ts';
import type { Deployment } from '../../deployment.ts';
import type { Repository } from '../repository.ts';

export const RECOVERY_UNIT = 'restore-1';
const HOST = '127.0.0.1';
/** A log of days takes its time. */
const RECOVERY_TIMEOUT_MS = 24 * 3_600_000;

export type StopAt =
  /** As soon as the data agree with each other: what a backup is by itself. */
  { kind: 'consistent' } | { kind: 'time'; at: Date } | { kind: 'end' };

export interface Recovered {
  /** The new one. */
  timeline: number;
  /** The last commit that was replayed; undefined when there was none. */
  reachedAt: Date | undefined;
}

export class MomentNotReached extends BanyanError {
  constructor(wanted: Date, last: string | undefined) {
    super('MOMENT_NOT_REACHED', {
      what: `The log that can be read does not lead to ${wanted.toISOString()}: its last commit is of ${last ?? 'before the backup'}`,
      where: '--to',
      remedy: 'Nothing was changed. Take an earlier moment, or: --to latest',
    });
  }
}

export class RecoveryFailed extends BanyanError {
  constructor(cause: unknown) {
    const error = cause instanceof BanyanError ? cause : undefined;
    super('RECOVERY_FAILED', {
      what: `The restored database could not be brought up: ${error?.what ?? String(cause)}`,
      where: RECOVERY_UNIT,
      remedy: `The database that was before is as it was. See \`banyan logs ${RECOVERY_UNIT}\`; an earlier backup may serve (\`banyan backups\`)`,
      cause,
    });
  }
}

export interface Recovery {
  machine: Machine;
  deployment: Deployment;
  home: ClusterHome;
  record: ClusterRecord;
  repository: Repository;
  dataFolder: string;
  stopAt: StopAt;
  /** Whose course is followed; undefined: the highest. */
  timeline: number | undefined;
}

/** @throws MomentNotReached, RecoveryFailed */
export async function recover(recovery: Recovery): Promise<Recovered> {
  const { machine, deployment, home, dataFolder, stopAt } = recovery;
  const port = await freePort(HOST);
  const config = await writeConfig(recovery, port);
  const unit = postgresUnit(
    RECOVERY_UNIT,
    {
      dataFolder,
      account: home.account,
      binaries: {
        folder: path.dirname(home.postgres.bin),
        postgres: path.join(home.postgres.bin, 'postgres'),
        initdb: path.join(home.postgres.bin, 'initdb'),
        version: home.postgres.version,
        major: home.postgres.major,
      },
    },
    `${HOST}:${port}`,
  );
  await machine.stop(RECOVERY_UNIT);
  try {
    await machine.start({
      ...unit,
      args: [...unit.args, '-c', `config_file=${config}`],
      startTimeoutMs: RECOVERY_TIMEOUT_MS,
    });
    const at = { host: HOST, port };
    return await withClient(superuserUrl(deployment, at, deployment.database), async client => {
      const { rows } = await client.query<{ timeline: number; reached: Date | null }>(
        `select pg_last_xact_replay_timestamp() as reached,
                ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int as timeline`,
      );
      const { timeline, reached } = rows[0]!;
      return { timeline, reachedAt: reached ?? undefined };
    });
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    if (stopAt.kind === 'time' && /recovery ended before configured recovery target/.test(text)) {
      throw new MomentNotReached(
        stopAt.at,
        /last completed transaction was at log time (.+)/.exec(text)?.[1]?.trim(),
      );
    }
    throw new RecoveryFailed(error);
  } finally {
    await machine.stop(RECOVERY_UNIT);
    await rm(path.dirname(config), { recursive: true, force: true });
  }
}

async function writeConfig(
  { home, record, repository, dataFolder, stopAt, timeline }: Recovery,
  port: number,
): Promise<string> {
  const { parameters } = clusterSettings(record.settings, undefined).postgresql;
  const target: Record<string, string> =
    stopAt.kind === 'time'
      ? // Names of time zones, `Z` among them, are not known this early.
        { recovery_target_time: stopAt.at.toISOString().replace('T', ' ').replace('Z', '+00') }
      : stopAt.kind === 'consistent'
        ? { recovery_target: 'immediate' }
        : {};
  const values: Record<string, string | number | boolean> = {
    ...parameters,
    listen_addresses: HOST,
    port,
    unix_socket_directories: '',
    // Nobody reads meanwhile; with it, settings would have to be as large as they were when the log was written.
    hot_standby: 'off',
    shared_preload_libraries: '',
    archive_command: '',
    restore_command: repository.restoreCommand(dataFolder),
    recovery_target_timeline: timeline === undefined ? 'latest' : String(timeline),
    recovery_target_action: 'promote',
    ...target,
  };
  const folder = `${dataFolder}.recovery`;
  const config = path.join(folder, 'postgresql.conf');
  const hba = path.join(folder, 'pg_hba.conf');
  const text = Object.entries({ ...values, hba_file: hba, ident_file: '' })
    .map(([name, value]) => `${name} = '${String(value).replaceAll("'", "''")}'`)
    .join('\n');
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { mode: 0o700 });
  const files = [
    [config, `${text}\n`],
    [hba, `host all all ${HOST}/32 scram-sha-256\n`],
    [path.join(dataFolder, 'recovery.signal'), ''],
  ] as const;
  for (const [file, content] of files) await writeFile(file, content, { mode: 0o600 });
  for (const each of [folder, ...files.map(([file]) => file)]) {
    if (home.account) await chown(each, home.account.uid, home.account.gid);
  }
  await chmod(dataFolder, 0o700);
  return config;
}
