/**
 * The controller: a command that changes what runs. It reaches the supervisor, the catalog and the
 * balancers, and holds nothing that matters in its own memory: when it is killed, what runs goes on.
 */
import type { CompleteTopology } from '../topology/complete.ts';
import { externalUrlsOf } from './application-env.ts';
import type { CacheContext } from './cache/context.ts';
import { CACHE_SHAPE, type CacheShape, NO_CACHE } from './cache/shape.ts';
import { Catalog } from './catalog.ts';
import { ControlClient, NotRunning } from './control/client.ts';
import type { Circumstances } from './control/protocol.ts';
import { type DatabaseContext, recordOf } from './database/context.ts';
import { DATABASE_SHAPE, type DatabaseShape, withSharding } from './database/shape.ts';
import { type Deployment, type DeploymentPaths, existingDeployment } from './deployment.ts';
import { loadTopology, withOverrides } from './load-topology.ts';
import { Journal } from './operations/journal.ts';
import type { QueueContext } from './queue/context.ts';
import { IN_POSTGRESQL, QUEUE_SHAPE, type QueueShape } from './queue/shape.ts';
import { type WebContext, webContext } from './web/context.ts';
import { WEB_SHAPE, type WebShape } from './web/shape.ts';
import { type WorkersContext, workersContext } from './workers/context.ts';
import { NO_WORKERS, WORKERS_SHAPE, type WorkersShape } from './workers/shape.ts';

export interface Controller {
  paths: DeploymentPaths;
  deployment: Deployment;
  topology: CompleteTopology;
  machine: ControlClient;
  catalog: Catalog;
  journal: Journal;
  databaseUrl: string;
  circumstances: Circumstances;
  /** The shape that was last reached. */
  present: WebShape;
  /** The same of the database tier. */
  presentDatabase: DatabaseShape;
  /** The same of the cache tier. */
  presentCache: CacheShape;
  /** The same of the workers. */
  presentWorkers: WorkersShape;
  /** Where the queue's messages are. */
  presentQueue: QueueShape;
  /** What operations on RabbitMQ work with. */
  queueContext: QueueContext;
  /** What operations on the cache tier work with. */
  cacheContext: CacheContext;
  /** What operations on the database tier work with. */
  databaseContext: DatabaseContext;
  /** What operations on the web tier towards `shape` work with. */
  contextFor: (shape: WebShape) => WebContext;
  /** What operations on the workers towards `shape` work with, beside web servers of the shape `web`. */
  workersContextFor: (shape: WorkersShape, web: WebShape) => WorkersContext;
}

export interface ControllerOptions {
  /**
   * Go on with a configuration that cannot be read: what was begun can then still be finished or taken
   * back. Whoever asks for the topology all the same gets its error.
   */
  withoutConfig?: boolean;
}

/**
 * Runs `body` with a controller of the deployment, which must be up.
 * @throws NotRunning, and what reading the configuration throws
 */
export async function withController<T>(
  paths: DeploymentPaths,
  body: (controller: Controller) => Promise<T>,
  { withoutConfig = false }: ControllerOptions = {},
): Promise<T> {
  const machine = new ControlClient(paths.socket, paths.app);
  const circumstances = await machine.circumstances();
  const deployment = existingDeployment(paths);
  if (!deployment) throw new NotRunning(paths.app);
  const topology = await readTopology(paths, circumstances);
  if (topology instanceof Error && !withoutConfig) throw topology;

  const catalog = await Catalog.open(circumstances.databaseUrl, paths.map);
  try {
    // Kept from the first start on.
    const present = await catalog.read<WebShape>(WEB_SHAPE);
    if (!present) throw new NotRunning(paths.app);
    const presentDatabase =
      (await catalog.read<DatabaseShape>(DATABASE_SHAPE)) ?? ({ kind: 'embedded' } as const);
    const presentCache = (await catalog.read<CacheShape>(CACHE_SHAPE)) ?? NO_CACHE;
    const presentWorkers = (await catalog.read<WorkersShape>(WORKERS_SHAPE)) ?? NO_WORKERS;
    const external = topology instanceof Error ? {} : externalUrlsOf(topology);
    const presentQueue = (await catalog.read<QueueShape>(QUEUE_SHAPE)) ?? IN_POSTGRESQL;
    const readable = () => {
      if (topology instanceof Error) throw topology;
      return topology;
    };
    return await body({
      paths,
      deployment,
      get topology() {
        return readable();
      },
      machine,
      catalog,
      journal: new Journal(catalog),
      databaseUrl: circumstances.databaseUrl,
      circumstances,
      present,
      // A release puts a declaration in force beside the operation that it is.
      get presentDatabase() {
        return withSharding(presentDatabase, recordOf(deployment).sharding);
      },
      presentCache,
      presentWorkers,
      presentQueue,
      queueContext: { machine, deployment, externalUrl: external.queue },
      cacheContext: {
        machine,
        deployment,
        environment: circumstances.environment,
        externalUrl: external.cache,
        databaseUrl: circumstances.databaseUrl,
        isExternalDatabase: presentDatabase.kind === 'external',
      },
      databaseContext: {
        machine,
        deployment,
        isExternal: presentDatabase.kind === 'external',
        embeddedTier: () => readable().database,
      },
      contextFor: shape => webContext({ machine, deployment, shape, circumstances, external }),
      workersContextFor: (shape, web) =>
        workersContext({ machine, deployment, shape, circumstances, web, external }),
    });
  } finally {
    await catalog.close();
  }
}

async function readTopology(
  paths: DeploymentPaths,
  { overrides }: Circumstances,
): Promise<CompleteTopology | Error> {
  try {
    return withOverrides((await loadTopology(paths.app)).topology, overrides);
  } catch (error) {
    return error as Error;
  }
}
