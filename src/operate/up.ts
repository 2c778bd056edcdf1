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
import { get } from 'node:http';
import path from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { ENGINES } from '../engines/engines.ts';
import { findHaproxy } from '../engines/haproxy.ts';
import { urlForPeople } from '../engines/web-server.ts';
import { BanyanError } from '../errors.ts';
import { LocalMachine } from '../machines/local.ts';
import { takeLock } from '../machines/lock.ts';
import type { UnitState } from '../machines/unit.ts';
import type { UnitLogs } from '../machines/unit-log.ts';
import { readRuntimeMap } from '../map/map-file.ts';
import type { RuntimeMap } from '../map/runtime-map.ts';
import type { CompleteTopology } from '../topology/complete.ts';
import { connectionsPerServer } from '../topology/connections.ts';
import { applicationEnv, externalUrlsOf } from './application-env.ts';
import { BackupKeeper } from './backup/keeper.ts';
import { convergeCache, stopFollowing } from './cache/carry-out.ts';
import { type CacheContext, hasSlot } from './cache/context.ts';
import { precheckCache } from './cache/precheck.ts';
import { CACHE_SHAPE, cacheShapeOf } from './cache/shape.ts';
import { cacheStatus } from './cache/status.ts';
import { Catalog } from './catalog.ts';
import { publishMap } from './change-map.ts';
import type { Circumstances } from './control/protocol.ts';
import { serveControl } from './control/server.ts';
import { recordOf } from './database/context.ts';
import { applyCopies } from './database/copies/apply.ts';
import { copiesStanding } from './database/copies/standing.ts';
import { type CutOver, cutOver } from './database/move/cut-over.ts';
import { findPrimary } from './database/primary.ts';
import { DATA_CENTRE, ownerUrl, type RunningDatabase } from './database/running.ts';
import { DATABASE_SHAPE, databaseShapeOf, shardedShape } from './database/shape.ts';
import { databaseOfMap, declare } from './database/sharding/declare.ts';
import { installIds } from './database/sharding/ids.ts';
import { startDatabases } from './database/sharding/start.ts';
import { databaseServers } from './database/standing.ts';
import { type Deployment, DeploymentPaths, openDeployment } from './deployment.ts';
import { askForLoad, readLoad } from './load.ts';
import { LoadWatch, loadAlerts } from './load-alerts.ts';
import { runMigrations } from './migrations.ts';
import { Journal } from './operations/journal.ts';
import { convergeQueue } from './queue/carry-out.ts';
import { precheckQueue } from './queue/precheck.ts';
import {
  describeQueue,
  IN_POSTGRESQL,
  QUEUE_SHAPE,
  type QueueShape,
  queueShapeOf,
} from './queue/shape.ts';
import { queueStatus } from './queue/status.ts';
import { requireRelease } from './releases/folder.ts';
import { commandStartMs } from './start-clock.ts';
import { type Status, trafficOf } from './status.ts';
import { prepareCertificate } from './web/certificate.ts';
import { webContext } from './web/context.ts';
import { converge } from './web/converge.ts';
import { checkTlsPort } from './web/precheck.ts';
import { shapeOf, WEB_SHAPE, type WebShape } from './web/shape.ts';
import { convergeWorkers } from './workers/carry-out.ts';
import { workersContext } from './workers/context.ts';
import { WORKERS_SHAPE, type WorkersShape, workersShapeOf } from './workers/shape.ts';

export type UpStep = 'leftovers' | 'database' | 'migrations' | 'queue' | 'web' | 'workers';

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

/** A start does not wait for millions of rows to be filled. */
const COPIES_PATIENCE_MS = 2_000;

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
    this.#shards = await this.#startDatabase(deployment);
    this.#database = this.#shards[0]!;
    if (this.#shards.length > 1) askForLoad(this.#paths.load);
    const catalog = await Catalog.open(this.#database.url);
    try {
      const present = await catalog.read<WebShape>(WEB_SHAPE);
      const { maxConnections } = this.#database;
      const shape = shapeOf(this.#topology, present, undefined, maxConnections);
      const presentWorkers = await catalog.read<WorkersShape>(WORKERS_SHAPE);
      const workers = workersShapeOf(this.#topology, presentWorkers);
      await this.#migrate(deployment, shape.release);
      await this.#publishMap(this.#database, shape.servers, workers.servers);
      await this.#startWeb(deployment, this.#database, shape, catalog);
      await this.#startQueue(deployment, catalog);
      await this.#startWorkers(deployment, workers, shape);
      await catalog.write(WEB_SHAPE, shape);
      await catalog.write(WORKERS_SHAPE, workers);
      if (!this.#topology.database.url) await this.#keepCopies(deployment);
      await this.#noteDatabaseShape(catalog);
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

  #startDatabase(deployment: Deployment): Promise<RunningDatabase[]> {
    const { database } = this.#topology;
    return this.#step('database', 'starting PostgreSQL', async () => {
      if (!database.url && process.env.DATABASE_URL) {
        this.emit(
          'note',
          'DATABASE_URL in your environment is not used: Banyan runs a database of its own. To use yours, set `database: { url: process.env.DATABASE_URL }`',
        );
      }
      const running = await startDatabases(this.#machine, deployment, this.#topology, note =>
        this.emit('note', note),
      );
      const shown = running.map(({ summary }) => summary).join('; ');
      return [running, running.length > 1 ? `${running.length} shards: ${shown}` : shown];
    });
  }

  /** What runs, as a shape; a note when the configuration asks for another. */
  async #noteDatabaseShape(catalog: Catalog): Promise<void> {
    const wanted = databaseShapeOf(this.#topology);
    if (wanted.kind === 'external') return catalog.write(DATABASE_SHAPE, wanted);
    const { serving, cluster, sharding } = recordOf(this.#deployment!);
    const sharded = sharding ? shardedShape(sharding.ranges.length, sharding) : {};
    const runs =
      serving === 'cluster' && cluster
        ? {
            kind: 'cluster',
            ...sharded,
            replicas: cluster.nodes.length - 1,
            etcd: cluster.etcd.length,
            settings: cluster.settings,
          }
        : { kind: 'embedded', ...sharded };
    await catalog.write(DATABASE_SHAPE, runs);
    // What is to be said of the number of shards was said at their start.
    if (isDeepStrictEqual({ ...runs, shards: 0 }, { ...wanted, shards: 0 })) return;
    const differs =
      runs.kind === wanted.kind
        ? 'other settings for it'
        : `it to be ${wanted.kind === 'cluster' ? 'replicated' : 'a single server'}`;
    this.emit(
      'note',
      `the database runs as it was, and banyan.config.ts asks for ${differs}: \`banyan apply\` goes there online`,
    );
  }

  async #migrate(deployment: Deployment, release: number): Promise<void> {
    const folder = requireRelease(this.#paths, release);
    const tier = this.#topology.database;
    const urls = this.#shards.map(({ url }) => url);
    await Promise.all(urls.map(installIds));
    if (tier.migrations || tier.migrate) {
      const env = applicationEnv(deployment, this.#topology.web, urls[0]!);
      await this.#step('migrations', tier.migrate ?? tier.migrations ?? '', async () => {
        const detail = await runMigrations(folder, tier, urls, env, line =>
          this.logs.write('migrations', line),
        );
        return [undefined, detail ?? ''];
      });
    }
    if (!tier.url) await declare(deployment, urls, tier);
  }

  #watchLoad(): void {
    this.#loadWatch = new LoadWatch(
      () => readLoad(this.#paths.load),
      text => this.logs.write('load', text),
    );
    this.#loadWatch.start();
  }

  /** The application serves without them: what hinders them hinders nothing else. */
  async #keepCopies(deployment: Deployment): Promise<void> {
    try {
      const done = await applyCopies(this.#machine, deployment, process.env, COPIES_PATIENCE_MS);
      if (done) this.emit('note', done);
    } catch (error) {
      this.emit('note', `copied columns are not kept: ${(error as Error).message}`);
    }
  }

  #publishMap(
    { name, maxConnections }: RunningDatabase,
    servers: number,
    workers: number,
  ): Promise<RuntimeMap> {
    return publishMap(this.#paths.map, {
      deployment: this.#topology.name,
      dataCentre: DATA_CENTRE,
      database: {
        ...databaseOfMap(
          recordOf(this.#deployment!),
          name,
          this.#shards.map(({ members }) => members),
        ),
        connectionsPerServer: connectionsPerServer(servers + workers, maxConnections, { workers }),
      },
      assets: { baseUrl: '' },
    });
  }

  async #startWeb(
    deployment: Deployment,
    database: RunningDatabase,
    shape: WebShape,
    catalog: Catalog,
  ): Promise<void> {
    const cacheReady = this.#startCache(deployment, database, catalog);
    // Whoever fails first is told; a server that is ready before the cache loads from the database.
    cacheReady.catch(() => {});
    const context = webContext({
      machine: this.#machine,
      deployment,
      shape,
      circumstances: await this.#circumstances(),
      external: externalUrlsOf(this.#topology),
    });
    await this.#step('web', shape.web.command, async () => {
      await converge(context, shape);
      await cacheReady;
      return [undefined, `${describeWeb(shape)} on ${this.#address}`];
    });
    if (shape.release > 0) {
      this.emit(
        'note',
        `release ${shape.release} runs, not the folder as it is now: \`banyan release\` makes a new one of it, \`banyan rollback 0\` runs the folder itself`,
      );
    }
  }

  /**
   * After the web servers, which publish to the database until then. What RabbitMQ has of messages is done whatever the
   * configuration says by now.
   */
  async #startQueue(deployment: Deployment, catalog: Catalog): Promise<void> {
    const wanted = queueShapeOf(this.#topology.queue);
    const present = (await catalog.read<QueueShape>(QUEUE_SHAPE)) ?? IN_POSTGRESQL;
    // Out of it, or to fewer of its nodes, goes only what can wait until it is empty: an operation.
    const shape =
      present.kind === 'rabbitmq' && !isDeepStrictEqual(present, wanted) ? present : wanted;
    precheckQueue(shape);
    const context = { machine: this.#machine, deployment, externalUrl: this.#topology.queue?.url };
    if (shape.kind !== 'postgresql') {
      await this.#step('queue', describeQueue(shape), async () => {
        await convergeQueue(context, shape);
        return [undefined, describeQueue(shape)];
      });
    }
    await catalog.write(QUEUE_SHAPE, shape);
    if (shape === wanted) return;
    this.emit(
      'note',
      `the queue is as it was (${describeQueue(shape)}), and banyan.config.ts says ${describeQueue(wanted)}: \`banyan apply\` goes there online`,
    );
  }

  /** After the web servers: users do not wait for them, and what is published meanwhile is kept. */
  async #startWorkers(deployment: Deployment, workers: WorkersShape, web: WebShape): Promise<void> {
    if (workers.servers === 0 && workers.workers.servers.max === 0) return;
    const context = workersContext({
      machine: this.#machine,
      deployment,
      shape: workers,
      circumstances: await this.#circumstances(),
      web,
      external: externalUrlsOf(this.#topology),
    });
    await this.#step('workers', workers.workers.command ?? '', async () => {
      await convergeWorkers(context, workers);
      return [undefined, `${workers.servers} × \`${workers.workers.command}\``];
    });
  }

  /** What it was before does not matter: a cache begins empty. */
  async #startCache(
    deployment: Deployment,
    { url }: RunningDatabase,
    catalog: Catalog,
  ): Promise<void> {
    const shape = cacheShapeOf(this.#topology.cache);
    const context: CacheContext = {
      machine: this.#machine,
      deployment,
      environment: process.env,
      externalUrl: this.#topology.cache?.url,
      databaseUrl: url,
      isExternalDatabase: this.#topology.database.url !== undefined,
    };
    if (shape.kind !== 'none') {
      await convergeCache(context, shape, { note: text => this.emit('note', text) });
    } else if (await hasSlot(catalog.pool)) {
      // It was taken out of the configuration while nothing ran, and holds back the log.
      await stopFollowing(context);
    }
    await catalog.write(CACHE_SHAPE, shape);
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

/** `3 × \`node server.ts\` behind a balancer` */
function describeWeb({ servers, web, balancer }: WebShape): string {
  const command = `\`${web.command}\``;
  if (!balancer) return command;
  const balancers = balancer.addresses.length;
  return `${servers} × ${command} behind ${balancers === 1 ? 'a balancer' : `${balancers} balancers`}`;
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
