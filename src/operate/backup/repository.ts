/**
 * The repository: backups and the log since the oldest of them, by pgBackRest.
 *
 * Holds true here:
 * - One stanza, pgBackRest's word for one database with its history: the deployment's id. A database that is made anew
 *   (another system identifier) goes on in it beside the older one.
 * - All of it belongs to the database's account and is for it alone.
 */
import { chmod, chown, mkdir, readdir, stat } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { parseHistory, type TimelineHistory } from '../../app/database/timelines.ts';
import { deriveKeyFrom } from '../../app/environment.ts';
import { canReach, SYSTEM_FOLDER, settleFolder } from '../../engines/account.ts';
import type { DatabaseNode } from '../../engines/patroni-config.ts';
import { dataFolderOf } from '../../engines/patroni-config.ts';
import { BackrestFailed, findBackrest, runBackrest } from '../../engines/pgbackrest.ts';
import {
  archiveCommandOf,
  renderArchiveScript,
  renderBackrestConfig,
  restoreCommandOf,
} from '../../engines/pgbackrest-config.ts';
import { parseInfo, percentOf, type RepositoryInfo } from '../../engines/pgbackrest-info.ts';
import { SUPERUSER } from '../../engines/postgres.ts';
import { BanyanError } from '../../errors.ts';
import type { Account } from '../../machines/unit.ts';
import { writeFileAtomic } from '../../map/atomic-file.ts';
import type { CompleteBackup } from '../../topology/complete.ts';
import type { Deployment } from '../deployment.ts';
import { historyName } from './log-files.ts';

/** "missing file" and "missing stanza", src/common/error.auto.c of pgBackRest. */
const FILE_MISSING = 55;
/** The stanza is of another database: of another system identifier or version. */
const BACKUP_MISMATCH = 28;
/** The stanza was made for another database; told by stanza-create. */
const FILE_INVALID = 40;

/** What is told to the user's disk in the end is the account's alone. */
const PRIVATE = 0o700;

export class RepositoryUnusable extends BanyanError {
  constructor(folder: string, why: string, uid: number | undefined) {
    super('REPOSITORY_UNUSABLE', {
      what: `The folder for backups cannot be used: ${why}`,
      where: folder,
      remedy: `Name another in \`database.backup.repository\`, or give it to the database's account${uid === undefined ? '' : `: chown -R ${uid} ${folder}`}`,
    });
  }
}

export interface BackupProgress {
  /** 0 to 100. */
  percent?: (percent: number) => void;
  signal?: AbortSignal;
}

export type BackupType = 'full' | 'incr';

/** Where a cluster lives, as far as it counts here. */
interface Home {
  folder: string;
  account: Account | undefined;
}

export class Repository {
  readonly folder: string;
  readonly stanza: string;
  readonly archiveCommand: string;
  readonly settings: CompleteBackup;
  readonly #config: string;
  readonly #account: Account | undefined;
  readonly #password: string;

  private constructor(
    folder: string,
    config: string,
    script: string,
    { id, secrets }: Deployment,
    account: Account | undefined,
    settings: CompleteBackup,
  ) {
    this.folder = folder;
    this.stanza = id;
    this.settings = settings;
    this.archiveCommand = archiveCommandOf(script);
    this.#config = config;
    this.#account = account;
    this.#password = secrets.superuserPassword;
  }

  /** Makes its folder and pgBackRest's files. @throws BackrestMissing, RepositoryUnusable */
  static async open(
    deployment: Deployment,
    home: Home,
    settings: CompleteBackup,
  ): Promise<Repository> {
    const program = findBackrest();
    const { account } = home;
    const folder = await place(deployment, account, settings);
    const work = path.join(home.folder, 'backup');
    for (const each of [work, path.join(work, 'lock'), path.join(work, 'spool')]) {
      await mkdir(each, { recursive: true, mode: PRIVATE });
      if (account) await chown(each, account.uid, account.gid);
    }
    const config = path.join(work, 'pgbackrest.conf');
    // pgBackRest wants to see its name in PostgreSQL's `archive_command`.
    const script = path.join(work, 'pgbackrest-push');
    const passphrase = settings.encrypt
      ? deriveKeyFrom(deployment.secrets.application, 'backup-repository', 32).toString('base64url')
      : undefined;
    const text = renderBackrestConfig({
      repository: folder,
      keep: settings.keep,
      backlogMb: settings.backlogMb,
      passphrase,
      workFolder: work,
      processes: Math.max(1, Math.min(4, Math.floor(availableParallelism() / 2))),
    });
    for (const [file, content, mode] of [
      [config, text, 0o600],
      [script, renderArchiveScript(program, config, deployment.id), PRIVATE],
    ] as const) {
      await writeFileAtomic(file, content, mode);
      if (account) await chown(file, account.uid, account.gid);
    }
    return new Repository(folder, config, script, deployment, account, settings);
  }

  async info(): Promise<RepositoryInfo> {
    return parseInfo(await this.#run(['info', '--output=json']));
  }

  /** Makes the repository ready for this database, unless it is. @param node its primary */
  async ensureStanza(node: DatabaseNode): Promise<void> {
    try {
      await this.#run(['stanza-create', ...optionsFor(node)], { env: this.#access(node) });
    } catch (error) {
      // Another database was here before: its backups stay.
      if (!isFailure(error, BACKUP_MISMATCH, FILE_INVALID)) throw error;
      await this.#run(['stanza-upgrade', ...optionsFor(node)], { env: this.#access(node) });
    }
  }

  /**
   * Makes a backup of what the primary has now, and deletes those that are not to be kept any more.
   * @throws BackupUnderWay, BackrestFailed
   */
  async backup(
    node: DatabaseNode,
    type: BackupType,
    { percent, signal }: BackupProgress = {},
  ): Promise<void> {
    await this.#run(
      ['backup', `--type=${type}`, '--log-level-console=detail', ...optionsFor(node)],
      { env: this.#access(node), signal, onLine: reporting(percent) },
    );
  }

  /**
   * Puts a backup's files into a folder that is not there yet or empty.
   * @throws BackrestFailed
   */
  async restoreInto(
    dataFolder: string,
    label: string,
    { percent, signal }: BackupProgress = {},
  ): Promise<void> {
    await this.#run(
      [
        'restore',
        `--set=${label}`,
        // What it recovers to, whoever starts it says.
        '--type=none',
        '--log-level-console=detail',
        `--pg1-path=${dataFolder}`,
      ],
      { signal, onLine: reporting(percent) },
    );
  }

  /** For the server's `restore_command`. */
  restoreCommand(dataFolder: string): string {
    return restoreCommandOf(findBackrest(), this.#config, this.stanza, dataFolder);
  }

  /**
   * Archives a file of a server's log. One that is there with the same content is left.
   * @throws BackrestFailed also when it is there with another content
   */
  async push(dataFolder: string, name: string): Promise<void> {
    const file = path.join(dataFolder, 'pg_wal', name);
    await this.#run([`--pg1-path=${dataFolder}`, 'archive-push', file]);
  }

  /** Names of the log's files in the repository, without what compression and checksum add. @param from the first segment */
  async archived(archiveId: string, from = ''): Promise<string[]> {
    const root = `archive/${this.stanza}/${archiveId}`;
    const top = await this.#list(root);
    const [, fromNumber = ''] = /^.{8}(.{8})/.exec(from) ?? [];
    const files: string[] = [];
    for (const name of top) {
      // A folder for each 4 GB of a timeline's log; those before are not looked at.
      if (!/^[0-9A-F]{16}$/.test(name)) files.push(name);
      else if (name.slice(8) >= fromNumber) files.push(...(await this.#list(`${root}/${name}`)));
    }
    return files.map(name => name.replace(/-[0-9a-f]{40}(\.\w+)?$/, ''));
  }

  /** Of a timeline; none for the first. @throws BackrestFailed when it is not there */
  async history(archiveId: string, timeline: number): Promise<TimelineHistory> {
    if (timeline <= 1) return [];
    const name = historyName(timeline);
    return parseHistory(
      await this.#run(['repo-get', `archive/${this.stanza}/${archiveId}/${name}`]),
    );
  }

  async #list(folder: string): Promise<string[]> {
    try {
      const answer = await this.#run(['repo-ls', '--output=json', folder]);
      return Object.keys(JSON.parse(answer) as object).filter(name => name !== '.');
    } catch (error) {
      if (isFailure(error, FILE_MISSING)) return [];
      throw error;
    }
  }

  #run(
    args: string[],
    more: {
      env?: NodeJS.ProcessEnv;
      signal?: AbortSignal | undefined;
      onLine?: ((line: string) => void) | undefined;
    } = {},
  ): Promise<string> {
    return runBackrest({
      config: this.#config,
      stanza: this.stanza,
      account: this.#account,
      args,
      ...more,
    });
  }

  /** It speaks to PostgreSQL through libpq, which reads these. */
  #access({ host }: DatabaseNode): NodeJS.ProcessEnv {
    return { PGHOST: host, PGPASSWORD: this.#password, PGCONNECT_TIMEOUT: '5' };
  }
}

function optionsFor(node: DatabaseNode): string[] {
  return [
    `--pg1-path=${dataFolderOf(node)}`,
    `--pg1-port=${node.port}`,
    `--pg1-user=${SUPERUSER}`,
    '--pg1-database=postgres',
  ];
}

function reporting(percent: BackupProgress['percent']): ((line: string) => void) | undefined {
  if (!percent) return undefined;
  let last = -1;
  return line => {
    const now = percentOf(line);
    if (now === undefined || Math.floor(now) <= last) return;
    last = Math.floor(now);
    percent(now);
  };
}

function isFailure(error: unknown, ...numbers: number[]): boolean {
  return error instanceof BackrestFailed && numbers.includes(error.number);
}

/** @returns the repository's folder, which is there then and belongs to the account */
async function place(
  { paths, id }: Deployment,
  account: Account | undefined,
  { repository }: CompleteBackup,
): Promise<string> {
  const folder = repository
    ? path.resolve(paths.app, repository)
    : await settleFolder(paths.backups, path.join(SYSTEM_FOLDER, id, 'backups'), account);
  try {
    await mkdir(folder, { recursive: true, mode: PRIVATE });
    const { uid } = await stat(folder);
    // Somebody's folder with something in it is not taken away from him.
    if (account && uid !== account.uid && (await readdir(folder)).length === 0) {
      await chown(folder, account.uid, account.gid);
      await chmod(folder, PRIVATE);
    }
  } catch (error) {
    throw new RepositoryUnusable(folder, (error as Error).message, account?.uid);
  }
  const { uid, mode } = await stat(folder);
  const own = account?.uid ?? process.getuid?.();
  if (own !== undefined && uid !== own) {
    throw new RepositoryUnusable(folder, `it belongs to uid ${uid}`, own);
  }
  if ((mode & 0o077) !== 0) await chmod(folder, PRIVATE);
  if (account && !canReach(account, folder)) {
    throw new RepositoryUnusable(folder, `uid ${account.uid} cannot come by there`, account.uid);
  }
  return folder;
}
