/**
 * How many workers the queue asks for. Pure.
 *
 * Two things show that there are too few: how many messages there are for each worker, which is known at once when
 * many come; and how long the oldest has waited, which shows that a few slow ones keep all workers busy. The damping is that of
 * the web servers (autoscale/damping.ts).
 */
import { type Decision, decideCalmly, LARGEST_STEP, type Sample } from '../autoscale/damping.ts';

export interface QueueSample extends Sample {
  /** Messages that are due, or in some worker's hand, of all subscriptions. */
  depth: number;
  /** How long the one that waits the longest has been due, in milliseconds; 0 when none waits. */
  oldestMs: number;
}

export interface WorkerBounds {
  min: number;
  max: number;
  /** Messages for each worker. */
  depth: number;
  /** How long a message may wait, in milliseconds. */
  ageMs: number;
  scaleDownAfterMs: number;
}

/** @returns undefined to leave everything as it is */
export function decideWorkers(
  samples: readonly QueueSample[],
  bounds: WorkerBounds,
): Decision | undefined {
  return decideCalmly(samples, bounds, sample => recommend(sample, bounds), describe);
}

function recommend({ servers, depth, oldestMs }: QueueSample, bounds: WorkerBounds): number {
  const byDepth = Math.ceil(depth / bounds.depth);
  if (depth === 0 || oldestMs <= bounds.ageMs) return byDepth;
  // More of them, in proportion to how late it is; what is measured then says how to go on.
  const byAge = Math.ceil(servers * Math.min(LARGEST_STEP, oldestMs / bounds.ageMs));
  return Math.max(byDepth, byAge, servers + 1);
}

function describe({ depth, oldestMs }: QueueSample): string {
  const messages = `${depth} ${depth === 1 ? 'message' : 'messages'} in the queue`;
  return oldestMs > 0
    ? `${messages}, the oldest due for ${(oldestMs / 1_000).toFixed(1)} s`
    : messages;
}
