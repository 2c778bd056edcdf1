/** Waiting for what a job returns: woken when it may have changed, and looking by itself now and then. */
import type { QueueEngine } from './engine.ts';
import { JobCancelled, JobFailed, ResultTimeout } from './errors.ts';
import type { ResultOptions } from './types.ts';

/** Behind NOTIFY. */
const POLL_MS = 500;

/** @throws JobFailed, JobCancelled, ResultTimeout; the signal's reason */
export async function awaitResult(
  engine: QueueEngine,
  id: string,
  { timeoutMs, signal, onProgress }: Omit<ResultOptions, 'timeout'> & { timeoutMs: number },
): Promise<unknown> {
  const deadline = performance.now() + timeoutMs;
  let changed = Promise.withResolvers<void>();
  const unwatch = engine.watchResult(id, () => changed.resolve());
  const onAbort = () => changed.resolve();
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    for (let told = ''; ; ) {
      signal?.throwIfAborted();
      changed = Promise.withResolvers<void>();
      const state = await engine.result(id);
      if (state.state === 'done') return state.value;
      if (state.state === 'failed') throw new JobFailed(id, state.error);
      if (state.state === 'cancelled') throw new JobCancelled(id);
      if (state.state === 'waiting' && onProgress) {
        const now = JSON.stringify(state);
        if (now !== told) onProgress({ done: state.progress, text: state.text });
        told = now;
      }
      const left = deadline - performance.now();
      if (left <= 0) throw new ResultTimeout(id, timeoutMs);
      const timer = setTimeout(() => changed.resolve(), Math.min(left, POLL_MS));
      await changed.promise;
      clearTimeout(timer);
    }
  } finally {
    unwatch();
    signal?.removeEventListener('abort', onAbort);
  }
}
