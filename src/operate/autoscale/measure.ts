/** How busy the web servers are: their processors' time, and what the balancers say of them. */
import { readdirSync, readFileSync } from 'node:fs';
import { HaproxyRuntime } from '../../engines/haproxy-runtime.ts';
import type { UnitState } from '../../machines/unit.ts';
import type { LoadSample } from './decide.ts';

/** USER_HZ is 100 on every Linux that Node runs on. */
const TICKS_PER_SECOND = 100;

export class LoadMeter {
  #before: { at: number; ticks: Map<number, number> } | undefined;

  /**
   * @param states of all units
   * @param runtimeSockets of the balancers
   * @returns undefined the first time: time that was used is known from the second on
   */
  async sample(states: UnitState[], runtimeSockets: string[]): Promise<LoadSample | undefined> {
    const servers = states.filter(({ tier, phase }) => tier === 'web' && phase === 'ready');
    const at = performance.now();
    const ticks = ticksOfGroups(new Set(servers.flatMap(({ pid }) => pid ?? [])));
    const before = this.#before;
    this.#before = { at, ticks };
    let inFlight = 0;
    let queued = 0;
    for (const socket of runtimeSockets) {
      const statistics = await new HaproxyRuntime(socket).statistics();
      queued += statistics.queued;
      for (const server of statistics.servers) {
        inFlight += server.current;
        queued += server.queued;
      }
    }
    if (!before || servers.length === 0) return undefined;
    let used = 0;
    // A server that is new since the last time has used nothing that counts yet.
    for (const [group, now] of ticks) used += Math.max(0, now - (before.ticks.get(group) ?? now));
    const processors = used / TICKS_PER_SECOND / ((at - before.at) / 1_000);
    return { at, servers: servers.length, processors, inFlight, queued };
  }
}

/** Processor time of each process group so far. Empty where there is no /proc; then requests alone count. */
function ticksOfGroups(groups: Set<number>): Map<number, number> {
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
