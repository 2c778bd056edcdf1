/**
 * Redis as a unit: the cache that all web servers share; alone, or as one node of a Redis Cluster.
 *
 * Holds true here: it is a cache. It writes nothing to the disk, and when it is full, what was not used for the longest goes.
 * One that is started anew is empty, and the store finds that out by itself (app/cache/README.md).
 */
import { chown, mkdir, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { BanyanError } from '../errors.ts';
import {
  type Account,
  type Diagnosis,
  type EngineSupport,
  type Labels,
  PORT_LOST,
  type UnitSpec,
} from '../machines/unit.ts';
import { findProgram } from './find-program.ts';
import { askRedis } from './redis-question.ts';

/** Web servers go on without it, so it is stopped after them; before the database. */
const RANK = 12;
const START_TIMEOUT_MS = 10_000;
const STOP_TIMEOUT_MS = 5_000;

const PROBE_MS = 1_000;

/** A node that says nothing for so long counts as lost; its replica takes over a second later. */
const NODE_TIMEOUT_MS = 2_000;

export class RedisMissing extends BanyanError {
  constructor() {
    super('REDIS_MISSING', {
      what: 'A cache that the web servers share needs Redis, and it is not installed',
      where: 'redis-server',
      remedy:
        'Install it: `sudo apt-get install -y --no-install-recommends redis-server` (macOS: `brew install redis`), or name one that you run in `cache.url`. Debian starts a server of its own with it, which is not needed: `sudo systemctl disable --now redis-server`',
    });
  }
}

/** @throws RedisMissing */
export function findRedis(searchPath?: string, systemFolders?: readonly string[]): string {
  const found =
    findProgram('redis-server', searchPath, systemFolders) ??
    findProgram('valkey-server', searchPath, systemFolders);
  if (!found) throw new RedisMissing();
  return found;
}

/** One Redis server. */
export interface RedisNode {
  /** The unit's. */
  name: string;
  host: string;
  port: number;
  /** Where the nodes of a cluster talk to each other; undefined: it is alone. */
  busPort?: number;
}

export interface RedisUnitOptions {
  node: RedisNode;
  folder: string;
  password: string;
  memoryMb: number;
  labels: Labels;
  account: Account | undefined;
}

/** `redis.conf`, whole. Pure. */
export function renderRedisConf({ node, folder, password, memoryMb }: RedisUnitOptions): string {
  const { host, port, busPort } = node;
  const lines = [
    `bind ${host}`,
    `port ${port}`,
    'protected-mode yes',
    `requirepass ${password}`,
    // Of the node that a replica copies.
    `masterauth ${password}`,
    `dir "${folder}"`,
    'daemonize no',
    'save ""',
    'appendonly no',
    // A replica's copy goes from memory to memory.
    'repl-diskless-sync yes',
    'repl-diskless-sync-delay 0',
    'repl-diskless-load on-empty-db',
    `maxmemory ${memoryMb}mb`,
    'maxmemory-policy allkeys-lru',
    // Large values are freed by another thread.
    'lazyfree-lazy-eviction yes',
    'lazyfree-lazy-expire yes',
    'lazyfree-lazy-server-del yes',
    'lazyfree-lazy-user-del yes',
    'tcp-keepalive 60',
    ...(busPort === undefined
      ? []
      : [
          'cluster-enabled yes',
          'cluster-config-file nodes.conf',
          `cluster-port ${busPort}`,
          `cluster-announce-ip ${host}`,
          `cluster-node-timeout ${NODE_TIMEOUT_MS}`,
          // Parts that are there serve when one is not.
          'cluster-require-full-coverage no',
          // A copy that is old is better than none: what it lacks is found by the store.
          'cluster-replica-validity-factor 0',
          // Who copies whom is the plan's business.
          'cluster-allow-replica-migration no',
        ]),
  ];
  return `# Written by Banyan at every start.\n${lines.join('\n')}\n`;
}

/** Writes its file and makes the unit that runs it. @throws RedisMissing */
export async function prepareRedis(options: RedisUnitOptions): Promise<UnitSpec> {
  const { node, folder, password, labels, account } = options;
  const command = findRedis();
  const file = path.join(folder, 'redis.conf');
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const draft = `${file}.new`;
  await rm(draft, { force: true });
  await writeFile(draft, renderRedisConf(options), { mode: 0o600 });
  for (const each of account ? [folder, draft] : []) await chown(each, account!.uid, account!.gid);
  await rename(draft, file);
  const { name, host, port } = node;
  return {
    name,
    tier: 'cache',
    engine: 'redis',
    command,
    args: [file],
    cwd: folder,
    env: { PATH: process.env.PATH },
    ...(account ? { user: account } : {}),
    stop: { signal: 'SIGTERM', group: false, timeoutMs: STOP_TIMEOUT_MS },
    rank: RANK,
    startTimeoutMs: START_TIMEOUT_MS,
    probe: { host, port, password },
    address: `${host}:${port}`,
    labels,
  };
}

export const redisEngine: EngineSupport = {
  async probe({ probe: { host, port, password } }) {
    try {
      const at = { host: String(host), port: Number(port), password: String(password) };
      await askRedis(at, ['PING'], PROBE_MS);
      return { ready: true };
    } catch (error) {
      return { ready: false, reason: (error as Error).message };
    }
  },
  diagnose: (_spec, lastWords) => diagnose(lastWords),
};

function diagnose(lastWords: string[]): Diagnosis | undefined {
  const text = lastWords.join('\n');
  if (/Address already in use/i.test(text)) {
    return PORT_LOST;
  }
  if (/Can't allocate|Out Of Memory/i.test(text)) {
    return { what: 'there is not enough memory', remedy: 'Lower `cache.memoryMb`' };
  }
  return undefined;
}
