/**
 * Watches a new release's servers while they get their first requests: a server that is ready and then
 * answers with errors is found here, before the next one is replaced.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { HaproxyRuntime } from '../../engines/haproxy-runtime.ts';
import { BanyanError } from '../../errors.ts';

export interface Sample {
  total: number;
  errors: number;
}

/** With fewer answers than this nothing can be said. */
const ENOUGH_ANSWERS = 10;
/** A share of errors below this is not the release's fault. */
const TOLERATED = 0.02;
/** So many times as many errors as the old release makes at the same time count as risen. */
const RISEN = 2;
const POLL_INTERVAL_MS = 100;

export class ErrorsRose extends BanyanError {
  constructor(server: string, after: Sample, before: Sample) {
    const share = ({ total, errors }: Sample) => `${errors} of ${total} answers`;
    super('ERRORS_ROSE', {
      what: `${server} of the new release answers with errors (5xx): ${share(after)}; the old release: ${share(before)} at the same time`,
      where: server,
      remedy: `See \`banyan logs ${server}\` for the reason, and release again`,
    });
  }
}

/** Pure. */
export function haveErrorsRisen(after: Sample, before: Sample): boolean {
  if (after.total < ENOUGH_ANSWERS) return false;
  const rate = after.errors / after.total;
  const usual = before.total > 0 ? before.errors / before.total : 0;
  return rate > TOLERATED && rate > usual * RISEN;
}

/**
 * @param names the new release's servers; the others are the measure
 * @param watchMs how long to watch
 * @throws ErrorsRose
 */
export async function watchServers(
  runtimeSockets: string[],
  names: Set<string>,
  watchMs: number,
): Promise<void> {
  const begin = await sample(runtimeSockets);
  const deadline = performance.now() + watchMs;
  while (performance.now() < deadline) {
    await delay(Math.min(POLL_INTERVAL_MS, Math.max(1, deadline - performance.now())));
    const now = await sample(runtimeSockets);
    const before: Sample = { total: 0, errors: 0 };
    const since = [...now].map(([name, { total, errors }]) => {
      const then = begin.get(name) ?? { total: 0, errors: 0 };
      return { name, total: total - then.total, errors: errors - then.errors };
    });
    for (const { name, total, errors } of since) {
      if (names.has(name)) continue;
      before.total += total;
      before.errors += errors;
    }
    for (const { name, ...after } of since) {
      if (names.has(name) && haveErrorsRisen(after, before)) {
        throw new ErrorsRose(name, after, before);
      }
    }
  }
}

/** Answers and errors of each server, over all balancers. */
async function sample(runtimeSockets: string[]): Promise<Map<string, Sample>> {
  const samples = new Map<string, Sample>();
  for (const socket of runtimeSockets) {
    const { servers } = await new HaproxyRuntime(socket).statistics();
    for (const { name, total, errors5xx } of servers) {
      const sum = samples.get(name) ?? { total: 0, errors: 0 };
      samples.set(name, { total: sum.total + total, errors: sum.errors + errors5xx });
    }
  }
  return samples;
}
