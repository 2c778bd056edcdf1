/** Lists of articles: order, filters, pages, the feed. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { deployExample, type Site } from '../../../test/support/deployment.ts';
import { Api, type Member } from './support/api.ts';

let site: Site;
let api: Api;
let ann: Member;
let ben: Member;
let cleo: Member;

interface Listed {
  slugs: string[];
  total: number;
}

/** Written in turns, oldest first: a-1, b-2, a-3 … */
const SLUGS = ['a-1', 'b-2', 'a-3', 'b-4', 'a-5', 'b-6'];

beforeAll(async () => {
  site = await deployExample('conduit');
  api = new Api(site.address);
  ann = await api.signUp('ann');
  ben = await api.signUp('ben');
  cleo = await api.signUp('cleo');
  for (const title of SLUGS) {
    const author = title.startsWith('a') ? ann : ben;
    const tagList = ['all', Number(title.at(-1)) > 3 ? 'late' : 'early'];
    await api.publish(author.token, { title, tagList });
  }
});
afterAll(() => site?.remove());

const list = async (query: string, member?: Member): Promise<Listed> => {
  const { status, body } = await api.call(`GET /articles${query}`, { token: member?.token });
  expect(status).toBe(200);
  return {
    slugs: body.articles.map(({ slug }: { slug: string }) => slug),
    total: body.articlesCount,
  };
};

test('newest first, and the count is of all pages', async () => {
  expect(await list('')).toEqual({ slugs: SLUGS.toReversed(), total: 6 });
  expect(await list('?limit=2')).toEqual({ slugs: ['b-6', 'a-5'], total: 6 });
  expect(await list('?limit=2&offset=2')).toEqual({ slugs: ['b-4', 'a-3'], total: 6 });
  expect(await list('?limit=2&offset=6')).toEqual({ slugs: [], total: 6 });
});

test('without a limit there are twenty', async () => {
  const { token } = await api.signUp('prolific');
  for (let count = 0; count < 21; count++) await api.publish(token, { title: `p ${count}` });
  const first = await list('');
  expect([first.slugs.length, first.total]).toEqual([20, 27]);
  // Away again, for the tests that follow.
  for (let count = 0; count < 21; count++) await api.call(`DELETE /articles/p-${count}`, { token });
  expect((await list('')).total).toBe(6);
});

test('by author, whatever the case of the name', async () => {
  const slugs = ['a-5', 'a-3', 'a-1'];
  expect(await list(`?author=${ann.username}`)).toEqual({ slugs, total: 3 });
  expect(await list(`?author=${ann.username.toUpperCase()}&limit=1`)).toEqual({
    slugs: ['a-5'],
    total: 3,
  });
});

test('by tag', async () => {
  expect(await list('?tag=late')).toEqual({ slugs: ['b-6', 'a-5', 'b-4'], total: 3 });
  expect(await list('?tag=all&limit=1&offset=1')).toEqual({ slugs: ['a-5'], total: 6 });
});

test('by whose favourite it is, and marked as the viewer’s own', async () => {
  for (const slug of ['b-2', 'a-1', 'b-6']) {
    await api.call(`POST /articles/${slug}/favorite`, { token: cleo.token });
  }
  const favorited = `favorited=${cleo.username}`;
  expect(await list(`?${favorited}`)).toEqual({ slugs: ['b-6', 'b-2', 'a-1'], total: 3 });
  expect(await list(`?${favorited}&limit=1&offset=1`)).toEqual({ slugs: ['b-2'], total: 3 });
  const { body } = await api.call('GET /articles', { token: cleo.token });
  const marked = body.articles.filter((article: { favorited: boolean }) => article.favorited);
  expect(marked.map(({ slug }: { slug: string }) => slug)).toEqual(['b-6', 'b-2', 'a-1']);
});

test('filters together narrow the list', async () => {
  const favorited = `favorited=${cleo.username}`;
  const byBen = `author=${ben.username}`;
  expect(await list(`?tag=late&${byBen}`)).toEqual({ slugs: ['b-6', 'b-4'], total: 2 });
  expect(await list(`?${favorited}&${byBen}`)).toEqual({ slugs: ['b-6', 'b-2'], total: 2 });
  expect(await list(`?${favorited}&tag=early&limit=1`)).toEqual({ slugs: ['b-2'], total: 2 });
  expect(await list(`?${favorited}&tag=early&${byBen}`)).toEqual({ slugs: ['b-2'], total: 1 });
});

test.each(['tag=none', 'author=nobody', 'favorited=nobody'])('%s finds nothing', async query => {
  expect(await list(`?${query}`)).toEqual({ slugs: [], total: 0 });
});

test('the feed has the articles of those one follows, newest first', async () => {
  const reader = await api.signUp('reader');
  expect(await list('/feed', reader)).toEqual({ slugs: [], total: 0 });
  await api.call(`POST /profiles/${ann.username}/follow`, { token: reader.token });
  expect(await list('/feed', reader)).toEqual({ slugs: ['a-5', 'a-3', 'a-1'], total: 3 });
  await api.call(`POST /profiles/${ben.username}/follow`, { token: reader.token });
  expect(await list('/feed', reader)).toEqual({ slugs: SLUGS.toReversed(), total: 6 });
  expect(await list('/feed?limit=2&offset=1', reader)).toEqual({ slugs: ['a-5', 'b-4'], total: 6 });
  const { body } = await api.call('GET /articles/feed', { token: reader.token });
  expect(body.articles[0].author).toMatchObject({ username: ben.username, following: true });
  await api.call(`DELETE /profiles/${ben.username}/follow`, { token: reader.token });
  expect((await list('/feed', reader)).total).toBe(3);
});

test.each([
  ['limit=0', 'limit', 'must be at least 1'],
  ['limit=101', 'limit', 'must be at most 100'],
  ['limit=ten', 'limit', 'must be a whole number'],
  ['limit=', 'limit', 'must be a whole number'],
  ['offset=-1', 'offset', 'must be a whole number'],
  ['offset=10001', 'offset', 'must be at most 10,000'],
  ['tag=%00', 'tag', 'must not contain the character NUL'],
])('%s is refused', async (query, field, message) => {
  const { status, body } = await api.call(`GET /articles?${query}`);
  expect([status, body.errors[field]]).toEqual([422, [message]]);
});
