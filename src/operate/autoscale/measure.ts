/** How busy the web servers are: their processors' time, and what the balancers say of them. */
import { HaproxyRuntime } from '../../engines/haproxy-runtime.ts';
import { TICKS_PER_SECOND, ticksOfGroups } from '../../machines/process-time.ts';
import type { UnitState } from '../../machines/unit.ts';
import type { LoadSample } from './decide.ts';

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
    // Where nothing is known of it requests alone count.
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
