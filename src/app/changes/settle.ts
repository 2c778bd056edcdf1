/** Waits for transactions that run now: what they do is in the log in part, or not to be seen yet. */
import { setTimeout as delay } from 'node:timers/promises';
import { hasEnded, parseSnapshot, type Snapshot } from './snapshot.ts';

const PAUSE_MS = 50;

/** Runs one query and gives its rows. */
export type Ask = (text: string) => Promise<{ rows: { snapshot: string }[] }>;

export async function currentSnapshot(ask: Ask): Promise<Snapshot> {
  const { rows } = await ask('select pg_current_snapshot()::text as snapshot');
  return parseSnapshot(rows[0]!.snapshot);
}

/** Resolves when all transactions that run now have ended. @throws what asking throws; the signal's reason */
export async function untilAllEnded(ask: Ask, signal?: AbortSignal): Promise<void> {
  const { running } = await currentSnapshot(ask);
  for (const xid of running) {
    while (!hasEnded(xid, await currentSnapshot(ask))) {
      await delay(PAUSE_MS, undefined, signal ? { signal } : {});
    }
  }
}
