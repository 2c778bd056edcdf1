/** The autoscalers as units: one looks at the web servers, the other at the queue. */
import type { UnitSpec } from '../machines/unit.ts';
import { ownCommandUnit, readyAtOnce } from './own-command.ts';

export const AUTOSCALER = 'autoscaler-1';
export const WORKER_AUTOSCALER = 'worker-autoscaler-1';

/** They change what runs: the first to be stopped. */
const RANK = 40;

export function autoscalerUnit(folder: string, env: NodeJS.ProcessEnv): UnitSpec {
  return unit(AUTOSCALER, 'web', folder, env);
}

export function workerAutoscalerUnit(folder: string, env: NodeJS.ProcessEnv): UnitSpec {
  return unit(WORKER_AUTOSCALER, 'workers', folder, env);
}

function unit(name: string, tier: string, folder: string, env: NodeJS.ProcessEnv): UnitSpec {
  return ownCommandUnit({
    name,
    tier: 'automation',
    engine: 'autoscaler',
    args: ['autoscale', '--dir', folder, '--tier', tier],
    folder,
    env,
    rank: RANK,
  });
}

export const autoscalerEngine = readyAtOnce;
