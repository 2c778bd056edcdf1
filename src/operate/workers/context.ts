/** What the operations on the workers work with, and what is observed of them. */
import { WORKER_AUTOSCALER } from '../../engines/autoscaler.ts';
import type { Machine, UnitState } from '../../machines/unit.ts';
import { applicationEnv, type ExternalUrls } from '../application-env.ts';
import type { Circumstances } from '../control/protocol.ts';
import type { Deployment } from '../deployment.ts';
import { requireRelease } from '../releases/folder.ts';
import type { ObservedWorkers } from './plan.ts';
import type { WorkersShape } from './shape.ts';

export interface WorkersContext {
  machine: Machine;
  deployment: Deployment;
  /** For the workers: environment without `PORT` and its like. */
  env: NodeJS.ProcessEnv;
  /** What `banyan up` was given. */
  environment: NodeJS.ProcessEnv;
  /** The web servers' release, which workers run too; 0 is the application's folder as it is. */
  release: number;
  /** Where it lies. @throws ReleaseGone */
  folder: () => string;
  /** What the shares of the database's connections follow from. */
  maxConnections: number;
}

/** Labels that workers carry. */
export interface WorkerLabels {
  release: number;
  revision: string;
  port: number;
}

export function workersContext(options: {
  machine: Machine;
  deployment: Deployment;
  shape: WorkersShape;
  circumstances: Pick<Circumstances, 'environment' | 'databaseUrl'>;
  web: { release: number; maxConnections: number };
  external?: ExternalUrls;
}): WorkersContext {
  const { machine, deployment, shape, circumstances, web, external } = options;
  const { workers, webEnv } = shape;
  return {
    machine,
    deployment,
    env: applicationEnv(
      deployment,
      { env: { ...webEnv, ...workers.env }, drainTimeoutMs: workers.drainTimeoutMs },
      circumstances.databaseUrl,
      circumstances.environment,
      external,
    ),
    environment: circumstances.environment,
    release: web.release,
    folder: () => requireRelease(deployment.paths, web.release),
    maxConnections: web.maxConnections,
  };
}

export async function observeWorkers({ machine }: WorkersContext): Promise<ObservedWorkers> {
  const states = await machine.states();
  return {
    workers: states.filter(isWorker).map(({ name, labels }) => {
      const { release, revision } = labels as unknown as WorkerLabels;
      return { name, release, revision };
    }),
    autoscaled: states.some(({ name }) => name === WORKER_AUTOSCALER),
    webServers: states.filter(({ tier }) => tier === 'web').length,
  };
}

export function isWorker({ tier }: UnitState): boolean {
  return tier === 'workers';
}
