/**
 * The cache over shards, each a server of its own with a log of its own: whoever changes what, and where; and a browser sees what it wrote
 * whichever web server it comes to.
 */
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import type { Cache } from '../../../src/app/cache/cache.ts';
import { createCache } from '../../../src/app/cache/create-cache.ts';
import { EXPLICIT, type FeedListener, type InvalidationFeed } from '../../../src/app/cache/feed.ts';
import { readOwnWrites } from '../../../src/app/database/consistency/scope.ts';
import { parseMarks, renderMarks } from '../../../src/app/database/consistency/session-token.ts';
import { createPool, type Pool } from '../../../src/app/database/pool.ts';
import type { ShardedPool } from '../../../src/app/database/shards/sharded-pool.ts';
import { createSessions } from '../../../src/app/sessions/sessions.ts';
import { withRequestContext } from '../../../src/app/telemetry/request-context.ts';
import { CreatedShards } from '../../support/created-shards.ts';
import type { Listening } from '../../support/listen.ts';
import { LogFeed } from '../../support/log-feed.ts';
import { Browser, type Data, FRAMEWORKS } from '../../support/session-app.ts';

const SHARDS = 2;

/** The logs of all shards, as one invalidator tells them; tags that the application names come by the first. */
class LogFeeds implements InvalidationFeed {
  readonly #feeds: readonly LogFeed[];

  constructor(feeds: readonly LogFeed[]) {
    this.#feeds = feeds;
  }

  connect(listener: FeedListener): () => void {
    const ends = this.#feeds.map((feed, index) =>
      feed.connect(event => {
        const cluster = event.kind === 'batch' ? event.batch.cluster : event.cluster;
        if (index === 0 || cluster !== EXPLICIT) listener(event);
      }),
    );
    return () => {
      for (const end of ends) end();
    };
  }

  invalidate(tags: readonly string[]): Promise<void> {
    return this.#feeds[0]!.invalidate(tags);
  }

  hold(): void {
    for (const feed of this.#feeds) feed.hold();
  }

  release(): void {
    for (const feed of this.#feeds) feed.release();
  }

  async told(): Promise<void> {
    await Promise.all(this.#feeds.map(feed => feed.told()));
  }

  async close(): Promise<void> {
    await Promise.all(this.#feeds.map(feed => feed.close()));
  }
}

interface Process {
  pool: Pool;
  cache: Cache;
  refusals: string[];
}

let shards: CreatedShards;
let clusters: string[];
let feeds: LogFeeds;
/** Two web servers. */
let here: Process;
let there: Process;
const servers: Listening[] = [];
const open: Process[] = [];

beforeAll(async () => {
  shards = await CreatedShards.start(
    SHARDS,
    `create table users (id bigint primary key, name text not null unique, bio text not null default '');
     create table posts (user_id bigint, id bigint, title text not null, primary key (user_id, id));
     create table settings (name text primary key, value text);`,
    {
      tables: {
        'public.users': { kind: 'sharded', key: 'id' },
        'public.posts': { kind: 'sharded', key: 'user_id' },
      },
      unique: ['public.users.name'],
    },
  );
  clusters = (shards.pool as ShardedPool).shards.all.map(({ id }) => id);
  const logs = clusters.map((id, index) => {
    const server = shards.servers.servers[index]!;
    const members = () => [{ host: server.host, port: server.port }];
    return LogFeed.start(members, shards.servers.urls[index]!, id);
  });
  feeds = new LogFeeds(await Promise.all(logs));
});

beforeEach(async () => {
  await shards.pool.query('delete from posts');
  await shards.pool.query('delete from users');
  for (let id = 1; id <= 8; id++) {
    await shards.pool.query('insert into users (id, name) values ($1, $2)', [id, `user-${id}`]);
    await shards.pool.query('insert into posts values ($1, 1, $2)', [id, `post of ${id}`]);
  }
  await feeds.told();
  [here, there] = [await start(), await start()];
});

afterEach(async () => {
  feeds.release();
  await Promise.all(servers.splice(0).map(server => server.close()));
  for (const { cache, pool } of open.splice(0)) {
    await cache.close();
    await pool.end();
  }
});

afterAll(async () => {
  await feeds?.close();
  await shards?.remove();
});

async function start(): Promise<Process> {
  const { servers: of, maps } = shards;
  const pool = createPool({ connectionString: of.urls[0], mapFile: maps.mapFile, max: 4 });
  const cache = createCache({ pool }, { feed: feeds, clusters });
  await cache.ready();
  const refusals: string[] = [];
  cache.events.on('refused', ({ key, why }) => refusals.push(`${key} ${why}`));
  open.push({ pool, cache, refusals });
  return open.at(-1)!;
}

const bio = ({ cache, pool }: Process, id: number) =>
  cache.get(['bio', id], async () => {
    const { rows } = await pool.query<{ bio: string }>('select bio from users where id = $1', [id]);
    return rows[0]?.bio;
  });

const byName = ({ cache, pool }: Process, name: string) =>
  cache.get(['name', name], async () => {
    const { rows } = await pool.query<{ id: string; bio: string }>(
      'select id, bio from users where name = $1',
      [name],
    );
    return rows[0];
  });

const titles = ({ cache, pool }: Process) =>
  cache.get('titles', async () => {
    const { rows } = await pool.query<{ title: string }>(
      'select title from posts order by title limit 3',
    );
    return rows.map(({ title }) => title);
  });

/** Two users on different shards. */
async function apart(): Promise<[number, number]> {
  const held = await shards.servers.everywhere('select min(id)::int as id from users');
  const [one, two] = held.map(({ rows }) => rows[0].id as number);
  return [one!, two!];
}

test('what is read on any shard, on all, or by a unique column, is kept until it changes', async () => {
  const read = async () => ({
    bios: await Promise.all([1, 2, 3, 4, 5, 6, 7, 8].map(id => bio(here, id))),
    named: await byName(here, 'user-3'),
    titles: await titles(here),
  });
  const first = await read();
  expect(await read()).toEqual(first);
  expect(here.refusals).toEqual([]);
  expect(here.cache.counts).toMatchObject({ loads: 10, localHits: 10 });
  // As somebody else's program would, on the shard itself.
  await shards.servers.everywhere("update users set bio = 'changed' where id in (3, 4)");
  await shards.servers.everywhere("update posts set title = 'a' where user_id = 7");
  await feeds.told();
  const second = await read();
  expect(second.bios).toEqual(['', '', 'changed', 'changed', '', '', '', '']);
  expect(second.named).toEqual({ id: '3', bio: 'changed' });
  expect(second.titles[0]).toBe('a');
  expect(here.cache.counts).toMatchObject({ loads: 14 });
});

test('that there is nobody of a name is kept until there is, whichever shard that is on', async () => {
  const names = Array.from({ length: 6 }, (_, i) => `new-${i}`);
  for (const name of names) expect(await byName(here, name)).toBeUndefined();
  for (const [i, name] of names.entries()) {
    await shards.pool.query('insert into users (id, name) values ($1, $2)', [100 + i, name]);
  }
  await feeds.told();
  for (const [i, name] of names.entries()) {
    expect(await byName(here, name)).toMatchObject({ id: String(100 + i) });
  }
  await shards.pool.query("update users set name = 'renamed' where id = 100");
  await feeds.told();
  expect(await byName(here, 'new-0')).toBeUndefined();
  expect(await byName(here, 'renamed')).toMatchObject({ id: '100' });
});

test('who wrote on two shards in one transaction is shown both, though neither log has been told', async () => {
  const [one, two] = await apart();
  await withRequestContext({ requestId: 'before' }, () =>
    Promise.all([bio(here, one), bio(here, two)]),
  );
  feeds.hold();
  await withRequestContext({ requestId: 'writes' }, async () => {
    await here.pool.transaction(async client => {
      for (const id of [one, two]) {
        await client.query("update users set bio = 'mine' where id = $1", [id]);
      }
    });
    expect([await bio(here, one), await bio(here, two)]).toEqual(['mine', 'mine']);
  });
  // Others, who have written nothing, are given what is kept.
  await withRequestContext({ requestId: 'reads' }, async () => {
    expect(await bio(there, one)).toBe('mine');
  });
});

/** A web server: `/write/<id>/<bio>`, `/read/<id>`; `/exact/<id>` for who brings no session. */
async function serve(process: Process): Promise<Listening> {
  const { pool } = process;
  const sessions = createSessions<Data>({ pool });
  const server = await FRAMEWORKS.Hono(sessions, async ({ pathname }, session) => {
    const [, action, id, text] = pathname.split('/');
    if (action === 'write') {
      session.set('wrote', true);
      await pool.query('update users set bio = $2 where id = $1', [id, text]);
      return { body: 'written' };
    }
    if (action === 'exact') readOwnWrites();
    return { body: (await bio(process, Number(id))) ?? 'nobody' };
  });
  servers.push(server);
  return server;
}

test('what a browser wrote by one web server it sees by the other, though no log has been told; who wrote nothing gets what is kept', async () => {
  const [one, two] = [await serve(here), await serve(there)];
  const [id, other] = await apart();
  for (const each of [id, other]) await new Browser(two.origin).send(`/read/${each}`);
  feeds.hold();
  const browser = new Browser(one.origin);
  for (const [n, each] of [id, other, id].entries()) {
    await browser.send(`/write/${each}/v${n}`);
    const elsewhere = new Browser(two.origin, browser.cookies);
    expect((await elsewhere.send(`/read/${each}`)).text).toBe(`v${n}`);
  }
  // The cookie names both shards; when it has become old enough it counts by itself.
  const marks = parseMarks(decodeURIComponent(browser.cookies.get('sid-seen')!))!;
  expect([...marks.keys()].toSorted()).toEqual(clusters.toSorted());
  const old = new Map(
    [...marks].map(([cluster, { position }]) => [
      cluster,
      { position, writtenAt: Date.now() - 11_000 },
    ]),
  );
  const cookies: [string, string][] = [...browser.cookies, ['sid-seen', renderMarks(old)]];
  const late = new Browser((await serve(await start())).origin, cookies);
  expect((await late.send(`/read/${id}`)).text).toBe('v2');
  expect((await late.send(`/read/${other}`)).text).toBe('v1');
});

test('without a session who asks to see his own writes does; who does not ask is given what is kept', async () => {
  const server = await serve(here);
  const [id] = await apart();
  const ask = async (path: string) => (await new Browser(server.origin).send(path)).text;
  expect(await ask(`/read/${id}`)).toBe('');
  feeds.hold();
  await there.pool.query("update users set bio = 'new' where id = $1", [id]);
  expect(await ask(`/read/${id}`)).toBe('');
  expect(await ask(`/exact/${id}`)).toBe('new');
});
