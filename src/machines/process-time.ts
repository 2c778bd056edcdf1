/** How much of the processors processes have used, asked from the kernel. Linux; elsewhere nothing is known. */
import { readdirSync, readFileSync } from 'node:fs';

/** USER_HZ is 100 on every Linux that Node runs on. */
export const TICKS_PER_SECOND = 100;

/** Processor time of each process group so far. Empty where there is no /proc. */
export function ticksOfGroups(groups: ReadonlySet<number>): Map<number, number> {
  const ticks = new Map<number, number>();
  let names: string[];
  try {
    names = readdirSync('/proc');
  } catch {
    return ticks;
  }
  for (const name of names) {
    if (!/^\d+$/.test(name)) continue;
    let stat: string;
    try {
      stat = readFileSync(`/proc/${name}/stat`, 'utf8');
    } catch {
      continue;
    }
    // From the third field on: 5 is the group, 14 and 15 the time in user and in kernel mode. proc(5)
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const group = Number(fields[2]);
    if (!groups.has(group)) continue;
    const used = Number(fields[11]) + Number(fields[12]);
    ticks.set(group, (ticks.get(group) ?? 0) + used);
  }
  return ticks;
}
