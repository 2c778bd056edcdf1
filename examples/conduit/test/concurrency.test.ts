/** What must hold when many do the same at the same time. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { deployExample, type Site } from '../../../test/support/deployment.ts';
import { Api, type Member } from './support/api.ts';

let site: Site;
let api: Api;
let members: Member[];

beforeAll(async () => {
  site = await deployExample('conduit');
  api = new Api(site.address);
  members = await Promise.all(Array.from({ length: 16 }, () => api.signUp()));
});
afterAll(() => site?.remove());

const together = <T>(count: number, run: (index: number) => Promise<T>): Promise<T[]> =>
  Promise.all(Array.from({ length: count }, (_, index) => run(index)));

test('twenty articles with the same title have twenty slugs', async () => {
  const slugs = await together(20, index =>
    api.publish(members[index % members.length]!.token, {
      title: 'Same title',
      tagList: ['b', 'a'],
    }),
  );
  expect(new Set(slugs).size).toBe(20);
  expect(slugs.filter(slug => slug === 'same-title')).toHaveLength(1);
  const { body } = await api.call('GET /articles?tag=a');
  expect(body.articlesCount).toBe(20);
  expect((await api.call('GET /articles')).body.articlesCount).toBe(20);
});

test('a name that twenty want is given to one', async () => {
  const answers = await together(20, index =>
    api.call('POST /users', {
      body: {
        user: {
          username: index % 2 ? 'wanted' : 'Wanted',
          email: `wanted-${index}@example.com`,
          password: 'correct horse',
        },
      },
    }),
  );
  expect(answers.filter(({ status }) => status === 201)).toHaveLength(1);
  const refused = answers.filter(({ status }) => status === 422);
  expect(refused).toHaveLength(19);
  for (const { body } of refused) expect(body.errors.username).toEqual(['has already been taken']);
});

test('the favourites’ counter is exact after many have clicked back and forth', async () => {
  const slug = await api.publish(members[0]!.token, { title: 'Hot' });
  const path = `/articles/${slug}/favorite`;
  await together(members.length * 6, async index => {
    const { token } = members[index % members.length]!;
    const method = index % 3 === 0 ? 'DELETE' : 'POST';
    expect((await api.call(`${method} ${path}`, { token })).status).toBe(200);
  });
  const pool = site.pool({ max: 1 });
  const { rows } = await pool.query(
    `select favorites_count::int as counter,
            (select count(*)::int from favorites where article_id = articles.id) as real
     from articles where slug = $1`,
    [slug],
  );
  expect(rows[0].counter).toBe(rows[0].real);
  await together(members.length, index =>
    api.call(`POST ${path}`, { token: members[index]!.token }),
  );
  expect((await api.call(`GET /articles/${slug}`)).body.article.favoritesCount).toBe(16);
});

test('so is the counter of followers', async () => {
  const star = await api.signUp('star');
  const path = `/profiles/${star.username}/follow`;
  await together(members.length * 4, index =>
    api.call(`${index % 3 === 0 ? 'DELETE' : 'POST'} ${path}`, {
      token: members[index % members.length]!.token,
    }),
  );
  await together(members.length, index =>
    api.call(`POST ${path}`, { token: members[index]!.token }),
  );
  const pool = site.pool({ max: 1 });
  const { rows } = await pool.query('select followers_count from users where username = $1', [
    star.username,
  ]);
  expect(rows[0].followers_count).toBe(16);
});

test('an article that is deleted while people like it leaves nothing behind', async () => {
  const author = members[0]!;
  for (let round = 0; round < 5; round++) {
    const slug = await api.publish(author.token, { title: `Going ${round}`, tagList: ['going'] });
    const answers = await together(24, index => {
      const { token } = members[index % members.length]!;
      if (index === 12) return api.call(`DELETE /articles/${slug}`, { token: author.token });
      if (index % 4 === 3) {
        const body = { comment: { body: 'Still here?' } };
        return api.call(`POST /articles/${slug}/comments`, { token, body });
      }
      const method = index % 4 === 2 ? 'DELETE' : 'POST';
      return api.call(`${method} /articles/${slug}/favorite`, { token });
    });
    for (const { status } of answers) expect([200, 204, 404]).toContain(status);
  }
  const pool = site.pool({ max: 1 });
  const { rows } = await pool.query(
    `select (select count(*)::int from favorites f
             where not exists (select from articles a where a.id = f.article_id)) as favorites,
            (select count(*)::int from comments c
             where not exists (select from articles a where a.id = c.article_id)) as comments,
            (select articles_count from tags where name = 'going') as tagged,
            (select sum(articles_count)::int from article_totals) as total,
            (select count(*)::int from articles) as articles`,
  );
  expect(rows[0]).toMatchObject({ favorites: 0, comments: 0, tagged: 0 });
  expect(rows[0].total).toBe(rows[0].articles);
});
