/** The invalidator as a unit: the `banyan` command itself, as a process of its own. */
import { existsSync } from 'node:fs';
import type { EngineSupport, UnitSpec } from '../machines/unit.ts';

/** Caches that hear nothing serve nothing: it is stopped after the web servers, before what it writes to and reads from. */
const RANK = 15;

export interface InvalidatorUnitOptions {
  name: string;
  /** The arguments that start the `banyan` command with the Node that runs now. */
  program: string[];
  folder: string;
  /** Where it is asked how it fares. */
  socket: string;
  env: NodeJS.ProcessEnv;
}

export function invalidatorUnit(options: InvalidatorUnitOptions): UnitSpec {
  const { name, program, folder, socket, env } = options;
  return {
    name,
    tier: 'invalidation',
    engine: 'invalidator',
    command: process.execPath,
    args: [...program, 'invalidate', '--dir', folder, '--name', name],
    cwd: folder,
    env,
    stop: { signal: 'SIGTERM', group: false, timeoutMs: 5_000 },
    rank: RANK,
    startTimeoutMs: 20_000,
    probe: { socket },
  };
}

/** Nobody waits for what it reads: it listens, and says itself how far it is. */
export const invalidatorEngine: EngineSupport = {
  probe: async ({ probe: { socket } }) =>
    existsSync(String(socket))
      ? { ready: true }
      : { ready: false, reason: 'it does not listen yet' },
};
