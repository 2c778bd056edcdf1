/** With a replica that is held back: what it gives is kept only when nothing that it has not replayed was invalidated. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Cache } from '../../../src/app/cache/cache.ts';
import { createCache } from '../../../src/app/cache/create-cache.ts';
import type { Pool } from '../../../src/app/database/pool.ts';
import { withRequestContext } from '../../../src/app/telemetry/request-context.ts';
import { Cluster } from '../../support/cluster.ts';
import { LogFeed } from '../../support/log-feed.ts';
import { RoutedPools } from '../../support/routed.ts';
import { until } from '../../support/until.ts';

let cluster: Cluster;
let feed: LogFeed;
let pool: Pool;
let cache: Cache;

beforeAll(async () => {
  cluster = await Cluster.start();
  await cluster.primary.ask("alter system set wal_level = 'logical'");
  await cluster.primary.stop();
  await cluster.primary.start();
  await cluster.primary.ask('create table articles (id int primary key, title text)');
  await cluster.primary.ask("insert into articles values (1, 'old')");
  await cluster.caughtUp();
  const pools = new RoutedPools(cluster);
  await pools.prepare();
  await pools.publish();
  feed = await LogFeed.start(
    () => cluster.members.map(({ host, port }) => ({ host, port })),
    cluster.primary.url(),
    '0',
  );
  pool = await pools.reading();
  cache = createCache({ pool, mapFile: pools.mapFile }, { feed, clusters: ['0'] });
  await cache.ready();
});

afterAll(async () => {
  await cache?.close();
  await feed?.close();
  await cluster?.remove();
});

/** Where the loader reads: an answer may be old, so the replica gives it, however far behind it is. */
const load = (key: string) =>
  cache.get(key, async () => {
    const { rows } = await pool.query<{ title: string }>({
      text: 'select title from articles where id = 1',
      staleness: '10m',
    });
    return rows[0]!.title;
  });

/** Where it was read. */
async function kindOf(key: string): Promise<string | undefined> {
  await load(key);
  return (await cache.explain(key))?.positions['0']?.kind;
}

test('a result of a replica that has not replayed a change is given, and not kept', async () => {
  await feed.told();
  await until(async () => (await kindOf(`${Math.random()}`)) === 'replayed', {
    what: 'loaders reach the replica',
  });
  const refusals: string[] = [];
  cache.events.on('refused', ({ why }) => refusals.push(why));
  expect(await load('first')).toBe('old');
  expect(refusals).toEqual([]);
  expect((await cache.explain('first'))?.positions['0']).toMatchObject({ kind: 'replayed' });

  const replica = cluster.standbys[0]!;
  await replica.pauseReplay();
  try {
    await cluster.primary.ask("update articles set title = 'new' where id = 1");
    await feed.told();
    expect(await cache.explain('first')).toBeUndefined();
    // Stale as the application allowed: for whoever asked, and for nobody after him.
    expect(await load('first')).toBe('old');
    expect(refusals).toEqual([expect.stringContaining('overtaken')]);
    expect(await cache.explain('first')).toBeUndefined();
  } finally {
    await replica.resumeReplay();
  }
  await cluster.caughtUp();
  // What it gives is kept only when its place in the log was looked at after it had got there: the first that is new need not be.
  const kept = async () => {
    const value = await load('first');
    return (await cache.explain('first'))?.holds ? value : undefined;
  };
  await until(async () => (await kept()) === 'new', { what: 'what is new is kept' });
});

test('a loader that does more than read is not kept', async () => {
  await until(async () => (await kindOf(`${Math.random()}`)) === 'replayed', {
    what: 'loaders reach the replica',
  });
  const value = await cache.get('both', async () => {
    const write = await pool.query(
      'select title from articles where id = 1 and txid_current() > 0',
    );
    return write.rows.length;
  });
  expect(value).toBe(1);
  // It did more than read, so it is not known what it depends on.
  expect(await cache.explain('both')).toBeUndefined();
});

test('a request that came before a change, and asks after it was told, is shown it', async () => {
  await cluster.caughtUp();
  await feed.told();
  const replica = cluster.standbys[0]!;
  const titleFor = (key: string) =>
    cache.get(key, async () => {
      const { rows } = await pool.query<{ title: string }>(
        'select title from articles where id = 1',
      );
      return rows[0]!.title;
    });
  for (let n = 0; n < 20; n++) {
    await withRequestContext({ requestId: `came-before-${n}` }, async () => {
      // From here on the request has a position, which the replica has reached.
      await titleFor(`before ${n}`);
      await replica.pauseReplay();
      try {
        await cluster.primary.ask(`update articles set title = 'told ${n}' where id = 1`);
        await feed.told();
        expect(await titleFor(`after ${n}`)).toBe(`told ${n}`);
      } finally {
        await replica.resumeReplay();
      }
    });
    await cluster.caughtUp();
  }
});
