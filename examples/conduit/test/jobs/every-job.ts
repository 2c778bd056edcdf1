/** Every job of the application, on a real deployment: what it does, once, and what it does not do. */
import { rm } from 'node:fs/promises';
import { createPool, createQueue, type Pool, type Queue } from 'banyan';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { until } from '../../../../test/support/until.ts';
import { recountTags, welcomeMail } from '../../jobs/definitions.ts';
import { below, type Random, randomOf } from '../../seed/random.ts';
import { ann, api, ben, site } from '../api/setting.ts';
import type { Member } from '../support/api.ts';
import { MAIL_FOLDER, mails } from './mails.ts';

let pool: Pool;
/** Publishes and looks; the deployment's processes do the work. */
let queue: Queue;

beforeAll(() => {
  pool = createPool({ connectionString: site.databaseUrl, mapFile: site.paths.map, max: 4 });
  queue = createQueue({ pool });
});
afterAll(async () => {
  await queue?.close();
  await pool?.end();
  await rm(MAIL_FOLDER, { recursive: true, force: true });
});

/** Nothing waits and nothing is in hand. */
const settled = () =>
  until(async () => (await queue.stats()).every(({ depth }) => depth === 0), {
    what: 'all jobs are done',
  });

async function rows<Row>(text: string, ...values: unknown[]): Promise<Row[]> {
  return (await pool.query(text, values)).rows as Row[];
}

async function number(text: string, ...values: unknown[]): Promise<number> {
  const [row] = await rows<Record<string, unknown>>(text, ...values);
  return Number(Object.values(row!)[0]);
}

const idOf = async ({ username }: Member): Promise<string> =>
  (await rows<{ id: string }>('select id from users where username_key = $1', username))[0]!.id;

const follow = async (reader: Member, author: Member) => {
  const path = `/profiles/${author.username}/follow`;
  expect((await api.call(`POST ${path}`, { token: reader.token })).status).toBe(200);
};

/** Slugs. */
async function feedOf({ token }: Member, query = ''): Promise<string[]> {
  const { status, body } = await api.call(`GET /articles/feed${query}`, { token });
  expect(status).toBe(200);
  return body.articles.map(({ slug }: { slug: string }) => slug);
}

/** What is kept of a feed, newest first. */
async function entriesOf(reader: Member): Promise<string[]> {
  const entries = await rows<{ article_id: string }>(
    'select article_id from feed_entries where user_id = $1 order by created_at desc, article_id desc',
    await idOf(reader),
  );
  return entries.map(({ article_id }) => article_id);
}

const articleId = async (slug: string): Promise<string> =>
  (await rows<{ id: string }>('select id from articles where slug = $1', slug))[0]!.id;

describe('the welcome mail', () => {
  const to = async (address: string) =>
    (await mails()).filter(text => text.includes(`To: <${address}>`));

  test('whoever signs up gets one, and who is refused none', async () => {
    const newcomer = await api.signUp('newcomer');
    const taken = { username: newcomer.username, email: 'taken@example.com', password: '12345678' };
    expect((await api.call('POST /users', { body: { user: taken } })).status).toBe(422);
    const [mail] = await until(async () => {
      const found = await to(newcomer.email);
      return found.length > 0 && found;
    });
    expect(mail).toContain('Subject: Welcome to Conduit\r\n');
    expect(mail).toContain(`Hello ${newcomer.username},`);
    await settled();
    expect(await to(newcomer.email)).toHaveLength(1);
    expect(await to('taken@example.com')).toEqual([]);
    expect(await mails()).toHaveLength(await number('select count(*) from users'));
  });

  test('a message about nobody is tried again, and harms no other', async () => {
    const id = await queue.publish(welcomeMail, { userId: '1' });
    const last = await api.signUp('last');
    await until(async () => (await to(last.email)).length === 1);
    await until(() => queue.cancel(id), { what: 'it waits for another try' });
    await settled();
  });
});

describe('feeds', () => {
  test('an article comes into the followers’ feeds, and goes with its deletion', async () => {
    const [author, reader, other] = [
      await api.signUp('author'),
      await api.signUp('reader'),
      await api.signUp('other'),
    ];
    await follow(reader, author);
    await follow(other, author);
    const slug = await api.publish(author.token, { title: 'To all' });
    // At once, whatever the jobs are at.
    expect(await feedOf(reader)).toEqual([slug]);
    const id = await articleId(slug);
    await settled();
    expect(await entriesOf(reader)).toEqual([id]);
    expect(await entriesOf(other)).toEqual([id]);
    expect(await entriesOf(author)).toEqual([]);
    expect(await feedOf(reader)).toEqual([slug]);
    await api.call(`DELETE /articles/${slug}`, { token: author.token });
    expect(await feedOf(reader)).toEqual([]);
    expect(await entriesOf(reader)).toEqual([]);
    await settled();
    expect(await number('select count(*) from feed_entries where article_id = $1', id)).toBe(0);
  });

  test('a new follower gets what was written before, and loses it by unfollowing', async () => {
    const [author, reader] = [await api.signUp('author'), await api.signUp('reader')];
    const older = await api.publish(author.token, { title: 'Older' });
    const newer = await api.publish(author.token, { title: 'Newer' });
    await follow(reader, author);
    expect(await feedOf(reader)).toEqual([newer, older]);
    await settled();
    expect(await entriesOf(reader)).toEqual([await articleId(newer), await articleId(older)]);
    expect(await feedOf(reader, '?limit=1&offset=1')).toEqual([older]);
    const path = `/profiles/${author.username}/follow`;
    await api.call(`DELETE ${path}`, { token: reader.token });
    expect(await feedOf(reader)).toEqual([]);
    expect(await entriesOf(reader)).toEqual([]);
  });

  test('what is kept is what is read', async () => {
    const [author, reader] = [await api.signUp('author'), await api.signUp('reader')];
    await follow(reader, author);
    const kept = await api.publish(author.token, { title: 'Kept' });
    const lost = await api.publish(author.token, { title: 'Lost' });
    await settled();
    expect(await feedOf(reader)).toEqual([lost, kept]);
    await pool.query('delete from feed_entries where user_id = $1 and article_id = $2', [
      await idOf(reader),
      await articleId(lost),
    ]);
    await until(async () => (await feedOf(reader)).length === 1);
    expect(await feedOf(reader)).toEqual([kept]);
  });

  test('follows of before there were feeds are filled when somebody reads', async () => {
    const [author, reader] = [await api.signUp('author'), await api.signUp('reader')];
    const slug = await api.publish(author.token, { title: 'Before' });
    await pool.query('insert into follows (follower_id, followed_id) values ($1, $2)', [
      await idOf(reader),
      await idOf(author),
    ]);
    expect(await feedOf(reader)).toEqual([slug]);
    await until(async () => (await entriesOf(reader)).length === 1);
    await settled();
    expect(await feedOf(reader)).toEqual([slug]);
  });

  test('an author with thousands of followers reaches each of them, in pages', async () => {
    const star = await api.signUp('star');
    const id = await idOf(star);
    const first = 10_000_000;
    const count = 2_500;
    await pool.query(
      `insert into follows (follower_id, followed_id, in_feed)
       select follower, $1::bigint, true from generate_series($2::bigint, $3::bigint) as follower`,
      [id, first, first + count - 1],
    );
    const slug = await api.publish(star.token, { title: 'To thousands' });
    const article = await articleId(slug);
    await until(
      async () => (await number('select articles_underway from users where id = $1', id)) === 0,
      { what: 'the article has arrived' },
    );
    const of = 'from feed_entries where article_id = $1';
    expect(await number(`select count(*) ${of}`, article)).toBe(count);
    expect(await number(`select count(distinct user_id) ${of}`, article)).toBe(count);
    await api.call(`DELETE /articles/${slug}`, { token: star.token });
    expect(await number(`select count(*) ${of}`, article)).toBe(0);
  });

  test('all that happens at once leaves each feed as it should be', async () => {
    const seed = Date.now();
    console.log(`seed ${seed}`);
    const people = await Promise.all(Array.from({ length: 6 }, () => api.signUp('crowd')));
    const slugs = new Map<Member, string[]>(people.map(person => [person, []]));
    const follows = new Set<string>();
    const act = async (one: Member, random: Random, title: string) => {
      const own = slugs.get(one)!;
      const dice = random();
      if (dice < 0.4) return own.push(await api.publish(one.token, { title }));
      if (dice < 0.5 && own.length > 0) {
        return api.call(`DELETE /articles/${own.shift()}`, { token: one.token });
      }
      const other = people[below(random, people.length)]!;
      if (one === other) return;
      const pair = `${one.username} ${other.username}`;
      const method = follows.delete(pair) ? 'DELETE' : 'POST';
      if (method === 'POST') follows.add(pair);
      await api.call(`${method} /profiles/${other.username}/follow`, { token: one.token });
    };
    // One after the other for each person, all of them at a time.
    await Promise.all(
      people.map(async (one, at) => {
        const random = randomOf(seed, at);
        for (let step = 0; step < 20; step++) await act(one, random, `Crowd ${at} ${step}`);
      }),
    );
    await settled();
    for (const reader of people) {
      const expected = people
        .filter(author => follows.has(`${reader.username} ${author.username}`))
        .flatMap(author => slugs.get(author)!);
      expect((await feedOf(reader, '?limit=100')).sort()).toEqual(expected.sort());
      const ids = await Promise.all(expected.map(articleId));
      expect((await entriesOf(reader)).sort()).toEqual(ids.sort());
    }
    expect(await number('select sum(articles_underway) from users')).toBe(0);
  });
});

describe('thumbnails', () => {
  /** As a browser does it. @returns the picture's address */
  async function upload(name: string, bytes: Buffer): Promise<string> {
    const origin = site.address;
    const form = new URLSearchParams({
      username: name,
      email: `${name}@example.com`,
      password: 'correct horse',
    });
    const entered = await fetch(`${origin}/register`, {
      method: 'POST',
      body: form,
      headers: { origin },
      redirect: 'manual',
    });
    expect(entered.status).toBe(303);
    const cookie = entered.headers
      .getSetCookie()
      .map(text => text.split(';', 1)[0])
      .join('; ');
    const picture = new FormData();
    picture.set('avatar', new File([new Uint8Array(bytes)], 'picture', { type: 'image/png' }));
    const uploaded = await fetch(`${origin}/settings/avatar`, {
      method: 'POST',
      body: picture,
      headers: { origin, cookie },
      redirect: 'manual',
    });
    expect(uploaded.status).toBe(303);
    const { body } = await api.call(`GET /profiles/${name}`);
    return body.profile.image;
  }

  test('a picture gets a small square one, and pages show that', async () => {
    const create = { width: 640, height: 400, channels: 3 as const, background: '#276f86' };
    const png = await sharp({ create }).png().toBuffer();
    const address = await upload('pictured', png);
    const page = await (await fetch(`${site.address}/profile/pictured`)).text();
    expect(page).toContain(`${new URL(address).pathname}/thumbnail"`);
    const small = await until(async () => {
      const response = await fetch(`${address}/thumbnail`);
      return response.headers.get('content-type') === 'image/webp' && response;
    });
    expect(small.headers.get('cache-control')).toContain('immutable');
    const { width, height, format } = await sharp(await small.arrayBuffer()).metadata();
    expect({ width, height, format }).toEqual({ width: 192, height: 192, format: 'webp' });
    const original = await fetch(address);
    expect(Buffer.from(await original.arrayBuffer())).toEqual(png);
  });

  test('of one that cannot be decoded the original is shown, and it is tried once', async () => {
    const broken = Buffer.concat([Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'), Buffer.alloc(500)]);
    const address = await upload('broken', broken);
    await settled();
    const [, , userId] = new URL(address).pathname.split('/');
    expect(await number('select length(thumbnail) from avatars where user_id = $1', userId)).toBe(
      0,
    );
    const shown = await fetch(`${address}/thumbnail`);
    expect(shown.headers.get('content-type')).toBe('image/png');
    expect(shown.headers.get('cache-control')).not.toContain('immutable');
    expect(await queue.deadLetters({ topic: 'make-thumbnail' })).toEqual([]);
  });
});

describe('views', () => {
  test('add up to exactly the number of page views, and leave the article as it was', async () => {
    const slugs = [
      await api.publish(ann.token, { title: 'Seen often' }),
      await api.publish(ben.token, { title: 'Seen seldom' }),
    ];
    const look = async (slug: string) => {
      const response = await fetch(`${site.address}/article/${slug}`);
      expect(response.status).toBe(200);
      return response.text();
    };
    await Promise.all(
      Array.from({ length: 60 }, (_, index) => look(slugs[index % 4 === 0 ? 1 : 0]!)),
    );
    // Neither is one: nobody looked at it, and there is none.
    await fetch(`${site.address}/article/${slugs[0]}`, { method: 'HEAD' });
    expect((await fetch(`${site.address}/article/nothing`)).status).toBe(404);
    const viewsOf = async (slug: string) =>
      number(
        'select coalesce(sum(views), 0) from article_views where article_id = $1',
        await articleId(slug),
      );
    await until(async () => (await viewsOf(slugs[0]!)) + (await viewsOf(slugs[1]!)) >= 60);
    await settled();
    expect([await viewsOf(slugs[0]!), await viewsOf(slugs[1]!)]).toEqual([45, 15]);
    const { body } = await api.call(`GET /articles/${slugs[0]}`);
    expect(body.article.updatedAt).toBe(body.article.createdAt);
    await until(async () => /\b(4[5-9]|[5-9]\d) views\b/.test(await look(slugs[0]!)));
  });

  test('of an article that is deleted meanwhile go with it', async () => {
    const [going, staying] = [
      await api.publish(ann.token, { title: 'Going' }),
      await api.publish(ann.token, { title: 'Staying' }),
    ];
    const [goingId, stayingId] = [await articleId(going), await articleId(staying)];
    await Promise.all([going, staying].map(slug => fetch(`${site.address}/article/${slug}`)));
    await api.call(`DELETE /articles/${going}`, { token: ann.token });
    const of = 'select count(*) from article_views where article_id = $1';
    await until(async () => (await number(of, stayingId)) === 1);
    expect(await number(of, goingId)).toBe(0);
  });
});

describe('tag counts', () => {
  test('are right by themselves, and wrong ones are repaired', async () => {
    await api.publish(ann.token, { title: 'Tagged', tagList: ['high', 'low', 'lost', 'right'] });
    await api.publish(ben.token, { title: 'Tagged', tagList: ['right'] });
    await pool.query(`update tags set articles_count = 7 where name = 'high'`);
    await pool.query(`update tags set articles_count = 0 where name = 'low'`);
    await pool.query(`delete from tags where name = 'lost'`);
    await pool.query(`insert into tags (name, articles_count) values ('none', 3)`);
    await queue.publish(recountTags, {});
    const counts = await until(
      async () => {
        const found = await rows<{ name: string; articles_count: number }>(
          `select name, articles_count from tags
           where name in ('high', 'low', 'lost', 'none', 'right') order by name`,
        );
        const all = Object.fromEntries(found.map(one => [one.name, one.articles_count]));
        return all.none === 0 && all.lost === 1 && all;
      },
      { what: 'the counts are repaired' },
    );
    await settled();
    expect(counts).toEqual({ high: 1, low: 1, lost: 1, none: 0, right: 2 });
    const { body } = await api.call('GET /tags');
    expect(body.tags[0]).toBe('right');
  });

  test('are looked at every night', async () => {
    const [schedule] = await rows<{ name: string; cron: string }>(
      `select name, cron from banyan_queue.schedule where name = 'recount-tags'`,
    );
    expect(schedule).toEqual({ name: 'recount-tags', cron: '0 3 * * *' });
  });
});
