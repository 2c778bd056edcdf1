/** Writes into the runtime map where the cache is. */
import { randomBytes } from 'node:crypto';
import { CLUSTER_BUCKETS } from '../../app/cache/redis/buckets.ts';
import type { CacheMap, RuntimeMap } from '../../map/runtime-map.ts';
import { changeMap } from '../change-map.ts';
import type { DeploymentPaths } from '../deployment.ts';

/** Part of every key, so that what an earlier store of the same place holds is never found. */
export function newGeneration(): string {
  return `${Date.now().toString(36)}-${randomBytes(2).toString('hex')}`;
}

export type PublishedRedis = NonNullable<CacheMap['redis']>;

/**
 * @param redis null: the processes' own memory alone; undefined: no cache at all
 * @param feeds names of the invalidators
 */
export async function publishCache(
  paths: DeploymentPaths,
  redis: Omit<PublishedRedis, 'buckets'> | null | undefined,
  feeds: readonly string[],
): Promise<void> {
  await changeMap(paths.map, ({ cache: before, ...map }) =>
    redis === undefined ? map : { ...map, cache: cacheOf(paths, map, before, redis, feeds) },
  );
}

/** Names the invalidators anew; where the cache is stays as it is. */
export async function publishFeeds(
  paths: DeploymentPaths,
  feeds: readonly string[],
): Promise<void> {
  await changeMap(paths.map, map =>
    map.cache ? { ...map, cache: { ...map.cache, feeds: feedsOf(paths, map, feeds) } } : map,
  );
}

function feedsOf(
  paths: DeploymentPaths,
  { database }: Pick<RuntimeMap, 'database'>,
  feeds: readonly string[],
): CacheMap['feeds'] {
  const addresses = feeds.map(name => ({ path: paths.socketFor(name) }));
  return addresses.length > 0 ? [{ clusters: database.shards.map(({ id }) => id), addresses }] : [];
}

function cacheOf(
  paths: DeploymentPaths,
  map: Pick<RuntimeMap, 'database'>,
  before: CacheMap | undefined,
  redis: Omit<PublishedRedis, 'buckets'> | null,
  feeds: readonly string[],
): CacheMap {
  // Nodes of a cluster come and go, and its entries stay. Any other change is another, empty store.
  const stays = before?.redis?.mode === 'cluster' && redis?.mode === 'cluster';
  return {
    generation: stays ? before.generation : newGeneration(),
    redis: redis && { ...redis, buckets: redis.mode === 'cluster' ? CLUSTER_BUCKETS : 1 },
    feeds: feedsOf(paths, map, feeds),
  };
}
