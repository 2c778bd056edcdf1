/** Watches a new release's worker: one that runs and falls over its first job is found before the next is replaced. */
import { setTimeout as delay } from 'node:timers/promises';
import { BanyanError } from '../../errors.ts';
import type { Machine } from '../../machines/unit.ts';

const POLL_INTERVAL_MS = 100;

export class WorkerDied extends BanyanError {
  constructor(name: string, reason: string) {
    super('WORKER_DIED', {
      what: `${name} of the new release did not go on running: ${reason}`,
      where: name,
      remedy: `See \`banyan logs ${name}\` for the reason, and release again`,
    });
  }
}

/** @param watchMs how long to watch @throws WorkerDied */
export async function watchWorker(
  machine: Pick<Machine, 'states'>,
  name: string,
  watchMs: number,
): Promise<void> {
  const deadline = performance.now() + watchMs;
  while (performance.now() < deadline) {
    await delay(Math.min(POLL_INTERVAL_MS, Math.max(1, deadline - performance.now())));
    const state = (await machine.states()).find(unit => unit.name === name);
    if (!state || state.restarts > 0) throw new WorkerDied(name, state?.reason ?? 'it is gone');
  }
}
