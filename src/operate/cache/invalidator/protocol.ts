/** How an invalidator fares, as it tells itself: for `banyan status`. */
import type { CacheReport } from '../../../app/cache/feed-socket/wire.ts';

export interface InvalidatorStatus {
  name: string;
  /** The others stand by. */
  serves: boolean;
  /** Processes that are told what changes. */
  listeners: number;
  clusters: ClusterStatus[];
  /** Buckets of the store that did not take the last batch, and why; empty: all did, or there is no store. */
  storeTrouble: string | undefined;
  /** What the processes count, all together. */
  counts: CacheReport['counts'];
  hotKeys: CacheReport['hotKeys'];
}

export interface ClusterStatus {
  /** Its shard's id. */
  cluster: string;
  /** As the reader of the log says: `reading`, `searching`, `waiting`, `preparing`. */
  state: string;
  /** What has been told up to here; as PostgreSQL prints positions. */
  applied: string | undefined;
  /** Log that has not been told yet; undefined while the log is not read. */
  lagBytes: number | undefined;
  /** How long the oldest transaction that has not been told has waited; 0 when all have. */
  lagMs: number | undefined;
  /** From commit until it was told, of the last thousand transactions. */
  lagP50Ms: number | undefined;
  lagP99Ms: number | undefined;
  /** Tables whose changes are told: what is read from others is not cached. */
  tables: number;
  /** How often what happened was not known, and everything was forgotten. */
  gaps: number;
  lastGap: string | undefined;
  /** Why the log is not read, and what to do. */
  failure: { what: string; remedy: string | undefined } | undefined;
}
