/**
 * The store that the runtime map names: where it is, and what its keys begin with. Who fills it and who invalidates in it
 * have to mean the same one.
 */
import type { CacheMap } from '../../../map/runtime-map.ts';
import { CACHE_URL_VARIABLE } from '../../environment.ts';
import type { RedisStoreOptions } from './redis-store.ts';

/**
 * Address from the map, name and password from the environment.
 * @returns undefined where each process has its own memory alone
 */
export function storeOfMap(
  deployment: string,
  cache: CacheMap | undefined,
): Pick<RedisStoreOptions, 'target' | 'prefix' | 'buckets'> | undefined {
  if (!cache?.redis) return undefined;
  const { mode, nodes, buckets, tls } = cache.redis;
  return {
    target: { mode, nodes, ...credentials(), ...(tls ? { tls } : {}) },
    prefix: `${deployment}:${cache.generation}`,
    buckets,
  };
}

function credentials(): { username?: string; password?: string } {
  const url = process.env[CACHE_URL_VARIABLE];
  if (!url) return {};
  const { username, password } = new URL(url);
  return {
    ...(username ? { username: decodeURIComponent(username) } : {}),
    ...(password ? { password: decodeURIComponent(password) } : {}),
  };
}
