/**
 * A primary and hot standbys of Debian's PostgreSQL 15, each of which can be stopped, killed, frozen, promoted:
 *
 *     const cluster = await Cluster.start({ standbys: 2, synchronous: true });   // remove() in afterAll
 *     await cluster.members[1].pauseReplay();
 *     await cluster.caughtUp();
 *
 * Streaming replication by `pg_basebackup`, which the npm package does not bring.
 */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync } from 'node:fs';
import {
  appendFile,
  chmod,
  chown,
  mkdir,
  readdir,
  readFile,
  rm,
  writeFile,
} from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import pg from 'pg';
import { unprivilegedAccount } from '../../src/engines/account.ts';
import { ENGINES } from '../../src/engines/engines.ts';
import {
  clearPidFile,
  type PostgresHome,
  postgresUnit,
  SUPERUSER,
} from '../../src/engines/postgres.ts';
import { freePort } from '../../src/machines/free-port.ts';
import { LocalMachine } from '../../src/machines/local.ts';
import { temporaryFolder } from './deployment.ts';
import { until } from './until.ts';

const HOST = '127.0.0.1';
const BINARIES = '/usr/lib/postgresql/15/bin';

export interface ClusterOptions {
  /** Default: 1. */
  standbys?: number;
  /** A commit waits until one of the standbys has it on its disk. Default: false. */
  synchronous?: boolean;
}

export class ClusterMember {
  readonly name: string;
  readonly host = HOST;
  readonly port: number;
  readonly home: PostgresHome;
  readonly #folder: string;
  readonly #password: string;
  #machine: LocalMachine | undefined;

  constructor(name: string, port: number, home: PostgresHome, folder: string, password: string) {
    this.name = name;
    this.port = port;
    this.home = home;
    this.#folder = folder;
    this.#password = password;
  }

  /** The superuser's URL to a database. */
  url(database = 'postgres'): string {
    return `postgres://${SUPERUSER}:${this.#password}@${HOST}:${this.port}/${database}`;
  }

  /** One query over a connection of its own. */
  async ask<Row extends pg.QueryResultRow>(text: string, database?: string): Promise<Row[]> {
    const client = new pg.Client({ connectionString: this.url(database) });
    client.on('error', () => {});
    await client.connect();
    try {
      return (await client.query<Row>(text)).rows;
    } finally {
      await client.end();
    }
  }

  /** Starts it; the backends of a killed server need a moment before the next may have its memory. */
  async start(): Promise<void> {
    await until(
      async () => {
        await clearPidFile(this.home.dataFolder);
        const machine = new LocalMachine({
          recordsFolder: path.join(this.#folder, `records-${this.name}`),
          logFolder: path.join(this.#folder, 'logs'),
          logLimits: { maxFileMb: 1, keepFiles: 1 },
          engines: ENGINES,
        });
        try {
          await machine.start(postgresUnit(this.name, this.home, `${HOST}:${this.port}`));
          this.#machine = machine;
          return true;
        } catch (error) {
          await machine.stopAll();
          throw error;
        }
      },
      { what: `${this.name} starts` },
    );
  }

  /** Stops it in an orderly way. */
  async stop(): Promise<void> {
    await this.#machine?.stopAll();
    this.#machine = undefined;
  }

  /** SIGKILL to all its processes at once: a machine that lost its power. It stays down. */
  async kill(): Promise<void> {
    for (const pid of await this.processes()) signal(pid, 'SIGKILL');
    await this.stop();
  }

  /** All its processes stand still, and its connections stay open. */
  async freeze(): Promise<void> {
    for (const pid of await this.processes()) signal(pid, 'SIGSTOP');
  }

  async thaw(): Promise<void> {
    for (const pid of await this.processes()) signal(pid, 'SIGCONT');
  }

  async promote(): Promise<void> {
    await this.ask('select pg_promote(true, 60)');
  }

  async pauseReplay(): Promise<void> {
    await this.ask('select pg_wal_replay_pause()');
    // The request alone returns at once.
    await until(
      async () =>
        (await this.ask<{ state: string }>('select pg_get_wal_replay_pause_state() as state'))[0]
          ?.state === 'paused',
      { what: `${this.name} pauses` },
    );
  }

  async resumeReplay(): Promise<void> {
    await this.ask('select pg_wal_replay_resume()');
  }

  /** Its main process, and all that it has started. */
  async processes(): Promise<number[]> {
    const file = path.join(this.home.dataFolder, 'postmaster.pid');
    const postmaster = Number((await readFile(file, 'utf8')).split('\n')[0]);
    const all = (await readdir('/proc')).filter(name => /^\d+$/.test(name)).map(Number);
    return [postmaster, ...all.filter(pid => parentOf(pid) === postmaster)];
  }
}

export class Cluster {
  /** The first one was the primary at the start. */
  readonly members: ClusterMember[];
  readonly #folder: string;
  readonly #pools: pg.Pool[] = [];

  private constructor(members: ClusterMember[], folder: string) {
    this.members = members;
    this.#folder = folder;
  }

  static async start(options: ClusterOptions = {}): Promise<Cluster> {
    const { standbys = 1, synchronous = false } = options;
    const folder = temporaryFolder();
    const account = process.getuid?.() === 0 ? unprivilegedAccount() : undefined;
    const password = randomBytes(16).toString('hex');
    const members: ClusterMember[] = [];
    const run = (program: string, args: string[]) =>
      promisify(execFile)(path.join(BINARIES, program), args, {
        ...account,
        cwd: '/',
        env: { PATH: process.env.PATH, LC_ALL: 'C', TZ: 'UTC', PGPASSWORD: password },
      });
    try {
      const data = path.join(folder, 'data');
      const passwordFile = path.join(data, 'password');
      await chmod(folder, 0o711);
      await mkdir(data);
      await writeFile(passwordFile, password, { mode: 0o600 });
      for (const owned of account ? [data, passwordFile] : []) {
        await chown(owned, account!.uid, account!.gid);
      }
      const add = async (name: string) => {
        const binaries = {
          folder: path.dirname(BINARIES),
          postgres: path.join(BINARIES, 'postgres'),
          initdb: path.join(BINARIES, 'initdb'),
          version: '15',
          major: 15,
        };
        const home: PostgresHome = { dataFolder: path.join(data, name), binaries, account };
        const member = new ClusterMember(name, await freePort(HOST), home, folder, password);
        // The last line counts: a standby's copy of the file has the primary's port before it.
        await appendFile(
          path.join(home.dataFolder, 'postgresql.conf'),
          `port = ${member.port}\ncluster_name = '${name}'\n`,
        );
        members.push(member);
        await member.start();
        return member;
      };
      const one = path.join(data, 'member-0');
      await run('initdb', [
        `--pgdata=${one}`,
        `--username=${SUPERUSER}`,
        `--pwfile=${passwordFile}`,
        '--auth=scram-sha-256',
        '--encoding=UTF8',
        '--locale=C.UTF-8',
      ]);
      await appendFile(path.join(one, 'postgresql.conf'), CONFIGURATION);
      const primary = await add('member-0');
      for (let i = 1; i <= standbys; i++) {
        const connection = ['-h', HOST, '-p', String(primary.port), '-U', SUPERUSER];
        const copy = ['-D', path.join(data, `member-${i}`), '-R', '-X', 'stream'];
        await run('pg_basebackup', [...connection, ...copy, '--checkpoint=fast']);
        await add(`member-${i}`);
      }
      if (synchronous) {
        await primary.ask(`alter system set synchronous_standby_names = 'ANY 1 (*)'`);
        await primary.ask('select pg_reload_conf()');
      }
      return new Cluster(members, folder);
    } catch (error) {
      await Promise.all(members.map(member => member.stop()));
      await rm(folder, { recursive: true, force: true });
      throw error;
    }
  }

  get primary(): ClusterMember {
    return this.members[0]!;
  }

  get standbys(): ClusterMember[] {
    return this.members.slice(1);
  }

  /** A folder that goes with it. */
  newFolder(): string {
    return mkdtempSync(path.join(this.#folder, 'beside-'));
  }

  /** Takes charge of a pool made elsewhere: it is ended by `remove`. */
  adopt<P extends pg.Pool>(pool: P): P {
    // Connections may hear of the server's end while they end themselves, which is no error.
    pool.on('error', () => {});
    this.#pools.push(pool);
    return pool;
  }

  /** A plain pool to one member. Ended by `remove`. */
  poolTo(member: ClusterMember, database = 'postgres', max = 4): pg.Pool {
    return this.adopt(new pg.Pool({ connectionString: member.url(database), max }));
  }

  /** Waits until the standbys have replayed what the primary has written so far. */
  async caughtUp(standbys = this.standbys): Promise<void> {
    const [at] = await this.primary.ask<{ lsn: string }>('select pg_current_wal_lsn() as lsn');
    for (const standby of standbys) {
      await until(
        async () => {
          const [answer] = await standby.ask<{ there: boolean }>(
            `select pg_last_wal_replay_lsn() >= '${at!.lsn}' as there`,
          );
          return answer?.there;
        },
        { what: `${standby.name} has caught up` },
      );
    }
  }

  async remove(): Promise<void> {
    await Promise.all(this.members.map(member => member.thaw().catch(() => {})));
    await Promise.all(this.#pools.map(pool => (pool.ending ? undefined : pool.end())));
    await Promise.all(this.members.map(member => member.stop()));
    await rm(this.#folder, { recursive: true, force: true });
  }
}

function parentOf(pid: number): number | undefined {
  try {
    // The command's name, in brackets, may hold anything.
    const [, rest = ''] =
      /^\d+ \(.*\) (.*)$/s.exec(readFileSync(`/proc/${pid}/stat`, 'utf8')) ?? [];
    return Number(rest.split(' ')[1]);
  } catch {
    return undefined;
  }
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // It has gone by itself.
  }
}

/** Durability is not what is tried with it. */
const CONFIGURATION = `
listen_addresses = '${HOST}'
unix_socket_directories = ''
fsync = off
shared_buffers = 32MB
max_connections = 60
max_prepared_transactions = 40
hot_standby = on
wal_level = logical
log_min_messages = panic
log_min_error_statement = panic
`;
