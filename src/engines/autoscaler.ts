/** The autoscaler as a unit. */
import type { UnitSpec } from '../machines/unit.ts';
import { ownCommandUnit, readyAtOnce } from './own-command.ts';

export const AUTOSCALER = 'autoscaler-1';

/** It changes what runs: the first to be stopped. */
const RANK = 40;

export function autoscalerUnit(folder: string, env: NodeJS.ProcessEnv): UnitSpec {
  const args = ['autoscale', '--dir', folder];
  return ownCommandUnit({
    name: AUTOSCALER,
    tier: 'automation',
    engine: 'autoscaler',
    args,
    folder,
    env,
    rank: RANK,
  });
}

export const autoscalerEngine = readyAtOnce;
