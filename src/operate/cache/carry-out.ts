/**
 * Carries the steps of a plan for the cache tier out.
 *
 * Holds true here: each step may be done twice: a controller that was killed between doing and noting does it again.
 */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { removeSlot } from '../../app/changes/remove.ts';
import { CACHE_URL_VARIABLE } from '../../app/environment.ts';
import { invalidatorUnit } from '../../engines/invalidator.ts';
import { SUPERUSER } from '../../engines/postgres.ts';
import { prepareRedis, type RedisNode } from '../../engines/redis.ts';
import { examineExternalRedis, withRedis } from '../../engines/redis-client.ts';
import { RedisCluster } from '../../engines/redis-cluster.ts';
import { freePort, onFreePort } from '../../machines/free-port.ts';
import { MAP_SEEN_MS, readRuntimeMap } from '../../map/map-file.ts';
import { keepSlot } from '../database/kept-slot.ts';
import { findPrimary } from '../database/primary.ts';
import { withClient } from '../database/provision.ts';
import { superuserUrl } from '../database/running.ts';
import { carryOutSteps, type StepProgress } from '../steps.ts';
import {
  type CacheContext,
  cacheUrl,
  credentialsFor,
  observeCache,
  type RedisLabels,
  redisNodes,
  redisPassword,
  settleRedis,
} from './context.ts';
import { explainCache } from './explain.ts';
import { STOP_WATCHING } from './invalidator/coverage.ts';
import { DATABASE_VARIABLE, PUBLICATION, SLOT } from './invalidator/names.ts';
import { type CacheStep, planCache } from './plan.ts';
import { publishCache, publishFeeds } from './publish.ts';
import type { CacheShape } from './shape.ts';

const LOOPBACK = '127.0.0.1';

/** What would be done, without doing it. */
export async function planCacheFor(context: CacheContext, shape: CacheShape): Promise<CacheStep[]> {
  return planCache(await observeCache(context), shape, credentialsFor(context));
}

/** Goes there. @throws whatever a step throws; web servers go on in any case */
export async function convergeCache(
  context: CacheContext,
  shape: CacheShape,
  progress: StepProgress = {},
): Promise<void> {
  const tier = new CacheTier(context, shape, progress.note ?? (() => {}));
  const steps = await planCacheFor(context, shape);
  await carryOutSteps(steps, explainCache, step => tier.carryOut(step), progress);
}

export class CacheTier {
  readonly #context: CacheContext;
  readonly #shape: CacheShape;
  readonly #note: (text: string) => void;
  /** The map has ceased to name a store, and processes may not have seen it yet. */
  #publishedAt: number | undefined;

  constructor(context: CacheContext, shape: CacheShape, note: (text: string) => void) {
    this.#context = context;
    this.#shape = shape;
    this.#note = note;
  }

  async carryOut(step: CacheStep): Promise<void> {
    switch (step.do) {
      case 'start-invalidator':
        return this.#startInvalidator(step.name);
      case 'stop-invalidator':
        return this.#stopInvalidator(step.name);
      case 'start-redis':
        return this.#startRedis(step.name, step.mode);
      case 'arrange-redis':
        return this.#arrange(step);
      case 'resize-redis':
        return this.#resize(step.names, step.memoryMb);
      case 'publish-cache':
        return this.#publish(step);
      case 'stop-redis':
        return this.#stopRedis(step.name);
      case 'keep-slot':
        return keepSlot(this.#context.deployment, SLOT, true);
      case 'stop-following':
        return stopFollowing(this.#context);
    }
  }

  async #startInvalidator(name: string): Promise<void> {
    const { machine, deployment, environment, externalUrl, databaseUrl, isExternalDatabase } =
      this.#context;
    const { paths } = deployment;
    const socket = paths.socketFor(name);
    await machine.stop(name);
    // One of an earlier run must not be taken for this one's.
    await rm(socket, { force: true });
    const env = {
      ...environment,
      NODE_COMPILE_CACHE: paths.compileCache,
      [CACHE_URL_VARIABLE]: cacheUrl(deployment, externalUrl),
      ...(isExternalDatabase ? { [DATABASE_VARIABLE]: databaseUrl } : {}),
    };
    await machine.start({
      ...invalidatorUnit(name, paths.app, socket, env),
      labels: { credentials: credentialsFor(this.#context) },
    });
    await publishFeeds(paths, await this.#feeds());
  }

  async #stopInvalidator(name: string): Promise<void> {
    const { machine, deployment } = this.#context;
    await machine.stop(name);
    await publishFeeds(deployment.paths, await this.#feeds());
  }

  async #feeds(): Promise<string[]> {
    const states = await this.#context.machine.states();
    return states
      .filter(({ tier }) => tier === 'invalidation')
      .map(({ name }) => name)
      .sort();
  }

  async #startRedis(name: string, mode: 'single' | 'cluster'): Promise<void> {
    const { machine, deployment } = this.#context;
    await machine.stop(name);
    const { folder, account } = await settleRedis(deployment);
    const own = path.join(folder, name);
    // What a node knew of a cluster that is no more would keep it from this one.
    await rm(own, { recursive: true, force: true });
    await onFreePort(LOOPBACK, freePort, async port => {
      const busPort = mode === 'cluster' ? await freePort(LOOPBACK) : 0;
      const labels: RedisLabels = { mode, port, busPort };
      const node = { name, host: LOOPBACK, port, ...(busPort ? { busPort } : {}) };
      await machine.start(
        await prepareRedis({
          node,
          folder: own,
          password: redisPassword(deployment),
          memoryMb: this.#shape.memoryMb,
          labels: { ...labels },
          account,
        }),
      );
    });
  }

  async #arrange({
    masters,
    names,
    leaving,
  }: Extract<CacheStep, { do: 'arrange-redis' }>): Promise<void> {
    const nodes = await this.#nodes([...names, ...leaving]);
    await RedisCluster.with(nodes, redisPassword(this.#context.deployment), cluster =>
      cluster.arrange(masters, leaving),
    );
  }

  async #resize(names: readonly string[], memoryMb: number): Promise<void> {
    const { deployment } = this.#context;
    const password = redisPassword(deployment);
    const { folder, account } = await settleRedis(deployment);
    for (const node of await this.#nodes(names)) {
      // For its next start.
      const own = path.join(folder, node.name);
      const options = { node, folder: own, password, memoryMb, labels: {}, account };
      await prepareRedis(options);
      await withRedis({ ...node, password }, redis =>
        redis.configSet('maxmemory', `${memoryMb}mb`),
      );
    }
  }

  async #publish({ names, to }: Extract<CacheStep, { do: 'publish-cache' }>): Promise<void> {
    const { deployment, externalUrl } = this.#context;
    const { paths } = deployment;
    const feeds = await this.#feeds();
    this.#publishedAt = performance.now();
    switch (to) {
      case 'none':
        return publishCache(paths, undefined, []);
      case 'memory':
        return publishCache(paths, null, feeds);
      case 'external': {
        const { external } = this.#shape;
        if (!external || !externalUrl) throw new Error('the shape has no external Redis');
        const { mode, notes } = await examineExternalRedis(externalUrl);
        for (const note of notes) this.#note(note);
        const { host, port, tls } = external;
        return publishCache(
          paths,
          { mode, nodes: [{ host, port }], ...(tls ? { tls } : {}) },
          feeds,
        );
      }
      case 'single':
      case 'cluster': {
        const nodes = (await this.#nodes(names)).map(({ host, port }) => ({ host, port }));
        return publishCache(paths, { mode: to, nodes }, feeds);
      }
    }
  }

  async #stopRedis(name: string): Promise<void> {
    const { machine, deployment } = this.#context;
    // A process that has seen the new map uses the old store no more.
    const sinceMs = performance.now() - (this.#publishedAt ?? Number.NEGATIVE_INFINITY);
    if (sinceMs < MAP_SEEN_MS) await delay(MAP_SEEN_MS - sinceMs);
    await machine.stop(name);
    const { folder } = await settleRedis(deployment);
    await rm(path.join(folder, name), { recursive: true, force: true });
  }

  async #nodes(names: readonly string[]): Promise<RedisNode[]> {
    const all = redisNodes(await this.#context.machine.states());
    return names.map(name => {
      const node = all.find(each => each.name === name);
      if (!node) throw new Error(`the plan names ${name}, which does not run`);
      return node;
    });
  }
}

/** Takes away what the invalidator made in each database. It has been stopped. */
export async function stopFollowing({
  deployment,
  databaseUrl,
  isExternalDatabase,
}: Pick<CacheContext, 'deployment' | 'databaseUrl' | 'isExternalDatabase'>): Promise<void> {
  await keepSlot(deployment, SLOT, false);
  const { shards } = readRuntimeMap(deployment.paths.map).database;
  const { secrets, database } = deployment;
  const connection = isExternalDatabase
    ? { connectionString: databaseUrl }
    : { user: SUPERUSER, password: secrets.superuserPassword, database };
  for (const { members } of shards) {
    await removeSlot({ members, connection, slot: SLOT, publication: PUBLICATION });
    const url = isExternalDatabase
      ? databaseUrl
      : superuserUrl(deployment, await findPrimary(deployment, members), database);
    await withClient(url, client => client.query(STOP_WATCHING));
  }
}
