/** The invalidator as a unit. */
import { existsSync } from 'node:fs';
import type { EngineSupport, UnitSpec } from '../machines/unit.ts';
import { ownCommandUnit } from './own-command.ts';

/** Caches that hear nothing serve nothing: it is stopped after the web servers, before what it writes to and reads from. */
const RANK = 15;

/** @param socket where it is asked how it fares */
export function invalidatorUnit(
  name: string,
  folder: string,
  socket: string,
  env: NodeJS.ProcessEnv,
): UnitSpec {
  return ownCommandUnit({
    name,
    tier: 'invalidation',
    engine: 'invalidator',
    args: ['invalidate', '--dir', folder, '--name', name],
    folder,
    env,
    rank: RANK,
    startTimeoutMs: 20_000,
    probe: { socket },
  });
}

/** Nobody waits for what it reads: it listens, and says itself how far it is. */
export const invalidatorEngine: EngineSupport = {
  probe: async ({ probe: { socket } }) =>
    existsSync(String(socket))
      ? { ready: true }
      : { ready: false, reason: 'it does not listen yet' },
};
