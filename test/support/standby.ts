/**
 * A primary and a hot standby that follows it, of Debian's PostgreSQL 15, for a test file:
 *
 *     const pair = await StandbyPair.start();   // in beforeAll; remove() in afterAll
 *     await pair.caughtUp();                    // what was written to the primary is on the standby
 *
 * Streaming replication by `pg_basebackup`, which the npm package does not bring.
 */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { appendFile, chmod, chown, mkdir, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import pg from 'pg';
import { unprivilegedAccount } from '../../src/engines/account.ts';
import { ENGINES } from '../../src/engines/engines.ts';
import { type PostgresHome, postgresUnit, SUPERUSER } from '../../src/engines/postgres.ts';
import { freePort } from '../../src/machines/free-port.ts';
import { LocalMachine } from '../../src/machines/local.ts';
import { temporaryFolder } from './deployment.ts';
import { until } from './until.ts';

const HOST = '127.0.0.1';
const BINARIES = '/usr/lib/postgresql/15/bin';

export class StandbyPair {
  readonly primary: pg.Pool;
  readonly standby: pg.Pool;
  readonly #folder: string;
  readonly #machine: LocalMachine;
  readonly #pools: pg.Pool[] = [];

  private constructor(folder: string, machine: LocalMachine, primary: pg.Pool, standby: pg.Pool) {
    this.#folder = folder;
    this.#machine = machine;
    this.primary = this.#adopt(primary);
    this.standby = this.#adopt(standby);
  }

  static async start(): Promise<StandbyPair> {
    const folder = temporaryFolder();
    const account = process.getuid?.() === 0 ? unprivilegedAccount() : undefined;
    const machine = new LocalMachine({
      recordsFolder: path.join(folder, 'records'),
      logFolder: path.join(folder, 'logs'),
      logLimits: { maxFileMb: 1, keepFiles: 1 },
      engines: ENGINES,
    });
    const run = (program: string, args: string[], password?: string) =>
      promisify(execFile)(path.join(BINARIES, program), args, {
        ...account,
        cwd: '/',
        env: { PATH: process.env.PATH, LC_ALL: 'C', TZ: 'UTC', PGPASSWORD: password },
      });
    const start = async (name: string, dataFolder: string, port: number) => {
      // The last line counts: the standby's copy of the file has the primary's port before it.
      await appendFile(path.join(dataFolder, 'postgresql.conf'), `port = ${port}\n`);
      const binaries = {
        folder: path.dirname(BINARIES),
        postgres: path.join(BINARIES, 'postgres'),
        initdb: path.join(BINARIES, 'initdb'),
        version: '15',
        major: 15,
      };
      const home: PostgresHome = { dataFolder, binaries, account };
      await machine.start(postgresUnit(name, home, `${HOST}:${port}`));
    };
    try {
      const data = path.join(folder, 'data');
      const password = randomBytes(16).toString('hex');
      const passwordFile = path.join(data, 'password');
      await chmod(folder, 0o711);
      await mkdir(data);
      await writeFile(passwordFile, password, { mode: 0o600 });
      for (const owned of account ? [data, passwordFile] : []) {
        await chown(owned, account!.uid, account!.gid);
      }
      const [one, two] = [path.join(data, 'primary'), path.join(data, 'standby')];
      const [portOne, portTwo] = [await freePort(HOST), await freePort(HOST)];
      await run('initdb', [
        `--pgdata=${one}`,
        `--username=${SUPERUSER}`,
        `--pwfile=${passwordFile}`,
        '--auth=scram-sha-256',
        '--encoding=UTF8',
        '--locale=C.UTF-8',
      ]);
      await appendFile(path.join(one, 'postgresql.conf'), CONFIGURATION);
      await start('primary', one, portOne);
      const connection = ['-h', HOST, '-p', String(portOne), '-U', SUPERUSER];
      const copy = ['-D', two, '-R', '-X', 'stream', '--checkpoint=fast'];
      await run('pg_basebackup', [...connection, ...copy], password);
      await start('standby', two, portTwo);
      const pool = (port: number) =>
        new pg.Pool({ host: HOST, port, user: SUPERUSER, password, database: 'postgres', max: 4 });
      return new StandbyPair(folder, machine, pool(portOne), pool(portTwo));
    } catch (error) {
      await machine.stopAll();
      await rm(folder, { recursive: true, force: true });
      throw error;
    }
  }

  /** To another database of the primary, or of the standby. Ended by `remove`. */
  poolTo(database: string, where: 'primary' | 'standby' = 'primary'): pg.Pool {
    const { host, port, user, password } = this[where].options;
    return this.#adopt(new pg.Pool({ host, port, user, password, database, max: 4 }));
  }

  /** Its connections may hear of the server's end while they end themselves, which is no error. */
  #adopt(pool: pg.Pool): pg.Pool {
    pool.on('error', () => {});
    this.#pools.push(pool);
    return pool;
  }

  /** Waits until the standby has replayed what the primary has written so far. */
  async caughtUp(): Promise<void> {
    const { rows } = await this.primary.query<{ lsn: string }>(
      'select pg_current_wal_lsn() as lsn',
    );
    await until(
      async () => {
        const answer = await this.standby.query<{ there: boolean }>(
          'select pg_last_wal_replay_lsn() >= $1 as there',
          [rows[0]?.lsn],
        );
        return answer.rows[0]?.there;
      },
      { what: 'the standby has caught up' },
    );
  }

  async remove(): Promise<void> {
    await Promise.all(this.#pools.map(pool => pool.end()));
    await this.#machine.stopAll();
    await rm(this.#folder, { recursive: true, force: true });
  }
}

/** Durability is not what is tried with it. */
const CONFIGURATION = `
listen_addresses = '${HOST}'
unix_socket_directories = ''
fsync = off
shared_buffers = 32MB
max_connections = 30
max_prepared_transactions = 5
hot_standby = on
log_min_messages = panic
log_min_error_statement = panic
`;
