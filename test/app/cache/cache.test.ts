/** The cache with a real database, its log, and a real Redis: what is kept, for how long, and for whom. */
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import type { Cache } from '../../../src/app/cache/cache.ts';
import { type CacheOptions, createCache } from '../../../src/app/cache/create-cache.ts';
import { RedisStore } from '../../../src/app/cache/redis/redis-store.ts';
import { createPool, type Pool } from '../../../src/app/database/pool.ts';
import { LogFeed } from '../../support/log-feed.ts';
import { TestPostgres } from '../../support/postgres.ts';
import { TestRedis } from '../../support/redis.ts';
import { until } from '../../support/until.ts';

let postgres: TestPostgres;
let redis: TestRedis;
let url: string;
let feed: LogFeed;
let store: RedisStore;
/** As `psql` would be: it knows nothing of the cache. */
let other: pg.Pool;
let pool: Pool;
let cache: Cache;
const open: { close(): Promise<void> }[] = [];
let prefixes = 0;

beforeAll(async () => {
  [postgres, redis] = await Promise.all([TestPostgres.start(), TestRedis.start()]);
  url = await postgres.database();
  other = await postgres.pool({ connectionString: url });
  await other.query(`
    create table users (id int primary key, name text not null);
    create table articles (id int primary key, slug text unique, author_id int, title text);
    create table tagged (article_id int, tag text, primary key (article_id, tag));
    create view titles as select id, title from articles;
    create function count_users() returns bigint language sql stable as 'select count(*) from users';
  `);
  feed = await LogFeed.start(() => [{ host: postgres.host, port: postgres.port }], url);
});

beforeEach(async () => {
  await other.query('truncate users, articles, tagged');
  await other.query(`
    insert into users values (1, 'ann'), (2, 'bob');
    insert into articles values (1, 'one', 1, 'One'), (2, 'two', 2, 'Two');
    insert into tagged values (1, 'a'), (1, 'b'), (2, 'a');
  `);
  store = new RedisStore({
    target: redis.target,
    prefix: `t${++prefixes}`,
    buckets: 1,
    onError: () => {},
  });
  feed.store = store;
  await until(() => store.isReady);
  await feed.told();
  pool = createPool({ connectionString: url });
  cache = newCache(pool);
  await cache.ready();
  await marked();
});

afterEach(async () => {
  feed.release();
  for (const each of open.splice(0)) await each.close();
  await store.close();
  await pool.end();
});

afterAll(async () => {
  await feed?.close();
  await Promise.all([postgres?.remove(), redis?.remove()]);
});

/** Another process's cache, over the same Redis. */
function newCache(over: pg.Pool, options: Partial<CacheOptions> = {}): Cache {
  const made = createCache(
    { pool: over, ...options },
    { feed, clusters: ['1'], redis: { target: redis.target, prefix: `t${prefixes}`, buckets: 1 } },
  );
  open.push(made);
  return made;
}

/** Redis has had a batch: it may keep something from now on. */
async function marked(): Promise<void> {
  await until(async () => {
    feed.remind();
    const marker = (await redis.command('HGETALL', `banyan:t${prefixes}:{0}:m`)) as object;
    return 'a:1' in marker && 'a:~' in marker;
  });
}

const article = (of: Cache, id: number, from: pg.Pool = pool) =>
  of.get(['article', id], async () => {
    const { rows } = await from.query<{ title: string }>(
      'select title from articles where id = $1',
      [id],
    );
    return rows[0]?.title;
  });

test('what was read is kept until its row changes, whoever changes it; another row’s change is no matter', async () => {
  expect(await article(cache, 1)).toBe('One');
  await other.query("update articles set title = 'Due' where id = 2");
  await feed.told();
  expect(await article(cache, 1)).toBe('One');
  expect(cache.counts).toMatchObject({ loads: 1, localHits: 1 });
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  await client.query('begin');
  await client.query("update articles set title = 'Uno' where id = 1");
  await client.query("update articles set title = 'Duo' where id = 2");
  await client.query('commit');
  await client.end();
  await feed.told();
  expect(await article(cache, 1)).toBe('Uno');
  expect(cache.counts).toMatchObject({ loads: 2 });
  await other.query('delete from articles where id = 1');
  await feed.told();
  expect(await article(cache, 1)).toBeUndefined();
  // That there is none is kept as well, until there is one.
  expect(await article(cache, 1)).toBeUndefined();
  expect(cache.counts.loads).toBe(3);
  await other.query("insert into articles values (1, 'one', 1, 'Again')");
  await feed.told();
  expect(await article(cache, 1)).toBe('Again');
});

test('a row that is found by another column than its key', async () => {
  const bySlug = (slug: string) =>
    cache.get(['slug', slug], async () => {
      const { rows } = await pool.query('select id, title from articles where slug = $1', [slug]);
      return rows[0];
    });
  expect(await bySlug('one')).toEqual({ id: 1, title: 'One' });
  expect(await bySlug('three')).toBeUndefined();
  const explained = await cache.explain(['slug', 'one']);
  expect(explained?.tags).toContain('public.articles#id=1');
  expect(explained?.tags).not.toContain('public.articles');
  await other.query("update articles set title = 'Due' where id = 2");
  await feed.told();
  await bySlug('one');
  await bySlug('three');
  expect(cache.counts.loads).toBe(2);
  // It ceases to match: its key tells. Another comes to match: the value tells.
  await other.query("update articles set slug = 'three' where id = 1");
  await feed.told();
  expect(await bySlug('one')).toBeUndefined();
  expect(await bySlug('three')).toEqual({ id: 1, title: 'One' });
});

test('joins, views, functions, and all rows at once', async () => {
  const queries = {
    join: 'select a.title, u.name from articles a join users u on u.id = a.author_id where a.id = 1',
    view: 'select title from titles where id = 1',
    function: 'select count_users()',
    missing:
      'select a.id from articles a left join tagged t on t.article_id = a.id and t.tag = $$b$$ where t.tag is null',
  };
  const read = (of: keyof typeof queries) =>
    cache.get(of, async () => (await pool.query(queries[of])).rows);
  for (const name of Object.keys(queries)) await read(name as keyof typeof queries);
  expect(cache.counts).toMatchObject({ loads: 4, refusedFills: 0 });
  await other.query("update users set name = 'Anna' where id = 1");
  await feed.told();
  expect(await read('join')).toEqual([{ title: 'One', name: 'Anna' }]);
  await other.query("update articles set title = 'Uno' where id = 1");
  await feed.told();
  expect(await read('view')).toEqual([{ title: 'Uno' }]);
  await other.query('delete from users where id = 2');
  await feed.told();
  expect(await read('function')).toEqual([{ count_users: '1' }]);
  expect(await read('missing')).toEqual([{ id: 2 }]);
  await other.query("delete from tagged where article_id = 1 and tag = 'b'");
  await feed.told();
  expect(await read('missing')).toHaveLength(2);
  await article(cache, 2);
  await other.query('truncate articles, tagged');
  await feed.told();
  expect(await article(cache, 2)).toBeUndefined();
});

test('the classic race: a result that was overtaken is given to who asked, and not kept', async () => {
  const gate = Promise.withResolvers<void>();
  const read = Promise.withResolvers<void>();
  const slow = cache.get('slow', async () => {
    const { rows } = await pool.query('select title from articles where id = 1');
    read.resolve();
    await gate.promise;
    return rows[0].title;
  });
  await read.promise;
  await other.query("update articles set title = 'Uno' where id = 1");
  await feed.told();
  // Who comes now must not be given what was read before the change.
  const joined = cache.get('slow', async () => {
    const { rows } = await pool.query('select title from articles where id = 1');
    return rows[0].title;
  });
  gate.resolve();
  expect(await slow).toBe('One');
  expect(await joined).toBe('Uno');
  expect(cache.counts.refusedFills).toBe(1);
});

test('a session sees its own write, though nobody has told of it yet; others are served what is kept', async () => {
  await article(cache, 1);
  const another = createPool({ connectionString: url });
  open.push({ close: () => another.end() });
  const elsewhere = newCache(another);
  await elsewhere.ready();
  expect(await article(elsewhere, 1, another)).toBe('One');
  feed.hold();
  await pool.query("update articles set title = 'Mine' where id = 1");
  expect(await article(cache, 1)).toBe('Mine');
  // It was computed after the write: it may be kept for who wrote.
  expect(await article(cache, 1)).toBe('Mine');
  expect(await article(elsewhere, 1, another)).toBe('One');
  feed.release();
  await feed.told();
  expect(await article(elsewhere, 1, another)).toBe('Mine');
  expect(await article(cache, 1)).toBe('Mine');
});

test('what the cache asks the database for itself is nobody’s write: what is kept is given, though more has been written and not told', async () => {
  feed.hold();
  await other.query("insert into tagged values (2, 'z')");
  await article(cache, 1);
  await article(cache, 1);
  expect(cache.counts).toMatchObject({ loads: 1, localHits: 1, tooOld: 0 });
});

test('a result that was overtaken is shared by all who came before its load began; no more than two loads', async () => {
  const gate = Promise.withResolvers<void>();
  const read = Promise.withResolvers<void>();
  let loads = 0;
  const ask = () =>
    cache.get('contended', async () => {
      const number = ++loads;
      const { rows } = await pool.query('select title from articles where id = 1');
      // Each is overtaken: what it reads changes while it is at it.
      await other.query(`update articles set title = 'after ${number}' where id = 1`);
      await feed.told();
      if (number === 1) {
        read.resolve();
        await gate.promise;
      }
      return rows[0].title;
    });
  const first = ask();
  await read.promise;
  const others = Array.from({ length: 50 }, ask);
  gate.resolve();
  expect(await first).toBe('One');
  expect(new Set(await Promise.all(others))).toEqual(new Set(['after 1']));
  expect(loads).toBe(2);
  expect(cache.counts).toMatchObject({ refusedFills: 2, joined: 49 });
});

test('while nobody tells what changes nothing is kept, and of all who ask at the same time no more than two load', async () => {
  const gate = Promise.withResolvers<void>();
  const begun = Promise.withResolvers<void>();
  let loads = 0;
  const ask = () =>
    cache.get('untold', async () => {
      const number = ++loads;
      const { rows } = await pool.query('select title from articles where id = 1');
      if (number === 1) {
        begun.resolve();
        await gate.promise;
      }
      return rows[0].title;
    });
  feed.gap();
  feed.hold();
  const first = ask();
  await begun.promise;
  await other.query("update articles set title = 'Uno' where id = 1");
  const others = Array.from({ length: 50 }, ask);
  gate.resolve();
  expect(await first).toBe('One');
  expect(new Set(await Promise.all(others))).toEqual(new Set(['Uno']));
  expect(loads).toBe(2);
});

test('of what can never be kept nobody waits for another’s, and few are loaded at a time', async () => {
  const limited = newCache(pool, { maxConcurrentLoads: 3 });
  await limited.ready();
  let running = 0;
  let most = 0;
  const ask = () =>
    limited.get('unkept', async () => {
      most = Math.max(most, ++running);
      // A write: nobody could say what it depends on.
      await pool.query("update users set name = 'x' where id = 1");
      running--;
      return most;
    });
  await ask();
  await Promise.all(Array.from({ length: 20 }, ask));
  expect(limited.counts).toMatchObject({ loads: 21, joined: 0, refusedFills: 21 });
  expect(most).toBe(3);
});

test('a thousand callers of a cold key: one load', async () => {
  let loads = 0;
  const ask = (of: Cache) =>
    of.get('popular', async () => {
      loads++;
      await pool.query('select pg_sleep(0.05)');
      return (await pool.query('select count(*)::int as n from articles')).rows[0].n;
    });
  const second = newCache(pool);
  await second.ready();
  const answers = await Promise.all(
    Array.from({ length: 1_000 }, (_, i) => ask(i % 2 ? cache : second)),
  );
  expect(new Set(answers)).toEqual(new Set([2]));
  expect(loads).toBe(1);
});

test('another process finds it in Redis, and forgets it when it changes', async () => {
  await article(cache, 1);
  await cache.settled();
  const second = newCache(pool);
  await second.ready();
  expect(await article(second, 1)).toBe('One');
  expect(second.counts).toMatchObject({ sharedHits: 1, loads: 0 });
  expect(await second.explain(['article', 1])).toMatchObject({
    in: ['process', 'redis'],
    holds: true,
    tags: ['public.articles!', 'public.articles#id=1', '=article:1'],
  });
  await other.query("update articles set title = 'Uno' where id = 1");
  await feed.told();
  const third = newCache(pool);
  await third.ready();
  for (const each of [cache, second, third]) expect(await article(each, 1)).toBe('Uno');
});

test('explicit tags and deletion reach every process, and what is being computed', async () => {
  const second = newCache(pool);
  await second.ready();
  let n = 0;
  const tagged = (of: Cache) => of.get('t', () => ++n, { tags: ['news'] });
  expect([await tagged(cache), await tagged(cache)]).toEqual([1, 1]);
  await cache.settled();
  expect(await tagged(second)).toBe(1);
  await second.invalidateTag('news');
  expect([await tagged(cache), await tagged(cache)]).toEqual([2, 2]);
  await cache.settled();
  await cache.delete('t');
  expect(await tagged(second)).toBe(3);
  const gate = Promise.withResolvers<number>();
  const begun = Promise.withResolvers<void>();
  const compute = () => {
    begun.resolve();
    return gate.promise;
  };
  const computed = cache.get('u', compute, { tags: ['news'] });
  await begun.promise;
  await cache.invalidateTag('news');
  gate.resolve(7);
  expect(await computed).toBe(7);
  expect(await cache.explain('u')).toBeUndefined();
  // A namespace's tags are its own.
  const space = cache.namespace('space');
  expect(await space.get('t', () => 'other', { tags: ['news'] })).toBe('other');
  await cache.invalidateTag('news');
  expect(await space.explain('t')).toMatchObject({ holds: true });
});

test('an expired entry is given for its grace while it is computed anew; never after an invalidation', async () => {
  let n = 0;
  const ask = () =>
    cache.get(
      'stale',
      async () => {
        await pool.query('select title from articles where id = 1');
        return ++n;
      },
      { ttl: 20, stale: '1h' },
    );
  const expired = () => until(async () => ((await cache.explain('stale'))?.leftMs ?? 1) < 0);
  expect(await ask()).toBe(1);
  await expired();
  expect(await ask()).toBe(1);
  await until(() => n === 2);
  await cache.settled();
  await expired();
  await other.query("update articles set title = 'Uno' where id = 1");
  await feed.told();
  expect(await ask()).toBe(3);
});

test('an error is the caller’s, and the next one tries again', async () => {
  let n = 0;
  const ask = () =>
    cache.get('failing', () => {
      if (++n === 1) throw new Error('no');
      return n;
    });
  await expect(ask()).rejects.toThrow('no');
  expect(await ask()).toBe(2);
});

test('what a loader reads in a transaction of its own is noted; in one from outside, it is not kept', async () => {
  const refused: string[] = [];
  cache.events.on('refused', ({ why }) => refused.push(why));
  const inOwn = () =>
    cache.get('own', () =>
      pool.transaction(
        async client => {
          const { rows } = await client.query('select title from articles where id = 1');
          return rows[0].title;
        },
        { readOnly: true, isolation: 'repeatable read' },
      ),
    );
  expect([await inOwn(), await inOwn()]).toEqual(['One', 'One']);
  expect(cache.counts).toMatchObject({ loads: 1, refusedFills: 0 });
  await other.query("update articles set title = 'Uno' where id = 1");
  await feed.told();
  expect(await inOwn()).toBe('Uno');

  const client = await pool.connect();
  await client.query('begin isolation level repeatable read');
  await client.query('select 1 from articles');
  const value = await cache.get(
    'outside',
    async () => (await client.query('select 1 as one')).rows,
  );
  await client.query('rollback');
  client.release();
  expect(value).toEqual([{ one: 1 }]);
  expect(refused).toEqual([expect.stringContaining('transaction that began outside')]);
});

test('an entry within an entry: what the inner one depends on is the outer one’s business too', async () => {
  const outer = () =>
    cache.get('outer', async () => `${await article(cache, 1)}, ${await article(cache, 2)}`);
  await article(cache, 1);
  expect(await outer()).toBe('One, Two');
  expect((await cache.explain('outer'))?.tags).toContain('public.articles#id=1');
  await other.query("update articles set title = 'Uno' where id = 1");
  await feed.told();
  expect(await outer()).toBe('Uno, Two');
  await other.query("update articles set title = 'Due' where id = 2");
  await feed.told();
  expect(await outer()).toBe('Uno, Due');
});

test('a gap: nothing of before is served, until it is known again what changes', async () => {
  await article(cache, 1);
  feed.hold();
  await other.query("update articles set title = 'Uno' where id = 1");
  await until(async () => (await other.query('select 1')).rowCount === 1);
  feed.release();
  feed.gap();
  expect(await article(cache, 1)).toBe('Uno');
  expect(cache.counts.gaps).toBe(1);
});

test('Redis killed, frozen, back: no error, few loads at a time, and it is used again', async () => {
  const limited = newCache(pool, { maxConcurrentLoads: 3 });
  await limited.ready();
  await limited.get('before', () => 1);
  let running = 0;
  let most = 0;
  const ask = (key: string) =>
    limited.get(key, async () => {
      most = Math.max(most, ++running);
      await pool.query('select title from articles where id = 1');
      running--;
      return key;
    });
  redis.freeze();
  expect(await ask('frozen')).toBe('frozen');
  await redis.kill();
  const keys = Array.from({ length: 100 }, (_, i) => `k${i}`);
  expect(await Promise.all(keys.map(ask))).toEqual(keys);
  expect(most).toBeLessThanOrEqual(3);
  await redis.start();
  await until(() => store.isReady);
  await marked();
  const second = newCache(pool);
  await second.ready();
  await until(async () => {
    await limited.get(`again ${Math.random()}`, () => 1);
    await limited.delete('shared');
    await limited.get('shared', () => 'there');
    await limited.settled();
    const found = await second.explain('shared');
    return found?.in.includes('redis');
  });
});

test('what cannot be kept is told, with its place; so are keys that are none', async () => {
  const give = (value: unknown) => cache.get('bad', () => value);
  await expect(give({ a: [1, { b: () => 1 }] })).rejects.toMatchObject({
    code: 'NOT_STORABLE',
    path: 'value.a[1].b',
  });
  class Point {}
  await expect(give(new Map([['p', new Point()]]))).rejects.toThrow(/value\.get\(p\).*class Point/);
  const loop: Record<string, unknown> = {};
  loop.self = loop;
  await expect(give(loop)).rejects.toMatchObject({ path: 'value.self' });
  for (const key of ['', 'x'.repeat(600), 'é'.repeat(300)]) {
    await expect(cache.get(key, () => 1)).rejects.toMatchObject({ code: 'INVALID_CACHE_KEY' });
  }
  await expect(cache.get('k', () => 1, { ttl: '5 years' })).rejects.toMatchObject({
    code: 'INVALID_CACHE_OPTION',
  });
  expect(await cache.get(['a:b', 'c'], () => 1)).toBe(1);
  expect(await cache.get(['a', 'b:c'], () => 2)).toBe(2);
});

test('what is given is shared, so nobody can change it', async () => {
  const value = await cache.get('shared', () => ({ list: [{ n: 1 }], at: new Date(5) }));
  expect(() => {
    value.list[0]!.n = 2;
  }).toThrow(TypeError);
  expect(value.at).toEqual(new Date(5));
});
