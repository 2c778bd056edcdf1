/**
 * What the tier of workers should be. Plain data, kept in the catalog and in the journal as the web tier's shape is.
 *
 * Holds true here: it names no release. Workers run the web servers' release, so that the two never part.
 */
import type { CompleteTopology } from '../../topology/complete.ts';
import { NoWorkerCommand } from '../../topology/defaults.ts';
import { credentialsOf } from '../cache/shape.ts';
import { hash, withinBounds } from '../web/shape.ts';
import type { DesiredWorkers } from './plan.ts';

export interface WorkersShape {
  /** How many; 0: the tier is not there. */
  servers: number;
  workers: CompleteTopology['workers'];
  /** What the web servers are told besides; workers are told it too. */
  webEnv: Record<string, string>;
  /** Changes with the credentials of a Redis or RabbitMQ that Banyan does not run, which processes get at their start. */
  credentials?: string;
}

/** Where the catalog keeps the shape that was last reached. */
export const WORKERS_SHAPE = 'workers.shape';

/**
 * The shape that the topology asks for, as near to `present` as its bounds allow.
 * @param servers as many as that, whatever the bounds
 * @throws NoWorkerCommand
 */
export function workersShapeOf(
  topology: CompleteTopology,
  present?: WorkersShape,
  servers = withinBounds(topology.workers.servers, present?.servers),
): WorkersShape {
  const { workers, web } = topology;
  if (servers > 0 && workers.command === undefined) throw new NoWorkerCommand('workers.command');
  return {
    servers,
    workers,
    webEnv: web.env,
    ...credentialsIn(topology),
  };
}

function credentialsIn({ cache, queue }: CompleteTopology): { credentials?: string } {
  const urls = [cache?.url, queue?.url].filter(url => url !== undefined);
  return urls.length > 0 ? { credentials: credentialsOf(urls.join(' ')) } : {};
}

/** What the plan works towards. Pure. */
export function desiredWorkers(shape: WorkersShape, release: number): DesiredWorkers {
  const { servers, workers } = shape;
  return {
    release,
    revision: workerRevision(shape),
    servers,
    autoscaled: workers.servers.min < workers.servers.max,
  };
}

/** Changes when a worker would run differently: then workers are replaced. */
export function workerRevision({ workers, webEnv, credentials }: WorkersShape): string {
  const { command, env, drainTimeoutMs, memoryMb } = workers;
  return hash([
    command ?? null,
    { ...webEnv, ...env },
    drainTimeoutMs,
    memoryMb ?? null,
    credentials ?? null,
  ]);
}

/** What is there where nothing was noted yet. */
export const NO_WORKERS: WorkersShape = {
  servers: 0,
  webEnv: {},
  workers: {
    env: {},
    startTimeoutMs: 0,
    drainTimeoutMs: 0,
    servers: { min: 0, max: 0, depth: 0, ageMs: 0, scaleDownAfterMs: 0 },
  },
};
