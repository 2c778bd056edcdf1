/**
 * The shared store, L2, as the invalidator sees it.
 *
 * Holds true here: `apply` may be called again with what was applied already; a hole is found by the store itself.
 */
import type { Batch } from './feed.ts';

export interface Applied {
  /** Buckets that have the batch now. */
  readonly buckets: number;
  /** Buckets that could not be reached, and why; they will have a hole, which they find themselves. */
  readonly unreachable: readonly { readonly bucket: number; readonly error: unknown }[];
  /** Buckets in which something before `from` was missing that the store did not have any more: they trust nothing of before. */
  readonly begunAnew: readonly number[];
}

export interface InvalidationStore {
  /** Applies a batch to every bucket. Never throws for a bucket that is away: it says so. */
  apply(batch: Batch): Promise<Applied>;
  /** What happened in a cluster before `upto` is not known: nothing that was vouched for before holds. */
  flush(cluster: string, upto: bigint): Promise<void>;
  close(): Promise<void>;
}
