/** The autoscaler as a unit: the `banyan` command itself, as a process of its own. */
import type { EngineSupport, UnitSpec } from '../machines/unit.ts';

export const AUTOSCALER = 'autoscaler-1';

/** It changes what runs: the first to be stopped. */
const RANK = 40;

/** @param program the arguments that start the `banyan` command with the Node that runs now */
export function autoscalerUnit(
  program: string[],
  folder: string,
  env: NodeJS.ProcessEnv,
): UnitSpec {
  return {
    name: AUTOSCALER,
    tier: 'automation',
    engine: 'autoscaler',
    command: process.execPath,
    args: [...program, 'autoscale', '--dir', folder],
    cwd: folder,
    env,
    // It may be in the middle of an operation, which it finishes first.
    stop: { signal: 'SIGTERM', group: false, timeoutMs: 5_000 },
    rank: RANK,
    startTimeoutMs: 10_000,
    probe: {},
  };
}

/** Nobody waits for it: it works as soon as it runs. */
export const autoscalerEngine: EngineSupport = {
  probe: async () => ({ ready: true }),
};
