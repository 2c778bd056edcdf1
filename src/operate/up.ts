/**
 * `banyan up`: from a folder to a running deployment.
 *
 * The story: take the lock, end what an earlier supervisor left, check what can be checked, then
 * database, migrations, runtime map, web tier, workers, each when the one before is ready. When a step fails,
 * everything that was started is stopped again and the error tells why. From then on this process is
 * the machine that other commands change through its socket.
 */
import { EventEmitter } from 'node:events';
import type { Server } from 'node:http';
import path from 'node:path';
import { ENGINES } from '../engines/engines.ts';
import { findHaproxy } from '../engines/haproxy.ts';
import { urlForPeople } from '../engines/web-server.ts';
import { BanyanError } from '../errors.ts';
import { get } from '../machines/http.ts';
import { LocalMachine } from '../machines/local.ts';
import { takeLock } from '../machines/lock.ts';
import type { UnitState } from '../machines/unit.ts';
import type { UnitLogs } from '../machines/unit-log.ts';
import { readRuntimeMap } from '../map/map-file.ts';
import type { CompleteTopology } from '../topology/complete.ts';
import { connectionsPerServer } from '../topology/connections.ts';
import { BackupKeeper } from './backup/keeper.ts';
import { precheckCache } from './cache/precheck.ts';
import { cacheShapeOf } from './cache/shape.ts';
import { cacheStatus } from './cache/status.ts';
import { Catalog } from './catalog.ts';
import type { Circumstances } from './control/protocol.ts';
import { serveControl } from './control/server.ts';
import { copiesStanding } from './database/copies/standing.ts';
import { type CutOver, cutOver } from './database/move/cut-over.ts';
import { findPrimary } from './database/primary.ts';
import { ownerUrl, type RunningDatabase } from './database/running.ts';
import { databaseServers } from './database/standing.ts';
import { type Deployment, DeploymentPaths, openDeployment } from './deployment.ts';
import { askForLoad, readLoad } from './load.ts';
import { LoadWatch, loadAlerts } from './load-alerts.ts';
import { Journal } from './operations/journal.ts';
import { precheckQueue } from './queue/precheck.ts';
import { queueShapeOf } from './queue/shape.ts';
import { queueStatus } from './queue/status.ts';
import { commandStartMs } from './start-clock.ts';
import { type Status, trafficOf } from './status.ts';
import { TierStart, type UpStep } from './tier-start.ts';
import { prepareCertificate } from './web/certificate.ts';
import { checkTlsPort } from './web/precheck.ts';
import { shapeOf, WEB_SHAPE, type WebShape } from './web/shape.ts';
import { WORKERS_SHAPE, type WorkersShape, workersShapeOf } from './workers/shape.ts';

export type { UpStep };

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

export class StillStarting extends BanyanError {
  constructor() {
    super('STILL_STARTING', {
      what: 'The deployment is still starting',
      where: 'banyan up',
      remedy: 'Try again in a moment; `banyan status` shows how far it is',
    });
  }
}

/** One deployment and the supervisor that runs it. */
export class RunningDeployment extends EventEmitter<UpEvents> {
  readonly #topology: CompleteTopology;
  readonly #paths: DeploymentPaths;
  readonly #since = new Date();
  readonly #machine: LocalMachine;
  #releaseLock: (() => void) | undefined;
  #control: Server | undefined;
  #deployment: Deployment | undefined;
  /** Of the first shard. */
  #database: RunningDatabase | undefined;
  #shards: RunningDatabase[] = [];
  readonly #overrides: Circumstances['overrides'];
  #publicPort = 0;
  #keeper: BackupKeeper | undefined;
  #loadWatch: LoadWatch | undefined;
  #starting: Promise<void> = Promise.resolve();
  #stopping: Promise<void> | undefined;
  readonly #stopped = Promise.withResolvers<void>();

  /** @param overrides what the command line says in place of the configuration; already in `topology` */
  constructor(
    folder: string,
    topology: CompleteTopology,
    overrides: Circumstances['overrides'] = {},
  ) {
    super();
    this.#overrides = overrides;
    this.#topology = topology;
    this.#paths = new DeploymentPaths(folder);
    this.#machine = new LocalMachine({
      recordsFolder: this.#paths.records,
      logFolder: this.#paths.logs,
      logLimits: topology.logs,
      engines: ENGINES,
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

  async status(): Promise<Status> {
    const units = await this.#machine.states();
    const balancers = units.filter(({ tier, phase }) => tier === 'balancer' && phase === 'ready');
    const deployment = this.#deployment;
    const [servers, cache, queue] = await Promise.all([
      deployment && databaseServers(deployment).catch(() => undefined),
      deployment && cacheStatus(deployment, units).catch(() => undefined),
      queueStatus(units),
    ]);
    const load = await readLoad(this.#paths.load);
    const copies = await copiesStanding(this.#paths);
    const traffic = await trafficOf(balancers.map(({ name }) => this.#paths.socketFor(name)));
    return {
      deployment: this.#topology.name,
      folder: this.#paths.app,
      address: this.#address,
      supervisor: process.pid,
      since: this.#since.toISOString(),
      epoch: this.#epoch(),
      database: this.#shards.map(({ summary }) => summary).join('; ') || 'starting',
      units,
      ...(servers ? { databaseServers: servers } : {}),
      ...(this.#keeper?.status ? { backup: this.#keeper.status } : {}),
      ...(load ? { load, loadAlerts: loadAlerts(load) } : {}),
      ...(copies ? { copies } : {}),
      ...(cache ? { cache } : {}),
      ...(queue ? { queue } : {}),
      ...(traffic ? { traffic } : {}),
    };
  }

  /** Commands come once the socket is there, which may be before the database is. */
  async #circumstances(): Promise<Circumstances> {
    if (!this.#database) throw new StillStarting();
    return {
      environment: process.env,
      databaseUrl: await this.#databaseUrl(this.#database),
      publicPort: this.#publicPort,
      overrides: this.#overrides,
    };
  }

  /** The primary is who it is now, and the database may have been moved. */
  async #databaseUrl({ url }: RunningDatabase): Promise<string> {
    const deployment = this.#deployment;
    if (this.#topology.database.url || !deployment) return url;
    const { members } = readRuntimeMap(this.#paths.map).database.shards[0]!;
    return ownerUrl(deployment, await findPrimary(deployment, members));
  }

  async #cutOver(move: CutOver): Promise<number> {
    if (!this.#deployment) throw new StillStarting();
    return cutOver(this.#deployment, move);
  }

  /** Of the map on disk: other commands publish it too. */
  #epoch(): number {
    try {
      return readRuntimeMap(this.#paths.map).epoch;
    } catch {
      return 0;
    }
  }

  /** Where users connect. */
  get #address(): string {
    const host = this.#topology.balancer?.addresses[0] ?? this.#topology.web.host;
    return urlForPeople(host, this.#publicPort);
  }

  async #startAll(): Promise<void> {
    const deployment = await openDeployment(this.#paths, this.#topology.name);
    this.#deployment = deployment;
    this.#releaseLock = await takeLock(this.#paths.lock);
    await this.#endLeftovers();
    await this.#openSockets(deployment);
    this.#control = await serveControl(this.#paths.socket, {
      status: () => this.status(),
      circumstances: () => this.#circumstances(),
      cutOver: move => this.#cutOver(move),
      stop: () => void this.stop(),
      logs: this.logs,
      machine: this.#machine,
    });
    const tiers = new TierStart({
      topology: this.#topology,
      paths: this.#paths,
      machine: this.#machine,
      deployment,
      circumstances: () => this.#circumstances(),
      address: () => this.#address,
      note: text => this.emit('note', text),
      step: (step, detail, run) => this.#step(step, detail, run),
    });
    this.#shards = await tiers.database();
    this.#database = this.#shards[0]!;
    if (this.#shards.length > 1) askForLoad(this.#paths.load);
    const catalog = await Catalog.open(this.#database.url);
    try {
      const present = await catalog.read<WebShape>(WEB_SHAPE);
      const { maxConnections } = this.#database;
      const shape = shapeOf(this.#topology, present, undefined, maxConnections);
      const presentWorkers = await catalog.read<WorkersShape>(WORKERS_SHAPE);
      const workers = workersShapeOf(this.#topology, presentWorkers);
      await tiers.migrate(shape.release);
      await tiers.publishMap(shape.servers, workers.servers);
      await tiers.web(shape, catalog);
      await tiers.queue(catalog);
      await tiers.workers(workers, shape);
      await catalog.write(WEB_SHAPE, shape);
      await catalog.write(WORKERS_SHAPE, workers);
      if (!this.#topology.database.url) await tiers.keepCopies();
      await tiers.noteDatabaseShape(catalog);
      await this.#mentionCutOff(catalog);
    } finally {
      await catalog.close();
    }
    if (!this.#topology.database.url) {
      this.#keeper = new BackupKeeper(deployment, text => this.logs.write('backup', text));
      this.#keeper.start();
    }
    if (this.#shards.length > 1) this.#watchLoad();
    await this.#tellReady();
  }

  async #stopAll(): Promise<void> {
    try {
      this.#loadWatch?.stop();
      await this.#keeper?.stop();
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

  /**
   * Before the database is started, so that a simple mistake costs no time. From here on connections
   * wait in the sockets' queues.
   */
  async #openSockets(deployment: Deployment): Promise<void> {
    const { web, balancer, database } = this.#topology;
    if (balancer) findHaproxy();
    await precheckCache(
      { externalUrl: this.#topology.cache?.url },
      cacheShapeOf(this.#topology.cache),
    );
    precheckQueue(queueShapeOf(this.#topology.queue));
    if (balancer?.tls) await prepareCertificate(deployment, balancer.tls.certificate);
    const { workers } = this.#topology;
    if (!database.url) {
      connectionsPerServer(web.servers.max + workers.servers.max, database.maxConnections, {
        workers: workers.servers.max,
      });
    }
    this.#publicPort = web.port;
    for (const host of balancer?.addresses ?? [web.host]) {
      this.#publicPort = await this.#machine.listen({ host, port: this.#publicPort });
      if (!balancer?.tls) continue;
      await checkTlsPort(host, balancer.tls.port);
      await this.#machine.listen({ host, port: balancer.tls.port });
    }
  }

  #watchLoad(): void {
    this.#loadWatch = new LoadWatch(
      () => readLoad(this.#paths.load),
      text => this.logs.write('load', text),
    );
    this.#loadWatch.start();
  }

  async #mentionCutOff(catalog: Catalog): Promise<void> {
    const cutOff = await new Journal(catalog).unfinished();
    if (!cutOff) return;
    this.emit(
      'note',
      `operation ${cutOff.id} (${cutOff.summary}) was cut off: finish it with \`banyan resume\`, or take it back with \`banyan undo\``,
    );
  }

  async #tellReady(): Promise<void> {
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
