/**
 * What the invalidator tells processes: the interface between this room and whoever carries it (README.md).
 *
 * Holds true here: a listener hears every batch once and in order, or hears of a gap before it hears the next one.
 */
import type { Commit } from './position.ts';
import type { Coverages } from './tags.ts';

/** The cluster of explicit tags: its "LSN" is a number that only grows. */
export const EXPLICIT = '~';

/** A transaction that committed, and what it touched. */
export interface Invalidation extends Commit {
  readonly tags: readonly string[];
}

/** All that committed in one cluster with an end in `(from, upto]`. */
export interface Batch {
  readonly cluster: string;
  readonly from: bigint;
  readonly upto: bigint;
  /** In the order of their commits. */
  readonly invalidations: readonly Invalidation[];
}

export type FeedEvent =
  /** Which tables' changes are in the batches from `from` on. What was told is kept until a gap. */
  | {
      readonly kind: 'covers';
      readonly cluster: string;
      readonly from: bigint;
      readonly tables: Coverages;
    }
  | { readonly kind: 'batch'; readonly batch: Batch }
  /** What happened before `upto` is not known; undefined: nor is where it ends. */
  | {
      readonly kind: 'gap';
      readonly cluster: string;
      readonly upto: bigint | undefined;
      readonly reason: string;
    };

export type FeedListener = (event: FeedEvent) => void;

export interface InvalidationFeed {
  /**
   * Begins, and reconnects by itself until the returned function is called.
   * The clusters that it will tell of are known at once, or come with their first `covers`.
   */
  connect(listener: FeedListener): () => void;
  /**
   * Invalidates tags that no log tells of.
   * Resolves when the batch that holds them has been told to the listener.
   * @throws when the invalidator cannot be reached
   */
  invalidate(tags: readonly string[]): Promise<void>;
}
