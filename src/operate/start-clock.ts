/**
 * When the user pressed Enter.
 *
 * `npm start` runs for a quarter of a second before it has started us; the user waits for that as
 * well, so the time to the first response is counted from there where the system tells it.
 */
import { readFileSync } from 'node:fs';

/** How far up the parents npm may be: npm → shell → us, or one shell more. */
const GENERATIONS = 3;

/** The first moment of the command, in milliseconds on `performance.now()`'s clock: 0 or before. */
export function commandStartMs(): number {
  if (process.platform !== 'linux' || !process.env.npm_lifecycle_event) return 0;
  try {
    const self = statOf(process.pid);
    let { parent, startTicks } = self;
    for (let generation = 0; generation < GENERATIONS && parent > 1; generation++) {
      const ancestor = statOf(parent);
      if (ancestor.name.startsWith('npm')) startTicks = ancestor.startTicks;
      parent = ancestor.parent;
    }
    return (startTicks - self.startTicks) * TICK_MS;
  } catch {
    return 0;
  }
}

/** USER_HZ is 100 on every Linux that Node runs on. */
const TICK_MS = 10;

/** Fields 2, 4 and 22 of proc(5). */
function statOf(pid: number): { name: string; parent: number; startTicks: number } {
  const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const open = text.indexOf('(');
  const close = text.lastIndexOf(')');
  const fields = text.slice(close + 2).split(' ');
  return {
    name: text.slice(open + 1, close),
    parent: Number(fields[1]),
    startTicks: Number(fields[19]),
  };
}
