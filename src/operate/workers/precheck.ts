/** What can be found out of the workers before anything is touched. */
import { connectionsPerServer } from '../../topology/connections.ts';
import { NoWorkerCommand } from '../../topology/defaults.ts';
import type { WorkersContext } from './context.ts';
import type { WorkerStep } from './plan.ts';
import type { WorkersShape } from './shape.ts';

/** @throws NoWorkerCommand, TooManyServers, ReleaseGone */
export function precheckWorkers(
  context: WorkersContext,
  { servers, workers }: WorkersShape,
  steps: readonly WorkerStep[],
): void {
  if (servers > 0 && workers.command === undefined) throw new NoWorkerCommand('workers.command');
  for (const step of steps) {
    if (step.do === 'share-connections') {
      connectionsPerServer(step.servers, context.maxConnections, { workers: step.workers });
    }
    if (step.do === 'start-worker') context.folder();
  }
}
