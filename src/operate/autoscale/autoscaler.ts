/** The web servers' autoscaler: a unit that looks how busy they are and scales them between the bounds that the topology names. */
import { balancerWithDefaults } from '../../topology/defaults.ts';
import type { Controller } from '../controller.ts';
import type { DeploymentPaths } from '../deployment.ts';
import { change } from '../operations/change.ts';
import { runtimeSocket } from '../web/balancer-files.ts';
import { remember } from './damping.ts';
import { type Bounds, decide, type LoadSample } from './decide.ts';
import { LoadMeter } from './measure.ts';
import { log, watchOver } from './watch-over.ts';

/** Runs until it is told to stop. */
export async function autoscale(paths: DeploymentPaths, signal: AbortSignal): Promise<void> {
  const meter = new LoadMeter();
  const samples: LoadSample[] = [];
  await watchOver(paths, signal, 'how busy the web servers are', controller =>
    look(controller, meter, samples),
  );
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
  remember(samples, sample, bounds);

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
