/** How fast a subscription's messages are done: from two looks at its counters. Pure. */
import type { SubscriptionStats } from '../../app/queue/engine.ts';

export interface Rate {
  donePerSecond: number;
  /** Attempts that failed, those that were the last among them. */
  failedPerSecond: number;
}

/** @returns the rates in the order of `after`; 0 for a subscription that was not there before */
export function rateOf(
  before: readonly SubscriptionStats[],
  after: readonly SubscriptionStats[],
  ms: number,
): Rate[] {
  return after.map(now => {
    const then = before.find(
      ({ topic, subscription }) => topic === now.topic && subscription === now.subscription,
    );
    // A counter that was begun anew counts from there.
    const perSecond = (a: number, b: number) => Math.max(0, a - b) / (ms / 1_000);
    return {
      donePerSecond: then ? perSecond(now.completed, then.completed) : 0,
      failedPerSecond: then ? perSecond(now.failed + now.died, then.failed + then.died) : 0,
    };
  });
}
