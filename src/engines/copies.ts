/** The keeper of copied columns as a unit. */
import type { UnitSpec } from '../machines/unit.ts';
import { ownCommandUnit, readyAtOnce } from './own-command.ts';

export const COPIES = 'copies-1';

/** It reads and writes the databases: stopped before them. */
const RANK = 40;

export function copiesUnit(folder: string, env: NodeJS.ProcessEnv): UnitSpec {
  const args = ['keep-copies', '--dir', folder];
  return ownCommandUnit({
    name: COPIES,
    tier: 'automation',
    engine: 'copies',
    args,
    folder,
    env,
    rank: RANK,
  });
}

export const copiesEngine = readyAtOnce;
