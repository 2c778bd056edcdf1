/**
 * The autoscaler: a unit that looks how busy the web servers are and scales them between the bounds that
 * the topology names. A controller like any other: it takes its turn, journals what it does, and
 * when it is killed nothing happens but that nobody scales until it is back.
 */
import { setTimeout as delay } from 'node:timers/promises';
import pino from 'pino';
import { BanyanError } from '../../errors.ts';
import { balancerWithDefaults } from '../../topology/defaults.ts';
import { type Controller, withController } from '../controller.ts';
import type { DeploymentPaths } from '../deployment.ts';
import { change } from '../operations/change.ts';
import { runtimeSocket } from '../web/balancer-files.ts';
import { type Bounds, decide, type LoadSample } from './decide.ts';
import { LoadMeter } from './measure.ts';

const INTERVAL_MS = 2_000;

/** After this many failures in a row something is wrong that a restart may mend. */
const FAILURES_LIMIT = 10;

const log = pino({ base: {} });

/** Runs until it is told to stop. */
export async function autoscale(paths: DeploymentPaths, signal: AbortSignal): Promise<void> {
  log.info(`looking every ${INTERVAL_MS / 1_000} s how busy the web servers are`);
  const meter = new LoadMeter();
  const samples: LoadSample[] = [];
  let failures = 0;
  while (!signal.aborted) {
    try {
      await withController(paths, controller => look(controller, meter, samples));
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
  meter: LoadMeter,
  samples: LoadSample[],
): Promise<void> {
  const { machine, deployment, present } = controller;
  const states = await machine.states();
  const sockets = states
    .filter(({ tier }) => tier === 'balancer')
    .map(({ name }) => runtimeSocket(deployment, name));
  const sample = await meter.sample(states, sockets);
  if (!sample) return;
  const { servers: wanted, maxConcurrency } = present.web;
  const bounds: Bounds = { ...wanted, maxConcurrency };
  samples.push(sample);
  while (samples[1] && samples[1].at < sample.at - bounds.scaleDownAfterMs) samples.shift();

  // What runs may differ for a moment from what was last reached; decided is on the latter.
  const decision = decide(
    samples.map(each => ({ ...each, servers: each === sample ? present.servers : each.servers })),
    bounds,
  );
  if (!decision) return;
  const { servers, reason } = decision;
  const summary = `web servers ${present.servers} → ${servers}: ${reason}`;
  log.info(summary);
  const balancer = present.balancer ?? balancerWithDefaults({}, present.web.host);
  await change(controller, {
    kind: 'autoscale',
    summary,
    after: { ...present, servers, balancer },
  });
  // What was measured with another number of servers says nothing about this one.
  samples.length = 0;
}
