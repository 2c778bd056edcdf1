/**
 * `banyan up`: from a folder to a running deployment.
 *
 * The story: take the lock, end what an earlier supervisor left, check what can be checked, then
 * database, migrations, runtime map, web server, each when the one before is ready. When a step
 * fails, everything that was started is stopped again and the error tells why.
 */
import { EventEmitter } from 'node:events';
import type { Server } from 'node:http';
import { get } from 'node:http';
import path from 'node:path';
import { webServerUnit } from '../engines/web-server.ts';
import { BanyanError } from '../errors.ts';
import { freePort, isPortFree, PortInUse, portHolder } from '../machines/free-port.ts';
import { LocalMachine } from '../machines/local.ts';
import { takeLock } from '../machines/lock.ts';
import type { UnitState } from '../machines/unit.ts';
import type { UnitLogs } from '../machines/unit-log.ts';
import { publishRuntimeMap } from '../map/map-file.ts';
import type { RuntimeMap } from '../map/runtime-map.ts';
import type { CompleteTopology } from '../topology/defaults.ts';
import { applicationEnv } from './application-env.ts';
import { serveControl } from './control.ts';
import { type RunningDatabase, startEmbeddedDatabase, useExternalDatabase } from './database.ts';
import { type Deployment, DeploymentPaths, openDeployment } from './deployment.ts';
import { runMigrations } from './migrations.ts';
import { commandStartMs } from './start-clock.ts';
import type { Status } from './status.ts';

export type UpStep = 'leftovers' | 'database' | 'migrations' | 'web';

export interface UpEvents {
  /** A step begins. */
  begin: [step: UpStep, detail: string];
  /** A step is done, after `ms` milliseconds. */
  done: [step: UpStep, detail: string, ms: number];
  /** Everything serves. */
  ready: [summary: ReadySummary];
  unit: [UnitState];
  /** Something that is not an error and should be known. */
  note: [text: string];
}

export interface ReadySummary {
  address: string;
  /** From the command's first moment to readiness, in milliseconds. */
  readyMs: number;
  /** From the command's first moment to the first 200 from `/`; undefined when `/` answers otherwise. */
  firstPageMs: number | undefined;
}

export class Interrupted extends BanyanError {
  constructor() {
    super('INTERRUPTED', { what: 'The start was interrupted; everything was stopped again' });
  }
}

/** Where the local machine stands until there are data centres. */
const DATA_CENTRE = 'local';
const PORT_ATTEMPTS = 3;

/** One deployment and the supervisor that runs it. */
export class RunningDeployment extends EventEmitter<UpEvents> {
  readonly #topology: CompleteTopology;
  readonly #paths: DeploymentPaths;
  readonly #since = new Date();
  readonly #machine: LocalMachine;
  #releaseLock: (() => void) | undefined;
  #control: Server | undefined;
  #map: RuntimeMap | undefined;
  #database: RunningDatabase | undefined;
  #address = '';
  #starting: Promise<void> = Promise.resolve();
  #stopping: Promise<void> | undefined;
  readonly #stopped = Promise.withResolvers<void>();

  constructor(folder: string, topology: CompleteTopology) {
    super();
    this.#topology = topology;
    this.#paths = new DeploymentPaths(folder);
    this.#machine = new LocalMachine({
      recordsFolder: this.#paths.records,
      logFolder: this.#paths.logs,
      logLimits: topology.logs,
    });
    this.#machine.on('change', state => this.emit('unit', state));
    this.#machine.logs.on('trouble', error =>
      this.emit('note', `logs cannot be written and are shown here only: ${error.message}`),
    );
  }

  get logs(): UnitLogs {
    return this.#machine.logs;
  }

  /** Resolves when everything has been stopped, for whatever reason. */
  get stopped(): Promise<void> {
    return this.#stopped.promise;
  }

  /**
   * Starts everything. Call once.
   * @throws AlreadyRunning, PortInUse, DiskFull, UnitStartFailed, … after which nothing runs
   */
  async start(): Promise<void> {
    this.#starting = this.#startAll();
    try {
      await this.#starting;
    } catch (error) {
      const interrupted = this.#stopping !== undefined;
      await this.stop();
      throw interrupted ? new Interrupted() : error;
    }
  }

  /** Stops everything in the reverse order, letting requests in flight finish. May be called at any time. */
  stop(): Promise<void> {
    this.#stopping ??= this.#stopAll();
    return this.#stopping;
  }

  status(): Status {
    return {
      deployment: this.#topology.name,
      folder: this.#paths.app,
      address: this.#address,
      supervisor: process.pid,
      since: this.#since.toISOString(),
      epoch: this.#map?.epoch ?? 0,
      database: this.#database?.summary ?? 'starting',
      units: this.#machine.states(),
    };
  }

  async #startAll(): Promise<void> {
    const deployment = await openDeployment(this.#paths, this.#topology.name);
    this.#releaseLock = await takeLock(this.#paths.lock);
    await this.#endLeftovers();
    await this.#requireWebPort();
    this.#control = await serveControl(this.#paths.socket, {
      status: () => this.status(),
      stop: () => void this.stop(),
      logs: this.logs,
    });
    this.#database = await this.#startDatabase(deployment);
    const env = applicationEnv(deployment, this.#topology, this.#database.url);
    await this.#migrate(this.#database, env);
    this.#map = await this.#publishMap(this.#database);
    await this.#startWeb(env);
  }

  async #stopAll(): Promise<void> {
    try {
      await this.#machine.stopAll();
      // A start that was under way ends at its next step; the lock is ours until then.
      await this.#starting.catch(() => {});
    } finally {
      this.#control?.closeAllConnections();
      this.#control?.close();
      this.#releaseLock?.();
      this.#stopped.resolve();
    }
  }

  async #endLeftovers(): Promise<void> {
    const begun = performance.now();
    const ended = await this.#machine.endLeftovers();
    if (ended.length === 0) return;
    const detail = `an earlier supervisor was killed; stopped what it left: ${ended.join(', ')}`;
    this.emit('done', 'leftovers', detail, performance.now() - begun);
  }

  /** Asked before the database is started, so that a simple mistake costs no time. */
  async #requireWebPort(): Promise<void> {
    const { host, port } = this.#topology.web;
    if (port === 0 || (await isPortFree(port, host))) return;
    throw new PortInUse(
      port,
      host,
      await portHolder(port),
      'Stop what uses it, or choose another port with `banyan up --port 3001` or `web.port` in banyan.config.ts',
    );
  }

  #startDatabase(deployment: Deployment): Promise<RunningDatabase> {
    const { database } = this.#topology;
    return this.#step('database', 'starting PostgreSQL', async () => {
      if (!database.url && process.env.DATABASE_URL) {
        this.emit(
          'note',
          'DATABASE_URL in your environment is not used: Banyan runs a database of its own. To use yours, set `database: { url: process.env.DATABASE_URL }`',
        );
      }
      const running = database.url
        ? await useExternalDatabase(database.url)
        : await startEmbeddedDatabase(this.#machine, deployment, database);
      return [running, running.summary];
    });
  }

  async #migrate(database: RunningDatabase, env: NodeJS.ProcessEnv): Promise<void> {
    const tier = this.#topology.database;
    if (!tier.migrations && !tier.migrate) return;
    await this.#step('migrations', tier.migrate ?? tier.migrations ?? '', async () => {
      const detail = await runMigrations(this.#paths.app, tier, database.url, env, line =>
        this.logs.write('migrations', line),
      );
      return [undefined, detail ?? ''];
    });
  }

  #publishMap({ host, port, name }: RunningDatabase): Promise<RuntimeMap> {
    return publishRuntimeMap(this.#paths.map, {
      deployment: this.#topology.name,
      dataCentre: DATA_CENTRE,
      database: {
        name,
        shards: [{ id: '0', members: [{ host, port, dataCentre: DATA_CENTRE }] }],
      },
      assets: { baseUrl: '' },
    });
  }

  async #startWeb(env: NodeJS.ProcessEnv): Promise<void> {
    const { web } = this.#topology;
    await this.#step('web', web.command, async () => {
      for (let attempt = 1; ; attempt++) {
        const port = web.port || (await freePort(web.host));
        const unit = webServerUnit({
          ...web,
          name: 'web-1',
          folder: this.#paths.app,
          port,
          env: { ...env, PORT: String(port), HOST: web.host, BANYAN_UNIT: 'web-1' },
        });
        this.#address = unit.address ?? '';
        try {
          await this.#machine.start(unit);
        } catch (error) {
          const lostTheRace = !web.port && !(await isPortFree(port, web.host));
          if (lostTheRace && attempt < PORT_ATTEMPTS && !this.#stopping) continue;
          throw error;
        }
        return [undefined, `\`${web.command}\` on ${this.#address}`];
      }
    });
    const readyMs = performance.now() - commandStartMs();
    const answered = (await statusOf(this.#address)) === 200;
    this.emit('ready', {
      address: this.#address,
      readyMs,
      firstPageMs: answered ? performance.now() - commandStartMs() : undefined,
    });
  }

  async #step<T>(step: UpStep, detail: string, run: () => Promise<[T, string]>): Promise<T> {
    if (this.#stopping) throw new Interrupted();
    const begun = performance.now();
    this.emit('begin', step, detail);
    const [result, summary] = await run();
    this.emit('done', step, summary, performance.now() - begun);
    return result;
  }
}

/** The status of one GET; undefined without an answer in time. */
function statusOf(address: string): Promise<number | undefined> {
  const { promise, resolve } = Promise.withResolvers<number | undefined>();
  const request = get(address, { agent: false, timeout: 5_000 }, response => {
    response.resume();
    response.once('close', () => resolve(response.statusCode));
  });
  request.once('timeout', () => request.destroy());
  request.once('error', () => resolve(undefined));
  return promise;
}

/** The application's folder as people write it: relative to where they stand. */
export function forPeople(folder: string): string {
  const relative = path.relative(process.cwd(), folder);
  return relative === '' ? '.' : relative.startsWith('..') ? folder : relative;
}
