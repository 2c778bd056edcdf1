/** Asks again and again until there is an answer, with growing pauses. */
import { setTimeout as delay } from 'node:timers/promises';

const PAUSE_MS = 20;
const PAUSE_LIMIT_MS = 250;

/** @returns the first answer that is not undefined; undefined after `timeoutMs` */
export async function pollUntil<T>(
  timeoutMs: number,
  look: () => Promise<T | undefined>,
): Promise<T | undefined> {
  const deadline = performance.now() + timeoutMs;
  for (let pause = PAUSE_MS; ; pause = Math.min(pause * 1.5, PAUSE_LIMIT_MS)) {
    const answer = await look();
    if (answer !== undefined || performance.now() >= deadline) return answer;
    await delay(pause);
  }
}
