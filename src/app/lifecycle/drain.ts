/**
 * What a process does besides serving HTTP, and has to finish before it ends: the queue's workers.
 *
 * Holds true here: on SIGTERM each is drained once. In a process with a web server the server's life sees to that,
 * together with its requests; in one without, such as a worker, this does, and ends the process with 0.
 */
import { readEnvironment } from '../environment.ts';
import { log } from '../telemetry/log.ts';

/** Resolves when nothing is left to finish, or the time is up and what is left was given back. */
export type Drain = (timeoutMs: number) => Promise<void>;

/** As that of requests. */
export const DRAIN_TIMEOUT_MS = 10_000;

const drains = new Set<Drain>();
const SIGNALS = ['SIGTERM', 'SIGINT'] as const;

/** @internal Whether servers of this process take the signals themselves. */
export const signals = { areServers: false };

/** Calls `drain` when the process is told to stop. @returns how to take that back */
export function onDrain(drain: Drain): () => void {
  drains.add(drain);
  if (drains.size === 1) for (const signal of SIGNALS) process.on(signal, endProcess);
  return () => {
    if (!drains.delete(drain) || drains.size > 0) return;
    for (const signal of SIGNALS) process.off(signal, endProcess);
  };
}

/** Never rejects: what could not be drained is logged. */
export async function drainAll(timeoutMs: number): Promise<void> {
  await Promise.all(
    [...drains].map(drain =>
      drain(timeoutMs).catch(error => log.error({ err: error }, 'something was not drained')),
    ),
  );
}

let isEnding = false;

function endProcess(): void {
  if (signals.areServers || isEnding) return;
  isEnding = true;
  void drainAll(readEnvironment().drainTimeoutMs ?? DRAIN_TIMEOUT_MS).then(() => process.exit(0));
}
