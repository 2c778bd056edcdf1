/** The keeper of copied columns as a unit: the `banyan` command itself, as a process of its own. */
import type { EngineSupport, UnitSpec } from '../machines/unit.ts';

export const COPIES = 'copies-1';

/** It reads and writes the databases: stopped before them. */
const RANK = 40;

/** @param program the arguments that start the `banyan` command with the Node that runs now */
export function copiesUnit(program: string[], folder: string, env: NodeJS.ProcessEnv): UnitSpec {
  return {
    name: COPIES,
    tier: 'automation',
    engine: 'copies',
    command: process.execPath,
    args: [...program, 'keep-copies', '--dir', folder],
    cwd: folder,
    env,
    stop: { signal: 'SIGTERM', group: false, timeoutMs: 5_000 },
    rank: RANK,
    startTimeoutMs: 10_000,
    probe: {},
  };
}

/** Nobody waits for it: it works as soon as it runs. */
export const copiesEngine: EngineSupport = {
  probe: async () => ({ ready: true }),
};
