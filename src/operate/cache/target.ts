/** How the store in the map is reached: address from the map, name and password from the environment. */

import type { RedisTarget } from '../../app/cache/redis/connection.ts';
import { CACHE_URL_VARIABLE } from '../../app/environment.ts';
import { addressOfUrl } from '../../engines/redis-client.ts';
import type { CacheMap } from '../../map/runtime-map.ts';

export function targetOf(
  { mode, nodes, tls }: NonNullable<CacheMap['redis']>,
  env: NodeJS.ProcessEnv,
): RedisTarget {
  const url = env[CACHE_URL_VARIABLE];
  const { username, password } = url ? addressOfUrl(url) : {};
  return {
    mode,
    nodes,
    ...(username ? { username } : {}),
    ...(password ? { password } : {}),
    ...(tls ? { tls } : {}),
  };
}
