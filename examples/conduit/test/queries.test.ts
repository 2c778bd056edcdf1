/** How often the database is asked where nothing is cached: not more often for more rows. */
import { createPool, type Pool } from 'banyan';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { deployExample, type Site } from '../../../test/support/deployment.ts';
import { until } from '../../../test/support/until.ts';
import { createApp } from '../app.ts';
import { createServices, type Services } from '../services.ts';
import { Api, type Member } from './support/api.ts';

let site: Site;
let pool: Pool;
let services: Services;
let reader: Member;
let slug: string;
let asked = 0;

beforeAll(async () => {
  site = await deployExample('conduit');
  const api = new Api(site.address);
  reader = await api.signUp('reader');
  for (let author = 0; author < 5; author++) {
    const { username, token } = await api.signUp('author');
    await api.call(`POST /profiles/${username}/follow`, { token: reader.token });
    for (let count = 0; count < 4; count++) {
      slug = await api.publish(token, { tagList: ['tag'] });
      await api.call(`POST /articles/${slug}/favorite`, { token: reader.token });
    }
    const comment = { comment: { body: 'Hello' } };
    await api.call(`POST /articles/${slug}/comments`, { token, body: comment });
  }
  pool = createPool({ connectionString: site.databaseUrl, max: 4 });
  await until(
    async () => {
      const { rows } = await pool.query(
        `select (select sum(articles_underway)::int from users) as underway,
                (select count(*)::int from follows where not in_feed) as missing`,
      );
      return rows[0].underway === 0 && rows[0].missing === 0;
    },
    { what: 'the feed is filled' },
  );
  services = createServices(pool);
  await services.cache.ready();
  const { query } = pool;
  pool.query = ((...args: Parameters<typeof query>) => {
    asked++;
    return query.apply(pool, args);
  }) as typeof query;
});
afterAll(async () => {
  await services?.views.close();
  await services?.cache.close();
  await pool?.end();
  await site?.remove();
});

/** The same application, in this process, on a pool that counts. */
async function queriesOf(path: string): Promise<number> {
  const app = createApp(services);
  const user = { email: reader.email, password: reader.password };
  const login = await app.request('/api/users/login', {
    method: 'POST',
    body: JSON.stringify({ user }),
  });
  const { token } = ((await login.json()) as { user: { token: string } }).user;
  asked = 0;
  const response = await app.request(path, { headers: { authorization: `Token ${token}` } });
  expect(response.status).toBe(200);
  return asked;
}

test.each([
  ['/api/articles', 6],
  ['/api/articles/feed', 7],
  ['/api/articles?tag=tag', 6],
  ['/api/articles?author=author-2', 6],
  ['/api/articles?favorited=reader-1', 8],
])('%s asks %d times, for one article and for many', async (path, most) => {
  const one = await queriesOf(`${path}${path.includes('?') ? '&' : '?'}limit=1`);
  const many = await queriesOf(path);
  expect(many).toBe(one);
  expect(many).toBeLessThanOrEqual(most);
});

test('an article and its comments ask a fixed number of times too', async () => {
  expect(await queriesOf(`/api/articles/${slug}`)).toBeLessThanOrEqual(5);
  expect(await queriesOf(`/api/articles/${slug}/comments`)).toBeLessThanOrEqual(5);
  expect(await queriesOf(`/article/${slug}`)).toBeLessThanOrEqual(7);
});
