/**
 * The invalidator: a unit that reads each database cluster's log and tells the caches what changes.
 *
 * **Why a process of its own**, and not a part of the supervisor: it reads every row that is changed. Under load that
 * is a processor's work, and the supervisor has to answer commands and restart what ends. When it is killed it begins where
 * the log was last acknowledged, a second later; a second one that stands by is there at once.
 *
 * Holds true here:
 * - One serves: who has the deployment's lock. The slots see to it a second time: one reader each.
 * - It holds nothing that matters: what it has told in the last minute, and how far it is, which the slots know too.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import pino from 'pino';
import { RedisStore } from '../../../app/cache/redis/redis-store.ts';
import { storeOfMap } from '../../../app/cache/redis/store-of-map.ts';
import type { InvalidationStore } from '../../../app/cache/store.ts';
import { SUPERUSER } from '../../../engines/postgres.ts';
import { AlreadyRunning, takeLock } from '../../../machines/lock.ts';
import { readRuntimeMap, watchRuntimeMap } from '../../../map/map-file.ts';
import type { CacheMap, RuntimeMap } from '../../../map/runtime-map.ts';
import { changeMap } from '../../change-map.ts';
import { NotRunning } from '../../control/client.ts';
import { type Deployment, type DeploymentPaths, existingDeployment } from '../../deployment.ts';
import { newGeneration } from '../publish.ts';
import { ExplicitLine } from './explicit.ts';
import { FeedServer } from './feed-server.ts';
import { ClusterFollower } from './follower.ts';
import { DATABASE_VARIABLE } from './names.ts';
import type { InvalidatorStatus } from './protocol.ts';

/** Who stands by looks this often whether he is needed. */
const STANDBY_MS = 100;

const log = pino({ base: {} });

/** Runs until it is told to stop. */
export async function invalidate(
  paths: DeploymentPaths,
  name: string,
  signal: AbortSignal,
): Promise<void> {
  const deployment = existingDeployment(paths);
  if (!deployment) throw new NotRunning(paths.app);
  const invalidator = new Invalidator(deployment, name);
  await invalidator.listen();
  try {
    const release = await untilLocked(paths, signal);
    if (!release) return;
    try {
      await invalidator.serve(signal);
    } finally {
      invalidator.close();
      release();
    }
  } finally {
    invalidator.close();
  }
}

async function untilLocked(
  { invalidatorLock }: DeploymentPaths,
  signal: AbortSignal,
): Promise<(() => void) | undefined> {
  while (!signal.aborted) {
    try {
      return await takeLock(invalidatorLock);
    } catch (error) {
      if (!(error instanceof AlreadyRunning)) throw error;
    }
    await delay(STANDBY_MS, undefined, { signal }).catch(() => {});
  }
  return undefined;
}

class Invalidator {
  readonly #deployment: Deployment;
  readonly #name: string;
  readonly #feed: FeedServer;
  readonly #explicit: ExplicitLine;
  readonly #followers = new Map<string, ClusterFollower>();
  #map: RuntimeMap;
  #store: InvalidationStore | undefined;
  #storeOf: string | undefined;
  #storeTrouble: string | undefined;
  #serves = false;

  constructor(deployment: Deployment, name: string) {
    this.#deployment = deployment;
    this.#name = name;
    this.#map = readRuntimeMap(deployment.paths.map);
    this.#feed = new FeedServer({
      path: deployment.paths.socketFor(name),
      invalidate: tags => this.#explicit.invalidate(tags),
      status: () => this.#status(),
    });
    this.#explicit = new ExplicitLine(this.#feed, () => this.#store);
  }

  listen(): Promise<void> {
    return this.#feed.listen();
  }

  async serve(signal: AbortSignal): Promise<void> {
    const { map: file } = this.#deployment.paths;
    this.#map = readRuntimeMap(file);
    this.#serves = true;
    this.#openStore(this.#map.cache);
    this.#feed.serve();
    await this.#explicit.begin();
    log.info('serves');
    this.#follow();
    const ended = Promise.withResolvers<void>();
    const unwatch = watchRuntimeMap(
      file,
      this.#map,
      map => this.#onMap(map),
      error => log.warn({ error: String(error) }, 'the map cannot be read'),
    );
    // The watch alone keeps no process.
    const alive = setInterval(() => {}, 1_000);
    signal.addEventListener('abort', () => ended.resolve());
    if (signal.aborted) ended.resolve();
    await ended.promise;
    clearInterval(alive);
    unwatch();
  }

  close(): void {
    this.#explicit.end();
    for (const follower of this.#followers.values()) follower.close();
    this.#followers.clear();
    this.#feed.close();
    void this.#store?.close().catch(() => {});
    this.#store = undefined;
  }

  #onMap(map: RuntimeMap): void {
    this.#map = map;
    this.#openStore(map.cache);
    this.#follow();
  }

  /** One follower for each shard. */
  #follow(): void {
    const ids = new Set(this.#map.database.shards.map(({ id }) => id));
    for (const [id, follower] of this.#followers) {
      if (ids.has(id)) continue;
      follower.close();
      this.#followers.delete(id);
      this.#feed.forget(id);
    }
    for (const id of ids) {
      if (this.#followers.has(id)) continue;
      const follower = new ClusterFollower({
        cluster: id,
        members: () => this.#map.database.shards.find(each => each.id === id)?.members ?? [],
        connection: this.#connection(),
        feed: this.#feed,
        store: () => this.#store,
        onOtherLine: () => this.#renewStore(),
        note: (text, details) => log.info(details ?? {}, text),
        onStoreTrouble: text => {
          if (text !== this.#storeTrouble) log.warn(text ?? 'the store takes what changes');
          this.#storeTrouble = text;
        },
      });
      this.#followers.set(id, follower);
      follower.run().catch(error => {
        log.fatal({ error: String((error as Error).stack ?? error) }, 'a follower has ended');
        process.exitCode = 1;
        process.kill(process.pid, 'SIGTERM');
      });
    }
  }

  #connection(): pg.ClientConfig {
    const external = process.env[DATABASE_VARIABLE];
    if (external) return { connectionString: external };
    const { secrets, database } = this.#deployment;
    return { user: SUPERUSER, password: secrets.superuserPassword, database };
  }

  #openStore(cache: CacheMap | undefined): void {
    const wanted = cache?.redis ? JSON.stringify([cache.generation, cache.redis]) : undefined;
    if (wanted === this.#storeOf) return;
    const old = this.#store;
    this.#storeOf = wanted;
    this.#storeTrouble = undefined;
    const store = storeOfMap(this.#map.deployment, cache);
    this.#store = store
      ? new RedisStore({
          ...store,
          onError: error => log.debug({ error: String(error) }, 'the store'),
          timeoutMs: 1_000,
        })
      : undefined;
    void old?.close().catch(() => {});
    log.info(cache?.redis ?? {}, this.#store ? 'writes to the store' : 'there is no store');
  }

  /** What the store holds was checked against another line of positions: another generation of keys begins. */
  async #renewStore(): Promise<void> {
    const { map: file } = this.#deployment.paths;
    const map = await changeMap(file, present =>
      present.cache?.redis
        ? { ...present, cache: { ...present.cache, generation: newGeneration() } }
        : present,
    );
    this.#onMap(map);
  }

  #status(): InvalidatorStatus {
    const reports = this.#feed.reports();
    const counts: Record<string, number> = {};
    const hot = new Map<string, number>();
    for (const report of reports) {
      for (const [name, count] of Object.entries(report.counts)) {
        counts[name] = (counts[name] ?? 0) + count;
      }
      for (const { key, calls } of report.hotKeys) hot.set(key, (hot.get(key) ?? 0) + calls);
    }
    const hotKeys = [...hot]
      .map(([key, calls]) => ({ key, calls }))
      .sort((a, b) => b.calls - a.calls)
      .slice(0, 10);
    return {
      name: this.#name,
      serves: this.#serves,
      listeners: this.#feed.listeners,
      clusters: [...this.#followers.values()].map(({ status }) => status),
      storeTrouble: this.#storeTrouble,
      counts,
      hotKeys,
    };
  }
}
