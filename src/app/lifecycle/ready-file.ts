/**
 * How a process that serves nobody tells the supervisor that it works: a file, whose path is in the environment.
 *
 * Holds true here: what is in it is of the process that wrote it, which it names; of one that has ended it says nothing.
 */
import { writeFileSync } from 'node:fs';

/** Path of the file. */
export const READY_FILE_VARIABLE = 'BANYAN_READY_FILE';

export type ReadyState = 'starting' | 'ready';

/** Nothing where nobody asked for it. */
export function tellReadiness(state: ReadyState, env: NodeJS.ProcessEnv = process.env): void {
  const file = env[READY_FILE_VARIABLE];
  if (!file) return;
  try {
    writeFileSync(file, `${state} ${process.pid}\n`);
  } catch {
    // The supervisor then goes by whether it runs.
  }
}
