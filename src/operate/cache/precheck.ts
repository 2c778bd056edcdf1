/** What can be found out of the cache tier before anything is touched. */
import { findRedis } from '../../engines/redis.ts';
import { examineExternalRedis } from '../../engines/redis-client.ts';
import type { CompleteCache } from '../../topology/complete.ts';
import type { CacheContext } from './context.ts';
import { type CacheShape, cacheShapeOf } from './shape.ts';

/** @throws RedisMissing, ExternalRedisUnusable */
export async function precheckCache(
  { externalUrl }: Pick<CacheContext, 'externalUrl'>,
  { kind }: CacheShape,
): Promise<void> {
  if (kind === 'single' || kind === 'cluster') findRedis();
  if (kind === 'external' && externalUrl) await examineExternalRedis(externalUrl);
}

/** What should be different about the Redis that the topology names; nothing of one that cannot be reached, which `precheckCache` says. */
export async function cacheNotes(
  { externalUrl }: Pick<CacheContext, 'externalUrl'>,
  cache: CompleteCache | undefined,
): Promise<string[]> {
  if (cacheShapeOf(cache).kind !== 'external' || !externalUrl) return [];
  const found = await examineExternalRedis(externalUrl).catch(() => undefined);
  return found?.notes ?? [];
}
