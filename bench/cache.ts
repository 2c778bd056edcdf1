/**
 * The cache against what it is made of and against others: hits in the process, hits in Redis, and a thousand callers of
 * a cold key.
 *
 *     node bench/cache.ts
 *
 * All figures are of one run, in many short turns, since the machine's own speed changes within seconds: rates and times are those of the
 * middle turn, ratios those of the turns beside each other. Each call is awaited, as an application does, of a bare `lru-cache` too: what
 * it gives costs nothing to wait for, but the wait does.
 */

import KeyvRedis from '@keyv/redis';
import { createClient, RESP_TYPES } from '@redis/client';
import { BentoCache, bentostore } from 'bentocache';
import { memoryDriver } from 'bentocache/drivers/memory';
import { redisDriver } from 'bentocache/drivers/redis';
import { Cacheable } from 'cacheable';
import { LRUCache } from 'lru-cache';
import { Packr } from 'msgpackr';
import { createCache } from '../src/app/cache/create-cache.ts';
import { RedisStore } from '../src/app/cache/redis/redis-store.ts';
import { createPool } from '../src/app/database/pool.ts';
import { LogFeed } from '../test/support/log-feed.ts';
import { TestPostgres } from '../test/support/postgres.ts';
import { TestRedis } from '../test/support/redis.ts';
import { until } from '../test/support/until.ts';
import { middle } from './support/measure.ts';

const KEYS = 200;
const ROUNDS = 30;
/** The first ones, in which code is compiled, do not count. */
const WARM_ROUNDS = 6;
/** An article as a page needs it: 1 KB. */
const article = (id: number) => ({
  id,
  slug: `article-${id}`,
  title: `The title of article ${id}`,
  body: 'x'.repeat(800),
  tags: ['one', 'two', 'three'],
  author: { id: id * 7, name: `author ${id}` },
  createdAt: new Date(1_700_000_000_000 + id),
});

const keys = Array.from({ length: KEYS }, (_, i) => `article:${i}`);
// Waiting for a server keeps no process alive by itself.
const alive = setInterval(() => {}, 1_000);
const postgres = await TestPostgres.start();
const redis = await TestRedis.start(['--maxmemory', '256mb']);
const url = await postgres.database();
const pool = createPool({ connectionString: url, max: 10 });
await pool.query('create table articles (id int primary key, title text)');
await pool.query('insert into articles select i, $$t$$ || i from generate_series(0, 999) i');
const feed = await LogFeed.start(() => [{ host: postgres.host, port: postgres.port }], url);
const prefix = 'bench';
const store = new RedisStore({ target: redis.target, prefix, buckets: 1, onError: () => {} });
feed.store = store;
await until(() => store.isReady);
await feed.told();
feed.remind();

const wiring = { feed, clusters: ['1'], redis: { target: redis.target, prefix, buckets: 1 } };
const filled = createCache({ pool }, wiring);
await filled.ready();
const load = (id: number) => async () => {
  await pool.query('select title from articles where id = $1', [id]);
  return article(id);
};
for (const [i, key] of keys.entries()) {
  // Redis takes none before it has been told what changes.
  await until(async () => {
    await filled.get(key, load(i));
    await filled.settled();
    if ((await filled.explain(key))?.in.includes('redis')) return true;
    await filled.delete(key);
    return false;
  });
}

const unreachable = () => {
  throw new Error('it should have been there');
};

interface Contender {
  readonly name: string;
  get(key: string): unknown;
}

/**
 * In turns: calls per second, and the processor's time for one, which other work on the machine disturbs less.
 * @param calls in each turn
 * @param width calls that are under way at a time
 */
async function compare(title: string, contenders: Contender[], calls: number, width: number) {
  const found = contenders.map(() => ({ rates: [] as number[], cpuUs: [] as number[] }));
  for (let round = -WARM_ROUNDS; round < ROUNDS; round++) {
    for (const [index, { get }] of contenders.entries()) {
      const begun = performance.now();
      const usage = process.cpuUsage();
      let next = 0;
      const worker = async () => {
        while (next < calls) await get(keys[next++ % KEYS]!);
      };
      await Promise.all(Array.from({ length: width }, worker));
      const { user, system } = process.cpuUsage(usage);
      if (round < 0) continue;
      found[index]!.rates.push((calls / (performance.now() - begun)) * 1_000);
      found[index]!.cpuUs.push((user + system) / calls);
    }
  }
  console.log(
    `\n${title.padEnd(36)} ${'calls/s'.padStart(12)} ${'ratio'.padStart(6)} ${'CPU µs'.padStart(9)} ${'ratio'.padStart(6)}`,
  );
  const bare = found[0]!;
  for (const [index, { rates, cpuUs }] of found.entries()) {
    const rate = middle(rates.map((each, round) => each / bare.rates[round]!));
    const cpu = middle(cpuUs.map((each, round) => bare.cpuUs[round]! / each));
    console.log(
      `  ${contenders[index]!.name.padEnd(34)} ${Math.round(middle(rates)).toLocaleString('en').padStart(12)} ${rate.toFixed(2).padStart(6)} ${middle(cpuUs).toFixed(2).padStart(9)} ${cpu.toFixed(2).padStart(6)}`,
    );
  }
}

// In the process.
const lru = new LRUCache<string, object>({ max: 10_000 });
for (const [i, key] of keys.entries()) lru.set(key, article(i));
const bentoLocal = new BentoCache({
  default: 'local',
  stores: { local: bentostore().useL1Layer(memoryDriver({ maxItems: 10_000, serialize: false })) },
});
const cacheableLocal = new Cacheable();
for (const [i, key] of keys.entries()) {
  await bentoLocal.set({ key, value: article(i) });
  await cacheableLocal.set(key, article(i));
}
await compare(
  'A hit in the process, one call after the other',
  [
    { name: 'lru-cache, awaited', get: key => lru.get(key) },
    { name: 'banyan', get: key => filled.get(key, unreachable) },
    { name: 'bentocache', get: key => bentoLocal.getOrSet({ key, factory: unreachable }) },
    { name: 'cacheable', get: key => cacheableLocal.get(key) },
  ],
  10_000,
  1,
);

// In Redis: the process's own memory is too small to hold anything. On a busy machine a question may take too long.
let misses = 0;
const missed = (key: string) => async () => {
  misses++;
  return load(keys.indexOf(key))();
};
const client = createClient({ socket: { host: redis.host, port: redis.port } });
await client.connect();
const bytes = { typeMapping: { [RESP_TYPES.BLOB_STRING]: Buffer } };
const packr = new Packr({ useRecords: true, moreTypes: true });
for (const [i, key] of keys.entries()) await client.set(`bare:${key}`, packr.pack(article(i)));
const shared = createCache({ pool, maxMemoryMb: 0.000_01 }, wiring);
await shared.ready();
const bentoShared = new BentoCache({
  default: 'shared',
  stores: {
    shared: bentostore().useL2Layer(
      redisDriver({ connection: { host: redis.host, port: redis.port } }),
    ),
  },
});
const cacheableShared = new Cacheable({
  primary: new KeyvRedis(`redis://${redis.host}:${redis.port}`) as never,
});
for (const [i, key] of keys.entries()) {
  await bentoShared.set({ key, value: article(i) });
  await cacheableShared.set(key, article(i));
}
await until(() => client.isReady);
for (const width of [1, 32]) {
  await compare(
    `A hit in Redis, ${width} at a time`,
    [
      {
        name: 'bare client, GET and unpack',
        get: async key =>
          packr.unpack(
            (await client.sendCommand(['GET', `bare:${key}`], bytes)) as unknown as Buffer,
          ),
      },
      { name: 'banyan', get: key => shared.get(key, missed(key)) },
      { name: 'bentocache', get: key => bentoShared.getOrSet({ key, factory: unreachable }) },
      { name: 'cacheable', get: key => cacheableShared.get(key) },
    ],
    width === 1 ? 400 : 3_200,
    width,
  );
}

console.log(`  (${misses} of banyan's calls were no hits)`);

// A stampede.
const second = createCache({ pool }, wiring);
await second.ready();
let loads = 0;
const begun = performance.now();
await Promise.all(
  Array.from({ length: 1_000 }, (_, i) =>
    (i % 2 ? filled : second).get('cold', async () => {
      loads++;
      await pool.query('select pg_sleep(0.05)');
      return (await pool.query('select count(*) from articles')).rows;
    }),
  ),
);
console.log(
  `\nA thousand callers of a cold key, in two processes' caches: ${loads} load, all answered after ${Math.round(performance.now() - begun)} ms (the load takes 50)`,
);

client.destroy();
await Promise.all([filled, shared, second].map(cache => cache.close()));
await Promise.all([bentoLocal.disconnectAll(), bentoShared.disconnectAll()]);
await cacheableShared.disconnect();
await store.close();
await feed.close();
await pool.end();
await postgres.remove();
await redis.remove();
clearInterval(alive);
