/**
 * The workers' autoscaler: a unit that looks how much there is in the queue and scales the workers between the bounds that
 * the topology names. A controller like any other, as the web servers' one (autoscale/autoscaler.ts).
 */
import { setTimeout as delay } from 'node:timers/promises';
import pino from 'pino';
import { BanyanError } from '../../errors.ts';
import { type Controller, withController } from '../controller.ts';
import type { DeploymentPaths } from '../deployment.ts';
import { change } from '../operations/change.ts';
import { type QueueView, withQueue } from '../queue/queue.ts';
import { decideWorkers, type QueueSample } from './decide.ts';

const INTERVAL_MS = 2_000;

/** After this many failures in a row something is wrong that a restart may mend. */
const FAILURES_LIMIT = 10;

const log = pino({ base: {} });

/** Runs until it is told to stop. */
export async function autoscaleWorkers(paths: DeploymentPaths, signal: AbortSignal): Promise<void> {
  log.info(`looking every ${INTERVAL_MS / 1_000} s how much there is in the queue`);
  const samples: QueueSample[] = [];
  let failures = 0;
  while (!signal.aborted) {
    try {
      await withController(paths, controller =>
        withQueue(controller, queue => look(controller, queue, samples)),
      );
      failures = 0;
    } catch (error) {
      const { message } = error as Error;
      log.warn(`not this time: ${error instanceof BanyanError ? error.what : message}`);
      if (++failures >= FAILURES_LIMIT) throw error;
    }
    await delay(INTERVAL_MS, undefined, { signal }).catch(() => {});
  }
}

async function look(
  controller: Controller,
  queue: QueueView,
  samples: QueueSample[],
): Promise<void> {
  const { present, presentWorkers } = controller;
  const bounds = presentWorkers.workers.servers;
  const sample = { ...depthOf(await queue.stats()), at: performance.now() };
  samples.push({ ...sample, servers: presentWorkers.servers });
  while (samples[1] && samples[1].at < sample.at - bounds.scaleDownAfterMs) samples.shift();
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
