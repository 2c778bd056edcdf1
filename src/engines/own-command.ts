/** Units that are the `banyan` command itself, as processes of their own. */
import type { EngineSupport, UnitSpec } from '../machines/unit.ts';

export interface OwnCommandOptions {
  readonly name: string;
  readonly tier: string;
  readonly engine: string;
  /** What is typed after `banyan`. */
  readonly args: readonly string[];
  readonly folder: string;
  readonly env: NodeJS.ProcessEnv;
  readonly rank: number;
  readonly startTimeoutMs?: number;
  readonly probe?: UnitSpec['probe'];
}

const START_TIMEOUT_MS = 10_000;
const STOP_TIMEOUT_MS = 5_000;

/** By the command that runs at this moment, whether it was built or runs from its sources. */
export function ownCommandUnit(options: OwnCommandOptions): UnitSpec {
  const { name, tier, engine, args, folder, env, rank } = options;
  return {
    name,
    tier,
    engine,
    command: process.execPath,
    args: [...process.execArgv, process.argv[1]!, ...args],
    cwd: folder,
    env,
    // It may be in the middle of something, which it finishes first.
    stop: { signal: 'SIGTERM', group: false, timeoutMs: STOP_TIMEOUT_MS },
    rank,
    startTimeoutMs: options.startTimeoutMs ?? START_TIMEOUT_MS,
    probe: options.probe ?? {},
  };
}

/** Nobody waits for it: it works as soon as it runs. */
export const readyAtOnce: EngineSupport = {
  probe: async () => ({ ready: true }),
};
