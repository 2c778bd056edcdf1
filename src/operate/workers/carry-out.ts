/**
 * Brings the workers from what runs to a shape: observes, plans, carries out, tells.
 *
 * Holds true here: each step may be done twice: a controller that was killed between doing and noting does it again.
 */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { WORKER_AUTOSCALER, workerAutoscalerUnit } from '../../engines/autoscaler.ts';
import { workerUnit } from '../../engines/worker.ts';
import { freePort, onFreePort } from '../../machines/free-port.ts';
import { connectionsPerServer } from '../../topology/connections.ts';
import { NoWorkerCommand } from '../../topology/defaults.ts';
import { changeMap } from '../change-map.ts';
import { carryOutSteps, type StepProgress } from '../steps.ts';
import { observeWorkers, type WorkerLabels, type WorkersContext } from './context.ts';
import { explainWorkers } from './explain.ts';
import { planWorkers, type WorkerStep } from './plan.ts';
import { desiredWorkers, type WorkersShape, workerRevision } from './shape.ts';

const LOOPBACK = '127.0.0.1';

export interface WorkersProgress extends StepProgress {
  /** Called when a step was carried out, before it counts as done; throws to stop there. */
  afterStep?: (step: WorkerStep) => Promise<unknown>;
}

/** What would be done, without doing it. */
export async function planWorkersFor(
  context: WorkersContext,
  shape: WorkersShape,
): Promise<WorkerStep[]> {
  return planWorkers(await observeWorkers(context), desiredWorkers(shape, context.release));
}

/** Goes there. @throws whatever a step throws; workers that ran before then still run */
export async function convergeWorkers(
  context: WorkersContext,
  shape: WorkersShape,
  progress: WorkersProgress = {},
): Promise<void> {
  const steps = await planWorkersFor(context, shape);
  const doOne = async (step: WorkerStep) => {
    await carryOut(context, shape, step);
    await progress.afterStep?.(step);
  };
  await carryOutSteps(steps, explainWorkers, doOne, progress);
}

async function carryOut(
  context: WorkersContext,
  shape: WorkersShape,
  step: WorkerStep,
): Promise<void> {
  const { machine, deployment, environment, maxConnections } = context;
  const { paths } = deployment;
  switch (step.do) {
    case 'share-connections':
      await changeMap(paths.map, map => ({
        ...map,
        database: {
          ...map.database,
          connectionsPerServer: connectionsPerServer(step.servers, maxConnections, {
            workers: step.workers,
          }),
        },
      }));
      return;
    case 'start-worker':
      return startWorker(context, shape, step.name);
    case 'stop-workers':
      await Promise.all(step.names.map(name => machine.stop(name)));
      return;
    case 'start-worker-autoscaler':
      await machine.stop(WORKER_AUTOSCALER);
      return machine.start(workerAutoscalerUnit(paths.app, environment));
    case 'stop-worker-autoscaler':
      return machine.stop(WORKER_AUTOSCALER);
  }
}

async function startWorker(
  context: WorkersContext,
  shape: WorkersShape,
  name: string,
): Promise<void> {
  const { machine, deployment, env, release } = context;
  const readyFile = path.join(deployment.paths.run, `${name}.ready`);
  const { command, ...settings } = shape.workers;
  if (command === undefined) throw new NoWorkerCommand('workers.command');
  // Left by a controller that was killed before it could note it, or half started.
  await machine.stop(name);
  await rm(readyFile, { force: true });
  await onFreePort(LOOPBACK, freePort, async port => {
    const labels: WorkerLabels = { release, revision: workerRevision(shape), port };
    await machine.start(
      workerUnit({
        ...settings,
        command,
        name,
        folder: context.folder(),
        host: LOOPBACK,
        port,
        readyFile,
        env: { ...env, BANYAN_UNIT: name, BANYAN_RELEASE: String(release) },
        labels: { ...labels },
      }),
    );
  });
}
