/**
 * The workers' autoscaler: a unit that looks how much there is in the queue and scales the workers between the bounds that
 * the topology names.
 */
import { remember } from '../autoscale/damping.ts';
import { log, watchOver } from '../autoscale/watch-over.ts';
import type { Controller } from '../controller.ts';
import type { DeploymentPaths } from '../deployment.ts';
import { change } from '../operations/change.ts';
import { type QueueView, withQueue } from '../queue/queue.ts';
import { decideWorkers, type QueueSample } from './decide.ts';

/** Runs until it is told to stop. */
export async function autoscaleWorkers(paths: DeploymentPaths, signal: AbortSignal): Promise<void> {
  const samples: QueueSample[] = [];
  await watchOver(paths, signal, 'how much there is in the queue', controller =>
    withQueue(controller, queue => look(controller, queue, samples)),
  );
}

async function look(
  controller: Controller,
  queue: QueueView,
  samples: QueueSample[],
): Promise<void> {
  const { present, presentWorkers } = controller;
  const bounds = presentWorkers.workers.servers;
  const depth = depthOf(await queue.stats());
  const sample = { ...depth, at: performance.now(), servers: presentWorkers.servers };
  remember(samples, sample, bounds);
  const decision = decideWorkers(samples, bounds);
  if (!decision) return;
  const { servers, reason } = decision;
  const summary = `workers ${presentWorkers.servers} → ${servers}: ${reason}`;
  log.info(summary);
  const workers = { ...presentWorkers, servers };
  await change(controller, { kind: 'autoscale', summary, after: present, workers });
  // What was measured with another number of workers says nothing about this one.
  samples.length = 0;
}

/** What is due or in hand. What is due later needs nobody yet; to a topic without a subscription nobody is of use. */
export function depthOf(
  stats: Awaited<ReturnType<QueueView['stats']>>,
): Pick<QueueSample, 'depth' | 'oldestMs'> {
  const subscribed = stats.filter(({ subscription }) => subscription !== null);
  return {
    depth: subscribed.reduce((sum, { depth, delayed }) => sum + depth - delayed, 0),
    oldestMs: Math.max(0, ...subscribed.map(({ oldestMs }) => oldestMs ?? 0)),
  };
}
