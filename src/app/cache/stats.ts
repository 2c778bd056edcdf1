/** What the cache counts, and tells to whoever subscribes. */
import { EventEmitter } from 'node:events';

export interface CacheCounts {
  /** Answered from the process's own memory. */
  localHits: number;
  /** Answered from Redis. */
  sharedHits: number;
  /** Of the hits, those of an entry that had expired and is being computed anew. */
  staleHits: number;
  /** Answered by somebody else's load. */
  joined: number;
  /** Loaders that were run. */
  loads: number;
  failedLoads: number;
  /** Results that were not kept: something had changed meanwhile, or might have. */
  refusedFills: number;
  /** Entries that were not used since the session had written after them. */
  tooOld: number;
  /** Entries that an invalidation dropped here. */
  invalidated: number;
  /** Times that everything was dropped, since it was not known what had changed. */
  gaps: number;
}

export function noCounts(): CacheCounts {
  return {
    localHits: 0,
    sharedHits: 0,
    staleHits: 0,
    joined: 0,
    loads: 0,
    failedLoads: 0,
    refusedFills: 0,
    tooOld: 0,
    invalidated: 0,
    gaps: 0,
  };
}

export interface CacheEvents {
  /** A result was given out and not kept. `why` completes "it …". */
  refused: [{ key: string; why: string }];
  loaded: [{ key: string; ms: number }];
  gap: [{ cluster: string; reason: string }];
}

export class CacheEmitter extends EventEmitter<CacheEvents> {}
