/**
 * What `banyan up` starts, a tier at a time: each is told what the configuration asks for, and what runs already.
 *
 * Holds true here: what takes an operation (fewer nodes, another database) is not done at a start; it is said, and `banyan apply` does it.
 */
import { isDeepStrictEqual } from 'node:util';
import type { LocalMachine } from '../machines/local.ts';
import type { RuntimeMap } from '../map/runtime-map.ts';
import type { CompleteTopology } from '../topology/complete.ts';
import { connectionsPerServer } from '../topology/connections.ts';
import { applicationEnv, externalUrlsOf } from './application-env.ts';
import { convergeCache, stopFollowing } from './cache/carry-out.ts';
import { type CacheContext, hasSlot } from './cache/context.ts';
import { CACHE_SHAPE, cacheShapeOf } from './cache/shape.ts';
import type { Catalog } from './catalog.ts';
import { publishMap } from './change-map.ts';
import type { Circumstances } from './control/protocol.ts';
import { recordOf } from './database/context.ts';
import { applyCopies } from './database/copies/apply.ts';
import { DATA_CENTRE, type RunningDatabase } from './database/running.ts';
import { DATABASE_SHAPE, databaseShapeOf, shardedShape } from './database/shape.ts';
import { databaseOfMap, declare } from './database/sharding/declare.ts';
import { installIds } from './database/sharding/ids.ts';
import { startDatabases } from './database/sharding/start.ts';
import type { Deployment, DeploymentPaths } from './deployment.ts';
import { runMigrations } from './migrations.ts';
import { convergeQueue } from './queue/carry-out.ts';
import { precheckQueue } from './queue/precheck.ts';
import {
  describeQueue,
  IN_POSTGRESQL,
  QUEUE_SHAPE,
  type QueueShape,
  queueShapeOf,
} from './queue/shape.ts';
import { requireRelease } from './releases/folder.ts';
import { webContext } from './web/context.ts';
import { converge } from './web/converge.ts';
import type { WebShape } from './web/shape.ts';
import { convergeWorkers } from './workers/carry-out.ts';
import { workersContext } from './workers/context.ts';
import type { WorkersShape } from './workers/shape.ts';

export type UpStep = 'leftovers' | 'database' | 'migrations' | 'queue' | 'web' | 'workers';

/** A start does not wait for millions of rows to be filled. */
const COPIES_PATIENCE_MS = 2_000;

export interface TierStartParts {
  readonly topology: CompleteTopology;
  readonly paths: DeploymentPaths;
  readonly machine: LocalMachine;
  readonly deployment: Deployment;
  /** Known once the database is. */
  readonly circumstances: () => Promise<Circumstances>;
  /** Where users connect. */
  readonly address: () => string;
  /** Something that is not an error and should be known. */
  readonly note: (text: string) => void;
  /** Runs a step that is told of: `run` returns its result, and what is said of it. */
  readonly step: <T>(step: UpStep, detail: string, run: () => Promise<[T, string]>) => Promise<T>;
}

export class TierStart {
  readonly #topology: CompleteTopology;
  readonly #paths: DeploymentPaths;
  readonly #machine: LocalMachine;
  readonly #deployment: Deployment;
  readonly #circumstances: TierStartParts['circumstances'];
  readonly #address: TierStartParts['address'];
  readonly #note: TierStartParts['note'];
  readonly #step: TierStartParts['step'];
  #shards: readonly RunningDatabase[] = [];

  constructor(parts: TierStartParts) {
    this.#topology = parts.topology;
    this.#paths = parts.paths;
    this.#machine = parts.machine;
    this.#deployment = parts.deployment;
    this.#circumstances = parts.circumstances;
    this.#address = parts.address;
    this.#note = parts.note;
    this.#step = parts.step;
  }

  database(): Promise<RunningDatabase[]> {
    const { database } = this.#topology;
    return this.#step('database', 'starting PostgreSQL', async () => {
      if (!database.url && process.env.DATABASE_URL) {
        this.#note(
          'DATABASE_URL in your environment is not used: Banyan runs a database of its own. To use yours, set `database: { url: process.env.DATABASE_URL }`',
        );
      }
      const running = await startDatabases(
        this.#machine,
        this.#deployment,
        this.#topology,
        this.#note,
      );
      this.#shards = running;
      const shown = running.map(({ summary }) => summary).join('; ');
      return [running, running.length > 1 ? `${running.length} shards: ${shown}` : shown];
    });
  }

  /** What runs, as a shape; a note when the configuration asks for another. */
  async noteDatabaseShape(catalog: Catalog): Promise<void> {
    const wanted = databaseShapeOf(this.#topology);
    if (wanted.kind === 'external') return catalog.write(DATABASE_SHAPE, wanted);
    const { serving, cluster, sharding } = recordOf(this.#deployment);
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
    this.#note(
      `the database runs as it was, and banyan.config.ts asks for ${differs}: \`banyan apply\` goes there online`,
    );
  }

  async migrate(release: number): Promise<void> {
    const folder = requireRelease(this.#paths, release);
    const tier = this.#topology.database;
    const urls = this.#shards.map(({ url }) => url);
    await Promise.all(urls.map(installIds));
    if (tier.migrations || tier.migrate) {
      const env = applicationEnv(this.#deployment, this.#topology.web, urls[0]!);
      await this.#step('migrations', tier.migrate ?? tier.migrations ?? '', async () => {
        const detail = await runMigrations(folder, tier, urls, env, line =>
          this.#machine.logs.write('migrations', line),
        );
        return [undefined, detail ?? ''];
      });
    }
    if (!tier.url) await declare(this.#deployment, urls, tier);
  }

  /** The application serves without them: what hinders them hinders nothing else. */
  async keepCopies(): Promise<void> {
    try {
      const done = await applyCopies(
        this.#machine,
        this.#deployment,
        process.env,
        COPIES_PATIENCE_MS,
      );
      if (done) this.#note(done);
    } catch (error) {
      this.#note(`copied columns are not kept: ${(error as Error).message}`);
    }
  }

  publishMap(servers: number, workers: number): Promise<RuntimeMap> {
    const { name, maxConnections } = this.#shards[0]!;
    return publishMap(this.#paths.map, {
      deployment: this.#topology.name,
      dataCentre: DATA_CENTRE,
      database: {
        ...databaseOfMap(
          recordOf(this.#deployment),
          name,
          this.#shards.map(({ members }) => members),
        ),
        connectionsPerServer: connectionsPerServer(servers + workers, maxConnections, { workers }),
      },
      assets: { baseUrl: '' },
    });
  }

  async web(shape: WebShape, catalog: Catalog): Promise<void> {
    const cacheReady = this.#startCache(catalog);
    // Whoever fails first is told; a server that is ready before the cache loads from the database.
    cacheReady.catch(() => {});
    const context = webContext({
      machine: this.#machine,
      deployment: this.#deployment,
      shape,
      circumstances: await this.#circumstances(),
      external: externalUrlsOf(this.#topology),
    });
    await this.#step('web', shape.web.command, async () => {
      await converge(context, shape);
      await cacheReady;
      return [undefined, `${describeWeb(shape)} on ${this.#address()}`];
    });
    if (shape.release > 0) {
      this.#note(
        `release ${shape.release} runs, not the folder as it is now: \`banyan release\` makes a new one of it, \`banyan rollback 0\` runs the folder itself`,
      );
    }
  }

  /**
   * After the web servers, which publish to the database until then. What RabbitMQ has of messages is done whatever the
   * configuration says by now.
   */
  async queue(catalog: Catalog): Promise<void> {
    const wanted = queueShapeOf(this.#topology.queue);
    const present = (await catalog.read<QueueShape>(QUEUE_SHAPE)) ?? IN_POSTGRESQL;
    // Out of it, or to fewer of its nodes, goes only what can wait until it is empty: an operation.
    const shape =
      present.kind === 'rabbitmq' && !isDeepStrictEqual(present, wanted) ? present : wanted;
    precheckQueue(shape);
    const context = {
      machine: this.#machine,
      deployment: this.#deployment,
      externalUrl: this.#topology.queue?.url,
    };
    if (shape.kind !== 'postgresql') {
      await this.#step('queue', describeQueue(shape), async () => {
        await convergeQueue(context, shape);
        return [undefined, describeQueue(shape)];
      });
    }
    await catalog.write(QUEUE_SHAPE, shape);
    if (shape === wanted) return;
    this.#note(
      `the queue is as it was (${describeQueue(shape)}), and banyan.config.ts says ${describeQueue(wanted)}: \`banyan apply\` goes there online`,
    );
  }

  /** After the web servers: users do not wait for them, and what is published meanwhile is kept. */
  async workers(workers: WorkersShape, web: WebShape): Promise<void> {
    if (workers.servers === 0 && workers.workers.servers.max === 0) return;
    const context = workersContext({
      machine: this.#machine,
      deployment: this.#deployment,
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
  async #startCache(catalog: Catalog): Promise<void> {
    const shape = cacheShapeOf(this.#topology.cache);
    const context: CacheContext = {
      machine: this.#machine,
      deployment: this.#deployment,
      environment: process.env,
      externalUrl: this.#topology.cache?.url,
      databaseUrl: this.#shards[0]!.url,
      isExternalDatabase: this.#topology.database.url !== undefined,
    };
    if (shape.kind !== 'none') {
      await convergeCache(context, shape, { note: this.#note });
    } else if (await hasSlot(catalog.pool)) {
      // It was taken out of the configuration while nothing ran, and holds back the log.
      await stopFollowing(context);
    }
    await catalog.write(CACHE_SHAPE, shape);
  }
}

/** `3 × \`node server.ts\` behind a balancer` */
function describeWeb({ servers, web, balancer }: WebShape): string {
  const command = `\`${web.command}\``;
  if (!balancer) return command;
  const balancers = balancer.addresses.length;
  return `${servers} × ${command} behind ${balancers === 1 ? 'a balancer' : `${balancers} balancers`}`;
}
