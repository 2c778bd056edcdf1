/**
 * What the cache tier should be. Plain data, kept in the catalog and in the journal as the web tier's shape is; no secret
 * is in it.
 */
import { createHash } from 'node:crypto';
import { addressOfUrl } from '../../engines/redis-client.ts';
import type { CompleteCache } from '../../topology/complete.ts';

export interface CacheShape {
  /**
   * - `none`: nothing that was read from the database is cached.
   * - `memory`: each process's own, told by the invalidator.
   * - `single`, `cluster`: with Redis servers that Banyan runs. `external`: with one that it does not.
   */
  kind: 'none' | 'memory' | 'single' | 'cluster' | 'external';
  /** Parts of a cluster. */
  servers: number;
  /** Copies of each part. */
  replicas: number;
  memoryMb: number;
  invalidators: number;
  external?: ExternalCache;
}

export interface ExternalCache {
  host: string;
  port: number;
  tls: boolean;
  /** Changes with its user or password. */
  credentials: string;
}

/** Where the catalog keeps the shape that was last reached. */
export const CACHE_SHAPE = 'cache.shape';

export const NO_CACHE: CacheShape = {
  kind: 'none',
  servers: 0,
  replicas: 0,
  memoryMb: 0,
  invalidators: 0,
};

/** The shape that the topology asks for. */
export function cacheShapeOf(cache: CompleteCache | undefined): CacheShape {
  if (!cache) return NO_CACHE;
  const { servers, replicas, memoryMb, invalidators, url } = cache;
  if (url) {
    const { host, port, tls = false } = addressOfUrl(url);
    const external = { host, port, tls, credentials: credentialsOf(url) };
    return { kind: 'external', servers: 0, replicas: 0, memoryMb: 0, invalidators, external };
  }
  if (servers === 0) return { kind: 'memory', servers, replicas: 0, memoryMb: 0, invalidators };
  return {
    kind: servers === 1 ? 'single' : 'cluster',
    servers,
    replicas,
    memoryMb,
    invalidators,
  };
}

/** A text that changes when the credentials in it do, and does not tell them. */
export function credentialsOf(url: string): string {
  return createHash('sha256').update(url).digest('hex').slice(0, 12);
}

/** How a shape is called: `a Redis Cluster of 3, each with 1 replica`. */
export function describeCache({ kind, servers, replicas, external }: CacheShape): string {
  switch (kind) {
    case 'none':
      return 'none';
    case 'memory':
      return "each server's memory";
    case 'single':
      return 'one Redis';
    case 'cluster':
      return `a Redis Cluster of ${servers}${replicas > 0 ? ` with ${replicas} ${replicas === 1 ? 'replica' : 'replicas'} each` : ''}`;
    case 'external':
      return `the Redis at ${external?.host}:${external?.port}`;
  }
}
