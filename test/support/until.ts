/** Waits for a condition instead of for a time. */
import { setTimeout as delay } from 'node:timers/promises';

/** In milliseconds. Who is asked has work of its own to do: the pause is twice as long as the answer took. */
const PAUSE = { least: 10, most: 500 };

export interface UntilOptions {
  /** What is waited for, for the error. */
  what?: string;
  /** In milliseconds. Default: 60000, far more than anything takes on a busy machine. */
  timeoutMs?: number;
}

/**
 * Asks again and again until the answer is neither false nor undefined, and returns it. An error that
 * `condition` throws counts as a no; the last one is the cause when time is up.
 */
export async function until<T>(
  condition: () => T | undefined | false | Promise<T | undefined | false>,
  { what = 'the condition', timeoutMs = 60_000 }: UntilOptions = {},
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  let cause: unknown;
  for (;;) {
    const asked = performance.now();
    try {
      const answer = await condition();
      if (answer !== false && answer !== undefined) return answer;
      cause = undefined;
    } catch (error) {
      cause = error;
    }
    if (performance.now() > deadline) {
      throw new Error(`waited ${timeoutMs} ms in vain until ${what}`, { cause });
    }
    const tookMs = performance.now() - asked;
    await delay(Math.min(PAUSE.most, Math.max(PAUSE.least, 2 * tookMs)));
  }
}
