/** How the cache tier fares, asked from the invalidators and the Redis servers themselves: for `banyan status`. */
import { connect } from 'node:net';
import { Lines, type ToProcess } from '../../app/cache/feed-socket/wire.ts';
import { parseInfo } from '../../engines/redis-client.ts';
import { askRedis } from '../../engines/redis-question.ts';
import type { UnitState } from '../../machines/unit.ts';
import { readRuntimeMap } from '../../map/map-file.ts';
import type { Deployment } from '../deployment.ts';
import { redisNodes, redisPassword } from './context.ts';
import type { InvalidatorStatus } from './invalidator/protocol.ts';

/** Less than a command waits for the supervisor's answer, which has this in it. */
const ANSWER_MS = 1_500;

export interface RedisStatus {
  name: string;
  role: 'master' | 'replica';
  usedMb: number;
  maxMb: number;
  keys: number;
  /** Part of the questions since it began that found something; undefined when nobody asked. */
  hitRate: number | undefined;
  evicted: number;
}

export interface CacheStatus {
  kind: 'memory' | 'single' | 'cluster' | 'external';
  invalidators: InvalidatorStatus[];
  redis: RedisStatus[];
}

/** Undefined without a cache. Who does not answer is left out. */
export async function cacheStatus(
  deployment: Deployment,
  units: readonly UnitState[],
): Promise<CacheStatus | undefined> {
  const { cache } = readRuntimeMap(deployment.paths.map);
  if (!cache) return undefined;
  const asked = units.filter(({ tier, phase }) => tier === 'invalidation' && phase === 'ready');
  const nodes = redisNodes(units);
  const [invalidators, redis] = await Promise.all([
    Promise.all(
      asked.map(({ name }) =>
        invalidatorStatus(deployment.paths.socketFor(name)).catch(() => undefined),
      ),
    ),
    Promise.all(
      nodes.map(node => redisStatus(node, redisPassword(deployment)).catch(() => undefined)),
    ),
  ]);
  return {
    kind: !cache.redis ? 'memory' : nodes.length > 0 ? cache.redis.mode : 'external',
    invalidators: invalidators.filter(each => each !== undefined),
    redis: redis.filter(each => each !== undefined),
  };
}

/** @throws when it does not answer within a second */
export function invalidatorStatus(path: string): Promise<InvalidatorStatus> {
  const { promise, resolve, reject } = Promise.withResolvers<InvalidatorStatus>();
  const socket = connect({ path });
  const lines = new Lines();
  socket.setEncoding('utf8');
  socket.setTimeout(ANSWER_MS, () => socket.destroy(new Error('no answer')));
  socket.once('connect', () => socket.write(`${JSON.stringify({ ask: 'status' })}\n`));
  socket.on('data', text => {
    for (const line of lines.take(String(text))) {
      const message = JSON.parse(line) as ToProcess;
      if (!('status' in message)) continue;
      resolve(message.status as InvalidatorStatus);
      socket.destroy();
    }
  });
  socket.on('error', reject);
  socket.once('close', () => reject(new Error('no answer')));
  return promise;
}

async function redisStatus(
  { name, host, port }: { name: string; host: string; port: number },
  password: string,
): Promise<RedisStatus> {
  const info = parseInfo(await askRedis({ host, port, password }, ['INFO'], ANSWER_MS));
  const number = (key: string) => Number(info[key] ?? 0);
  const [hits, misses] = [number('keyspace_hits'), number('keyspace_misses')];
  return {
    name,
    role: info.role === 'slave' ? 'replica' : 'master',
    usedMb: Math.round(number('used_memory') / 1024 / 1024),
    maxMb: Math.round(number('maxmemory') / 1024 / 1024),
    keys: Number(/keys=(\d+)/.exec(info.db0 ?? '')?.[1] ?? 0),
    hitRate: hits + misses > 0 ? hits / (hits + misses) : undefined,
    evicted: number('evicted_keys'),
  };
}
