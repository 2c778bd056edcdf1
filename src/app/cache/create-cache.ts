/** Makes a cache of what the runtime map says, and follows the map: Redis may come, go, and be another one. */
import type pg from 'pg';
import { readRuntimeMap, watchRuntimeMap } from '../../map/map-file.ts';
import type { CacheMap, RuntimeMap } from '../../map/runtime-map.ts';
import { readEnvironment } from '../environment.ts';
import { log } from '../telemetry/log.ts';
import { Cache } from './cache.ts';
import { InvalidCacheOption } from './errors.ts';
import { EXPLICIT, type InvalidationFeed } from './feed.ts';
import { FeedSocket } from './feed-socket/feed-socket.ts';
import type { CacheReport } from './feed-socket/wire.ts';
import { LocalEntries } from './local-entries.ts';
import { InvalidationMemory } from './memory.ts';
import type { CacheParts } from './parts.ts';
import { DatabaseReads } from './reads/database-reads.ts';
import type { RedisTarget } from './redis/connection.ts';
import { RedisStore } from './redis/redis-store.ts';
import { storeOfMap } from './redis/store-of-map.ts';
import { SessionNeeds } from './session-needs.ts';
import { SharedEntries } from './shared-entries.ts';

export interface CacheOptions {
  /** The pool that loaders read through: one of `createPool`. */
  pool: pg.Pool;
  /** What entries take in this process, in megabytes, by their encoding. Default: 64. */
  maxMemoryMb?: number;
  /**
   * Loaders that may run at a time in this process; the others wait. So a cache that is lost does not take the
   * database along. Default: as many as the pool has connections.
   */
  maxConcurrentLoads?: number;
  /** The runtime map. Default: that of the environment. */
  mapFile?: string;
}

/** @internal For tests: in the place of what the map says. */
export interface CacheWiring {
  readonly feed?: InvalidationFeed;
  /** Whom the feed tells of, besides explicit tags. */
  readonly clusters?: readonly string[];
  readonly redis?: { target: RedisTarget; prefix: string; buckets: number; timeoutMs?: number };
  readonly memory?: InvalidationMemory;
}

const MEGABYTE = 1024 * 1024;
const DEFAULT_MEMORY_MB = 64;
const DEFAULT_LOADS = 10;
const TOLD_KEYS = 20;

/**
 * A cache beside a pool.
 * @throws InvalidCacheOption; InvalidRuntimeMap when the map on disk is damaged
 * @example
 * const cache = createCache({ pool });
 * const article = await cache.get(['article', slug], () => findArticle(slug));
 */
export function createCache(options: CacheOptions, wiring: CacheWiring = {}): Cache {
  const { pool, maxMemoryMb = DEFAULT_MEMORY_MB } = options;
  const { maxConcurrentLoads = pool.options.max ?? DEFAULT_LOADS } = options;
  if (!(maxMemoryMb > 0)) {
    throw new InvalidCacheOption('maxMemoryMb', maxMemoryMb, 'Give a number of megabytes above 0');
  }
  if (!Number.isInteger(maxConcurrentLoads) || maxConcurrentLoads < 1) {
    throw new InvalidCacheOption('maxConcurrentLoads', maxConcurrentLoads, 'Give a number from 1');
  }
  const environment = readEnvironment();
  const mapFile = options.mapFile ?? environment.mapFile;
  const memory = wiring.memory ?? new InvalidationMemory();
  const reads = new DatabaseReads(pool);
  const link = new RedisLink(memory);
  const { redis } = wiring;
  if (redis) link.open(redis);
  if (wiring.clusters) memory.follow([...wiring.clusters, EXPLICIT]);

  let map: RuntimeMap | undefined;
  const take = (next: RuntimeMap) => {
    map = next;
    const { cache } = next;
    memory.follow(cache ? [...cache.feeds.flatMap(({ clusters }) => clusters), EXPLICIT] : []);
    link.follow(next.deployment, cache);
  };
  let feed = wiring.feed;
  let unwatch = () => {};
  if (mapFile && !feed) {
    take(readRuntimeMap(mapFile));
    unwatch = watchRuntimeMap(mapFile, map!, take, error =>
      log.warn({ err: error }, 'the runtime map cannot be read; the last one stays'),
    );
    feed = new FeedSocket({
      addresses: () => map?.cache?.feeds.flatMap(({ addresses }) => addresses) ?? [],
      name: environment.unit,
      report: () => reportOf(cache),
    });
  }
  const parts: CacheParts = {
    local: new LocalEntries(maxMemoryMb * MEGABYTE),
    get shared() {
      return link.entries;
    },
    memory,
    feed,
    reads,
    needs: new SessionNeeds(reads),
    maxLoads: maxConcurrentLoads,
    onClose: async () => {
      unwatch();
      reads.close();
      await link.close();
    },
  };
  const cache: Cache = new Cache(parts);
  return cache;
}

/** The Redis that the map names. */
class RedisLink {
  readonly #memory: InvalidationMemory;
  #of: string | undefined;
  #store: RedisStore | undefined;
  #complaint: string | undefined;
  entries: SharedEntries | undefined;

  constructor(memory: InvalidationMemory) {
    this.#memory = memory;
  }

  open(redis: NonNullable<CacheWiring['redis']>): void {
    this.#store = new RedisStore({ ...redis, onError: error => this.#note(error) });
    this.entries = new SharedEntries(this.#store, this.#memory);
  }

  follow(deployment: string, cache: CacheMap | undefined): void {
    const { redis, generation } = cache ?? {};
    const of = JSON.stringify([redis, generation]);
    if (of === this.#of) return;
    this.#of = of;
    void this.close();
    const store = storeOfMap(deployment, cache);
    if (store) this.open(store);
  }

  async close(): Promise<void> {
    const store = this.#store;
    this.#store = undefined;
    this.entries = undefined;
    await store?.close();
  }

  /** Each new reason once. */
  #note(error: unknown): void {
    const complaint = String(error);
    if (complaint === this.#complaint) return;
    this.#complaint = complaint;
    log.warn({ err: error }, 'Redis cannot be reached; the database serves until it can');
  }
}

function reportOf(cache: Cache): CacheReport {
  return {
    counts: { ...cache.counts },
    hotKeys: cache
      .topKeys(TOLD_KEYS)
      .map(({ key, weight }) => ({ key, calls: Math.round(weight) })),
  };
}
