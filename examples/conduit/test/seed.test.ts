/** The seeding command: what it puts into the database adds up, looks like people, and can be used. */
import fc from 'fast-check';
import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { banyan, deployExample, type Site } from '../../../test/support/deployment.ts';
import { paretoCount, randomOf, shuffled } from '../seed/random.ts';
import { usernameOf } from '../seed/text.ts';
import { Zipf } from '../seed/zipf.ts';
import { Api } from './support/api.ts';

describe('random numbers', () => {
  test('the same seed gives the same, any other seed others, evenly spread', () => {
    const draw = (...parts: number[]) => {
      const random = randomOf(...parts);
      return Array.from({ length: 10_000 }, random);
    };
    expect(draw(1, 2)).toEqual(draw(1, 2));
    for (const parts of [[2, 1], [1, 3], [1], [1, 2, 0], [2 ** 40 + 1, 2]]) {
      expect(draw(...parts).slice(0, 4)).not.toEqual(draw(1, 2).slice(0, 4));
    }
    const mean = draw(7).reduce((sum, value) => sum + value) / 10_000;
    expect(mean).toBeCloseTo(0.5, 1);
    expect(Math.max(...draw(7))).toBeLessThan(1);
  });

  test('a shuffle has each number once', () => {
    fc.assert(
      fc.property(fc.nat(500), fc.nat(), (size, seed) => {
        const order = shuffled(randomOf(seed), size);
        expect([...order].sort((a, b) => a - b)).toEqual(
          Array.from({ length: size }, (_, at) => at),
        );
      }),
    );
  });

  test('counts of a Pareto distribution have about their mean, and a long tail', () => {
    const random = randomOf(5);
    const counts = Array.from({ length: 50_000 }, () => paretoCount(random, 20, 2_000));
    const mean = counts.reduce((sum, value) => sum + value) / counts.length;
    expect(mean).toBeGreaterThan(17);
    expect(mean).toBeLessThan(21);
    expect(Math.max(...counts)).toBeGreaterThan(500);
    expect(Math.max(...counts)).toBeLessThanOrEqual(2_000);
  });
});

describe('Zipf', () => {
  test('ranks are within the size, for any size and exponent', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 2 ** 31 }),
        fc.double({ min: 0.05, max: 4, noNaN: true }),
        fc.nat(),
        (size, exponent, seed) => {
          const random = randomOf(seed);
          const law = new Zipf(size, exponent);
          for (let draws = 0; draws < 20; draws++) {
            const rank = law.sample(random);
            expect(Number.isInteger(rank) && rank >= 1 && rank <= size).toBe(true);
          }
        },
      ),
    );
  });

  test.each([0.5, 0.8, 1, 1.5])(
    'with the exponent %d each rank comes as often as it should',
    exponent => {
      const size = 20;
      const law = new Zipf(size, exponent);
      const random = randomOf(11);
      const draws = 200_000;
      const seen = new Array<number>(size + 1).fill(0);
      for (let count = 0; count < draws; count++) seen[law.sample(random)]!++;
      let all = 0;
      for (let rank = 1; rank <= size; rank++) all += rank ** -exponent;
      for (let rank = 1; rank <= size; rank++) {
        const expected = (draws * rank ** -exponent) / all;
        expect(Math.abs(seen[rank]! - expected)).toBeLessThan(5 * Math.sqrt(expected));
      }
    },
  );

  test('a size or an exponent that makes no sense is refused', () => {
    expect(() => new Zipf(0, 1)).toThrow(RangeError);
    expect(() => new Zipf(10, 0)).toThrow(RangeError);
  });
});

test('no two people have the same name', () => {
  const names = new Set(Array.from({ length: 50_000 }, (_, index) => usernameOf(index)));
  expect(names.size).toBe(50_000);
});

describe('a seeded deployment', () => {
  let site: Site;
  let pool: pg.Pool;
  let output: string;

  const seed = (target: Site, ...args: string[]) =>
    banyan(['run', '--dir', target.folder, 'node', 'seed.ts', ...args]);
  const one = async <Row>(sql: string): Promise<Row> => (await pool.query(sql)).rows[0] as Row;

  beforeAll(async () => {
    site = await deployExample('conduit');
    pool = site.pool({ max: 2 });
    const result = await seed(site, '--users', '500', '--seed', '7');
    expect(result).toMatchObject({ code: 0 });
    output = result.output;
  });
  afterAll(() => site?.remove());

  test('every counter is the count of its rows', async () => {
    const wrong = await one<Record<string, number>>(`
      select
        (select count(*)::int from users u where articles_count <>
          (select count(*) from articles where author_id = u.id)) as articles,
        (select count(*)::int from users u where followers_count <>
          (select count(*) from follows where followed_id = u.id)) as followers,
        (select count(*)::int from articles a where favorites_count <>
          (select count(*) from favorites where article_id = a.id)) as favorites,
        (select count(*)::int from tags t where articles_count <>
          (select count(*) from article_tags where tag = t.name)) as tags,
        (select count(*)::int from article_totals t where articles_count <>
          (select count(*) from articles where author_id % 16 = t.slot)) as totals,
        (select count(*)::int from articles a where cardinality(tag_list) <>
          (select count(*) from article_tags t where t.article_id = a.id and t.author_id = a.author_id
             and t.tag = any(a.tag_list) and t.created_at = a.created_at)) as tag_lists`);
    expect(wrong).toEqual({
      articles: 0,
      followers: 0,
      favorites: 0,
      tags: 0,
      totals: 0,
      tag_lists: 0,
    });
  });

  test('everything refers to something, and comes after it', async () => {
    const wrong = await one<Record<string, number>>(`
      select
        (select count(*)::int from follows f
           where not exists (select from users u where u.id = f.followed_id and u.created_at <= f.created_at)
              or not exists (select from users u where u.id = f.follower_id and u.created_at <= f.created_at)) as follows,
        (select count(*)::int from favorites f left join articles a
           on a.id = f.article_id and a.author_id = f.author_id and a.created_at = f.article_created_at
           where a.id is null) as favorites,
        (select count(*)::int from articles a join users u on u.id = a.author_id
           where a.created_at < u.created_at or a.created_at > now()) as articles,
        (select count(*)::int from comments c left join users u on u.id = c.author_id
           left join articles a on a.id = c.article_id
           where u.id is null or c.created_at < a.created_at or c.created_at > now()) as comments`);
    expect(wrong).toEqual({ follows: 0, favorites: 0, articles: 0, comments: 0 });
  });

  test('it has the size that was asked for', async () => {
    const sizes = await one<Record<string, number>>(`
      select (select count(*)::int from users) as users, (select count(*)::int from articles) as articles,
             (select count(*)::int from comments) as comments, (select count(*)::int from follows) as follows,
             (select count(*)::int from favorites) as favorites`);
    expect(sizes).toMatchObject({ users: 500, articles: 1_500, comments: 2_000 });
    expect(sizes.follows).toBeGreaterThan(500 * 12);
    expect(sizes.favorites).toBeGreaterThan(500 * 6);
  });

  test('a few are followed by many, and most by few', async () => {
    const { rows } = await pool.query<{ count: number }>(
      'select followers_count as count from users order by followers_count desc',
    );
    const counts = rows.map(({ count }) => count);
    const sum = (list: number[]) => list.reduce((total, count) => total + count, 0);
    expect(counts[0]!).toBeGreaterThan(10 * counts[250]!);
    expect(sum(counts.slice(0, 100))).toBeGreaterThan(0.5 * sum(counts));
    const { share } = await one<{ share: number }>(`
      select (select sum(favorites_count) from (select favorites_count from articles
                order by favorites_count desc limit 150) as top)::float
             / (select sum(favorites_count) from articles) as share`);
    expect(share).toBeGreaterThan(0.4);
  });

  test('one can log in as anybody, with the password that it prints, and go on', async () => {
    const password = /password is (\S+);/.exec(output)?.[1];
    const email = /^ {2}(\S+@example\.com)$/m.exec(output)?.[1];
    const api = new Api(site.address);
    const { status, body } = await api.call('POST /users/login', {
      body: { user: { email, password } },
    });
    expect(status).toBe(200);
    expect((await api.call('GET /articles?limit=100')).body.articlesCount).toBe(1_500);
    expect((await api.call('GET /articles/feed', { token: body.user.token })).status).toBe(200);
    // The sequences have moved on: new rows get new ids.
    const slug = await api.publish(body.user.token, {
      title: 'By a seeded person',
      tagList: ['new'],
    });
    await api.call(`POST /articles/${slug}/comments`, {
      token: body.user.token,
      body: { comment: { body: 'Hello' } },
    });
    await api.signUp('newcomer');
    expect((await api.call('GET /articles?limit=1')).body.articles[0].slug).toBe(slug);
  });

  test('it does not touch a database with people in it, unless it is told to', async () => {
    const before = await one<{ users: number }>('select count(*)::int as users from users');
    const refused = await seed(site, '--users', '50');
    expect(refused.code).toBe(1);
    expect(refused.output).toContain('There are people in this database already');
    expect(await one('select count(*)::int as users from users')).toEqual(before);
    expect((await seed(site, '--users', '50', '--force')).code).toBe(0);
    expect(await one('select count(*)::int as users from users')).toEqual({
      users: before.users + 50,
    });
  });

  test('the same seed gives the same, another seed something else', async () => {
    await using other = await deployExample('conduit');
    const digest = async () => {
      const { rows } = await other.pool({ max: 1 }).query<{ text: string }>(`
        select md5(string_agg(line, '|' order by line)) as text from (
          select concat_ws(',', 'u', id, username, bio, followers_count) as line from users
          union all select concat_ws(',', 'a', id, author_id, slug, body, tag_list, favorites_count) from articles
          union all select concat_ws(',', 'f', follower_id, followed_id) from follows
          union all select concat_ws(',', 'l', user_id, article_id) from favorites
          union all select concat_ws(',', 'c', id, article_id, author_id, body) from comments) as lines`);
      await other
        .pool({ max: 1 })
        .query(
          `truncate users, avatars, articles, article_tags, comments, favorites, follows, tags restart identity`,
        );
      return rows[0]!.text;
    };
    const digests: string[] = [];
    for (const number of ['3', '3', '4']) {
      expect((await seed(other, '--users', '100', '--seed', number)).code).toBe(0);
      digests.push(await digest());
    }
    expect(digests[0]).toBe(digests[1]);
    expect(digests[2]).not.toBe(digests[0]);
  });

  test.each([
    [['--users', '0'], '--users takes a whole number from 1'],
    [['--users', 'many'], 'not many'],
    [['--articles-per-user', '-1'], '--articles-per-user'],
    [['--user', '5'], "Unknown option '--user'"],
  ])('%j is refused', async (args, message) => {
    const { code, output: said } = await seed(site, ...args);
    expect(code).toBe(1);
    expect(said).toContain(message);
  });

  test('one person alone, or nobody who writes, is fine', async () => {
    for (const args of [
      ['--users', '1'],
      ['--users', '3', '--articles-per-user', '0'],
    ]) {
      expect(await seed(site, ...args, '--force')).toMatchObject({ code: 0 });
    }
  });
});
