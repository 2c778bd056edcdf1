/** What can be found out of the cache tier before anything is touched. */
import { findRedis } from '../../engines/redis.ts';
import { examineExternalRedis } from '../../engines/redis-client.ts';
import type { CacheContext } from './context.ts';
import type { CacheShape } from './shape.ts';

/** @throws RedisMissing, ExternalRedisUnusable */
export async function precheckCache(
  { externalUrl }: Pick<CacheContext, 'externalUrl'>,
  { kind }: CacheShape,
): Promise<void> {
  if (kind === 'single' || kind === 'cluster') findRedis();
  if (kind === 'external' && externalUrl) await examineExternalRedis(externalUrl);
}
