/** What the operations on the cache tier work with, and what is observed of it. */
import path from 'node:path';
import type pg from 'pg';
import { deriveKeyFrom } from '../../app/environment.ts';
import { isRoot, SYSTEM_FOLDER, settleFolder, unprivilegedAccount } from '../../engines/account.ts';
import type { RedisNode } from '../../engines/redis.ts';
import { parseInfo } from '../../engines/redis-client.ts';
import { parseClusterNodes } from '../../engines/redis-cluster.ts';
import { askRedis } from '../../engines/redis-question.ts';
import type { Account, Machine, UnitState } from '../../machines/unit.ts';
import { readRuntimeMap } from '../../map/map-file.ts';
import { isSlotUnkept } from '../database/kept-slot.ts';
import { withClient } from '../database/provision.ts';
import type { Deployment } from '../deployment.ts';
import { SLOT } from './invalidator/names.ts';
import type { ObservedCache, ObservedRedis } from './plan.ts';
import { credentialsOf } from './shape.ts';

export interface CacheContext {
  machine: Machine;
  deployment: Deployment;
  /** What `banyan up` was given. */
  environment: NodeJS.ProcessEnv;
  /** Of a Redis that Banyan does not run: a secret. */
  externalUrl: string | undefined;
  /** With the owner's credentials, or of a database that Banyan does not run: a secret. */
  databaseUrl: string;
  isExternalDatabase: boolean;
}

/** Labels that Redis servers carry. */
export interface RedisLabels {
  mode: 'single' | 'cluster';
  port: number;
  /** 0: none. */
  busPort: number;
}

const LOOPBACK = '127.0.0.1';
/** A node that does not answer within this is frozen, and counts as one that does not run. */
const LOOK_MS = 10_000;

/** Of the Redis servers that Banyan runs; the same whatever their number, so that no server needs a restart to know it. */
export function redisPassword({ secrets }: Pick<Deployment, 'secrets'>): string {
  return deriveKeyFrom(secrets.application, 'redis', 24).toString('base64url');
}

/** What the environment of processes says. @param externalUrl undefined: of the servers that Banyan runs */
export function cacheUrl(deployment: Pick<Deployment, 'secrets'>, externalUrl?: string): string {
  return externalUrl ?? `redis://default:${redisPassword(deployment)}@${LOOPBACK}`;
}

export function credentialsFor(context: CacheContext): string {
  return credentialsOf(cacheUrl(context.deployment, context.externalUrl));
}

/** Where Redis servers have their files, and whose they are. */
export async function settleRedis({
  paths,
  id,
}: Deployment): Promise<{ folder: string; account: Account | undefined }> {
  const account = isRoot() ? unprivilegedAccount() : undefined;
  return {
    account,
    folder: await settleFolder(paths.redis, path.join(SYSTEM_FOLDER, id, 'redis'), account),
  };
}

/** The Redis servers that run, by their labels. */
export function redisNodes(states: readonly UnitState[]): RedisNode[] {
  return states
    .filter(({ tier }) => tier === 'cache')
    .map(({ name, labels }) => {
      const { port, busPort } = labels as unknown as RedisLabels;
      return { name, host: LOOPBACK, port, ...(busPort ? { busPort } : {}) };
    });
}

export async function observeCache(context: CacheContext): Promise<ObservedCache> {
  const { machine, deployment } = context;
  const states = await machine.states();
  const { cache } = readRuntimeMap(deployment.paths.map);
  const nodes = redisNodes(states);
  const password = redisPassword(deployment);
  const looks = await Promise.all(
    nodes.map(async node => ({ node, look: await lookAt(node, password) })),
  );
  const names = new Map(looks.flatMap(({ node, look }) => (look ? [[look.id, node.name]] : [])));
  const redis: ObservedRedis[] = looks.map(({ node, look }) => {
    const state = states.find(({ name }) => name === node.name)!;
    const { mode } = state.labels as unknown as RedisLabels;
    const masterOf = look?.masterId === undefined ? undefined : names.get(look.masterId);
    return {
      name: node.name,
      mode,
      runs: state.phase === 'ready' && look !== undefined,
      memoryMb: look?.memoryMb ?? 0,
      published: (cache?.redis?.nodes ?? []).some(({ port }) => port === node.port),
      role: look?.masterId === undefined ? 'master' : 'replica',
      slots: look?.slots ?? 0,
      ...(masterOf ? { masterOf } : {}),
    };
  });
  return {
    redis,
    invalidators: states
      .filter(({ tier }) => tier === 'invalidation')
      .map(({ name, labels }) => ({ name, credentials: String(labels.credentials) })),
    published: publishedOf(cache, nodes),
    followed: await withClient(context.databaseUrl, hasSlot).catch(() => false),
    unkept:
      !context.isExternalDatabase && (await isSlotUnkept(deployment, SLOT).catch(() => false)),
  };
}

function publishedOf(
  cache: ReturnType<typeof readRuntimeMap>['cache'],
  nodes: readonly RedisNode[],
): ObservedCache['published'] {
  if (!cache) return { kind: 'none' };
  if (!cache.redis) return { kind: 'memory' };
  const { mode, nodes: named } = cache.redis;
  const [first] = named;
  const isOurs = named.some(
    ({ host, port }) => host === LOOPBACK && nodes.some(node => node.port === port),
  );
  const external = isOurs || !first ? undefined : `${first.host}:${first.port}`;
  return { kind: mode, nodes: named.length, ...(external ? { external } : {}) };
}

interface Look {
  id: string;
  memoryMb: number;
  slots: number;
  masterId: string | undefined;
}

async function lookAt({ host, port }: RedisNode, password: string): Promise<Look | undefined> {
  const ask = (...words: string[]) => askRedis({ host, port, password }, words, LOOK_MS);
  try {
    const info = parseInfo(await ask('INFO'));
    const memoryMb = Math.round(Number(info.maxmemory) / 1024 / 1024);
    if (info.cluster_enabled !== '1') {
      return { id: info.run_id ?? '', memoryMb, slots: 0, masterId: undefined };
    }
    const self = parseClusterNodes(await ask('CLUSTER', 'NODES')).find(({ isSelf }) => isSelf)!;
    const slots = self.slots.reduce((sum, [from, to]) => sum + to - from + 1, 0);
    return { id: self.id, memoryMb, slots, masterId: self.masterId };
  } catch {
    return undefined;
  }
}

/** Whether the invalidator left its slot in the database. */
export async function hasSlot(database: pg.ClientBase | pg.Pool): Promise<boolean> {
  const { rowCount } = await database.query(
    'select from pg_replication_slots where slot_name = $1',
    [SLOT],
  );
  return rowCount !== 0;
}
