/** A program whose time of day is what a test says (`own-clock.c`). */
import { execFileSync } from 'node:child_process';
import path from 'node:path';
import type { UnitSpec } from '../../src/machines/unit.ts';

/** @param library where it is to be */
export function compileOwnClock(library: string): void {
  const source = path.join(import.meta.dirname, 'own-clock.c');
  execFileSync('cc', ['-shared', '-fPIC', '-O2', '-o', library, source]);
}

/** Its children have the same. @param clock a file with the seconds by which it is before ours */
export function withOwnClock(
  { command, args = [], ...spec }: UnitSpec,
  library: string,
  clock: string,
): UnitSpec {
  const set = [`LD_PRELOAD=${library}`, `OWN_CLOCK=${clock}`];
  return { ...spec, command: 'env', args: [...set, command, ...args] };
}
