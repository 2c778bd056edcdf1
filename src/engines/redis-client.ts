/** A connection to one Redis server, for operations: it asks, and gives up soon. */
import type { createClient } from '@redis/client';
import { BanyanError } from '../errors.ts';

const CONNECT_MS = 2_000;
const ANSWER_MS = 5_000;

export interface RedisAddress {
  host: string;
  port: number;
  username?: string;
  password?: string;
  tls?: boolean;
}

export type RedisClient = Awaited<ReturnType<typeof connectionTo>>['client'];

/** The library is loaded when it is needed: `banyan up` must not wait for it. */
async function connectionTo({ host, port, username, password, tls }: RedisAddress) {
  const library = await import('@redis/client');
  const options: NonNullable<Parameters<typeof createClient>[0]> = {
    ...(username ? { username } : {}),
    ...(password ? { password } : {}),
    commandOptions: { timeout: ANSWER_MS },
    socket: {
      host,
      port,
      connectTimeout: CONNECT_MS,
      reconnectStrategy: false,
      ...(tls ? { tls: true as const } : {}),
    },
  };
  return { client: library.createClient(options) };
}

export async function openRedis(at: RedisAddress): Promise<RedisClient> {
  // A client would be taken for a promise by `await`.
  const { client } = await connectionTo(at);
  // Who waits for an answer gets it as an error too.
  client.on('error', () => {});
  await client.connect();
  return client;
}

/** Runs `body` with one connection, which is closed in the end. */
export async function withRedis<T>(
  at: RedisAddress,
  body: (client: RedisClient) => Promise<T>,
): Promise<T> {
  const client = await openRedis(at);
  try {
    return await body(client);
  } finally {
    client.destroy();
  }
}

/** `redis://user:password@host:port`, as an address. */
export function addressOfUrl(url: string): RedisAddress {
  const { protocol, hostname, port, username, password } = new URL(url);
  return {
    host: hostname || 'localhost',
    port: Number(port || 6379),
    ...(username ? { username: decodeURIComponent(username) } : {}),
    ...(password ? { password: decodeURIComponent(password) } : {}),
    ...(protocol === 'rediss:' ? { tls: true } : {}),
  };
}

/** What a server tells of itself: `INFO`, by name. */
export type RedisInfo = Readonly<Record<string, string>>;

export function parseInfo(text: string): RedisInfo {
  const entries = text
    .split('\r\n')
    .filter(line => line !== '' && !line.startsWith('#'))
    .map(line => {
      const at = line.indexOf(':');
      return [line.slice(0, at), line.slice(at + 1)];
    });
  return Object.fromEntries(entries) as RedisInfo;
}

/** An external Redis that cannot be used as it is. */
export class ExternalRedisUnusable extends BanyanError {
  constructor(where: string, reason: string, cause?: unknown) {
    super('EXTERNAL_REDIS_UNUSABLE', {
      what: `The Redis that the topology names cannot be used: ${reason}`,
      where,
      remedy:
        'Check `cache.url`: host, port, user and password; remove it to let Banyan run Redis, or `cache: true` to do without',
      cause,
    });
  }
}

export interface ExternalRedis {
  mode: 'single' | 'cluster';
  version: string;
  /** For people: what is not as it should be. */
  notes: string[];
}

/** The functions that the store's scripts use. */
const OLDEST = 6;

/** @throws ExternalRedisUnusable */
export async function examineExternalRedis(url: string): Promise<ExternalRedis> {
  const at = addressOfUrl(url);
  const where = `${at.host}:${at.port}`;
  try {
    return await withRedis(at, async redis => {
      const info = parseInfo(String(await redis.sendCommand(['INFO'])));
      const version = info.redis_version ?? 'unknown';
      if (Number.parseInt(version, 10) < OLDEST) {
        throw new ExternalRedisUnusable(
          where,
          `it is Redis ${version}, and ${OLDEST} is the oldest`,
        );
      }
      if (info.role && info.role !== 'master') {
        throw new ExternalRedisUnusable(where, 'it is a replica, and takes no writes');
      }
      const policy = info.maxmemory_policy ?? (await policyOf(redis));
      const notes =
        policy === 'noeviction'
          ? [
              `The Redis at ${where} has maxmemory-policy noeviction: when it is full it takes nothing new, and the cache stops working. Set it to allkeys-lru there`,
            ]
          : policy?.startsWith('volatile-')
            ? [
                `The Redis at ${where} has maxmemory-policy ${policy}: allkeys-lru lets what is asked the least go, whatever its time to live`,
              ]
            : [];
      return { mode: info.cluster_enabled === '1' ? 'cluster' : 'single', version, notes };
    });
  } catch (error) {
    if (error instanceof BanyanError) throw error;
    throw new ExternalRedisUnusable(where, (error as Error).message || String(error), error);
  }
}

async function policyOf(redis: RedisClient): Promise<string | undefined> {
  try {
    const { 'maxmemory-policy': policy } = await redis.configGet('maxmemory-policy');
    return policy;
  } catch {
    // Managed services forbid it.
    return undefined;
  }
}
