/**
 * A real PostgreSQL for a test file, in one line:
 *
 *     const postgres = await TestPostgres.start();   // in beforeAll; remove() in afterAll
 *     const pool = await postgres.pool();            // to an empty database of its own
 *
 * It runs as in production: the same engine and machine code, on a port that was free, which it keeps
 * through `stop`, `kill` and `start`. `remove` leaves nothing behind.
 */
import { randomBytes } from 'node:crypto';
import { rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import pg from 'pg';
import { ENGINES } from '../../src/engines/engines.ts';
import {
  clearPidFile,
  configure,
  initialise,
  type PostgresHome,
  postgresUnit,
  SUPERUSER,
  settle,
} from '../../src/engines/postgres.ts';
import { freePort } from '../../src/machines/free-port.ts';
import { LocalMachine } from '../../src/machines/local.ts';
import { temporaryFolder } from './deployment.ts';
import { compileOwnClock, withOwnClock } from './own-clock.ts';
import { until } from './until.ts';

const HOST = '127.0.0.1';
const PASSWORD = randomBytes(16).toString('hex');

export interface TestPostgresOptions {
  /** `setClock` works. */
  ownClock?: boolean;
}

export class TestPostgres {
  readonly host = HOST;
  #port = 0;
  readonly #folder: string;
  readonly #home: PostgresHome;
  #machine: LocalMachine | undefined;
  readonly #pools: pg.Pool[] = [];
  readonly #ownClock: boolean;
  #databases = 0;

  private constructor(folder: string, home: PostgresHome, ownClock: boolean) {
    this.#folder = folder;
    this.#home = home;
    this.#ownClock = ownClock;
  }

  static async start({ ownClock = false }: TestPostgresOptions = {}): Promise<TestPostgres> {
    const folder = temporaryFolder();
    try {
      const home = await settle(path.join(folder, 'postgres'), path.basename(folder));
      await initialise(home, PASSWORD);
      const postgres = new TestPostgres(folder, home, ownClock);
      if (ownClock) {
        compileOwnClock(postgres.#beside('own-clock.so'));
        await postgres.setClock(0);
      }
      await postgres.start();
      return postgres;
    } catch (error) {
      await rm(folder, { recursive: true, force: true });
      throw error;
    }
  }

  get port(): number {
    return this.#port;
  }

  /** In the folder that PostgreSQL's account may enter. */
  #beside(name: string): string {
    return path.join(path.dirname(this.#home.dataFolder), name);
  }

  /**
   * What time it is for the server, from now on: `3600`, in seconds, is an hour later than here. Its monotonic clock goes on
   * as it did, as on a machine whose clock is set. Within a second it is so.
   */
  async setClock(offset: number): Promise<void> {
    await writeFile(this.#beside('clock'), `${offset}\n`);
  }

  /** The superuser's URL to a database. */
  url(database = 'postgres'): string {
    return `postgres://${SUPERUSER}:${PASSWORD}@${HOST}:${this.#port}/${database}`;
  }

  /** @returns the URL of a new, empty database */
  async database(): Promise<string> {
    const name = `test_${++this.#databases}`;
    const client = new pg.Client({ connectionString: this.url() });
    await client.connect();
    await client.query(`create database ${name}`);
    await client.end();
    return this.url(name);
  }

  /** A plain pool, to a new database unless a URL is given. Ended by `remove`. */
  async pool(options: pg.PoolConfig = {}): Promise<pg.Pool> {
    const connectionString = options.connectionString ?? (await this.database());
    return this.adopt(new pg.Pool({ ...options, connectionString }));
  }

  /** Takes charge of a pool made elsewhere: it is ended by `remove`. */
  adopt<P extends pg.Pool>(pool: P): P {
    pool.on('error', () => {});
    this.#pools.push(pool);
    return pool;
  }

  /** Starts it, on the port that it had before. */
  async start(): Promise<void> {
    this.#port ||= await freePort(HOST);
    await configure(this.#home, {
      host: HOST,
      port: this.#port,
      memoryMb: 64,
      maxConnections: 100,
      extra: {},
    });
    // The backends of a killed server need a moment to notice, and hold on to its memory until then.
    await until(() => this.#tryStart(), { what: 'PostgreSQL starts' });
  }

  /** Stops it in an orderly way; sessions get 57P01. */
  async stop(): Promise<void> {
    await this.#machine?.stopAll();
    this.#machine = undefined;
  }

  /** SIGKILL: no goodbye to anyone. It stays down. */
  async kill(): Promise<void> {
    const pid = (await this.#machine?.states())?.[0]?.pid;
    if (pid === undefined) throw new Error('PostgreSQL does not run');
    process.kill(pid, 'SIGKILL');
    await this.stop();
  }

  async remove(): Promise<void> {
    await Promise.all(this.#pools.map(pool => (pool.ending ? undefined : pool.end())));
    await this.stop();
    if (!this.#home.dataFolder.startsWith(this.#folder)) {
      await rm(path.dirname(this.#home.dataFolder), { recursive: true, force: true });
    }
    await rm(this.#folder, { recursive: true, force: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.remove();
  }

  async #tryStart(): Promise<boolean> {
    await clearPidFile(this.#home.dataFolder);
    const machine = new LocalMachine({
      recordsFolder: path.join(this.#folder, 'records'),
      logFolder: path.join(this.#folder, 'logs'),
      logLimits: { maxFileMb: 1, keepFiles: 1 },
      engines: ENGINES,
    });
    try {
      const unit = postgresUnit('postgres-1', this.#home, `${HOST}:${this.#port}`);
      await machine.start(
        this.#ownClock
          ? withOwnClock(unit, this.#beside('own-clock.so'), this.#beside('clock'))
          : unit,
      );
      this.#machine = machine;
      return true;
    } catch (error) {
      await machine.stopAll();
      throw error;
    }
  }
}
