/** Articles, favourites, tags and comments. */
import { describe, expect, test } from 'vitest';
import { ann, api, ben, errorsOf } from './setting.ts';

describe('articles', () => {
  test('what was written is there to read, its tags in the order given', async () => {
    const tagList = ['zebra', 'apple', 'zebra', 'mango'];
    const article = { title: 'Über Größe!', description: 'About', body: '*Text*', tagList };
    const created = await api.call('POST /articles', { token: ann.token, body: { article } });
    expect(created.status).toBe(201);
    expect(created.body.article).toMatchObject({
      slug: 'uber-große',
      title: 'Über Größe!',
      description: 'About',
      body: '*Text*',
      tagList: ['zebra', 'apple', 'mango'],
      favorited: false,
      favoritesCount: 0,
      author: { username: ann.username, following: false },
    });
    const read = await api.call(`GET /articles/${encodeURIComponent('uber-große')}`);
    expect(read).toEqual({ status: 200, body: created.body });
  });

  test('each field that is wrong is named', async () => {
    const { errors } = await errorsOf('POST /articles', {
      token: ann.token,
      body: { article: { title: '', tagList: ['x', 7] } },
    });
    expect(errors).toEqual({
      title: ["can't be blank"],
      description: ["can't be blank"],
      body: ["can't be blank"],
      tagList: ['must be a list of strings'],
    });
  });

  test('the author changes it; a new title brings a new slug', async () => {
    const slug = await api.publish(ann.token, { title: 'Before', tagList: ['old'] });
    const change = (article: object) =>
      api.call(`PUT /articles/${slug}`, { token: ann.token, body: { article } });
    expect((await change({ body: 'Changed' })).body.article).toMatchObject({
      slug,
      title: 'Before',
      body: 'Changed',
      tagList: ['old'],
    });
    expect((await change({ title: ' ' })).body.errors.title).toEqual(["can't be blank"]);
    const renamed = await change({ title: 'After' });
    expect(renamed.body.article).toMatchObject({ slug: 'after', title: 'After' });
    expect((await api.call(`GET /articles/${slug}`)).status).toBe(404);
  });

  test('a title that is a path of the API gets another slug', async () => {
    const slug = await api.publish(ann.token, { title: 'Feed' });
    expect(slug).toMatch(/^feed-\w{6}$/);
  });

  test('deleted, it is gone with its comments, favourites and tags', async () => {
    const slug = await api.publish(ann.token, { title: 'Doomed', tagList: ['doomed'] });
    await api.call(`POST /articles/${slug}/favorite`, { token: ben.token });
    await api.call(`POST /articles/${slug}/comments`, {
      token: ben.token,
      body: { comment: { body: 'Oh' } },
    });
    expect((await api.call('GET /tags')).body.tags).toContain('doomed');
    const deleted = await api.call(`DELETE /articles/${slug}`, { token: ann.token });
    expect(deleted).toEqual({ status: 204, body: undefined });
    expect((await api.call(`GET /articles/${slug}`)).status).toBe(404);
    expect((await api.call('GET /tags')).body.tags).not.toContain('doomed');
    const { body } = await api.call(`GET /articles?favorited=${ben.username}`);
    expect(body).toEqual({ articles: [], articlesCount: 0 });
  });

  test('another’s article can be neither changed nor deleted', async () => {
    const slug = await api.publish(ann.token);
    const change = { token: ben.token, body: { article: { title: 'Mine' } } };
    for (const request of [`PUT /articles/${slug}`, `DELETE /articles/${slug}`]) {
      const { status, errors } = await errorsOf(request, change);
      expect([status, errors.article]).toEqual([403, ['forbidden']]);
    }
  });

  test('favourites count once each, and can be taken back', async () => {
    const slug = await api.publish(ann.token);
    const path = `/articles/${slug}/favorite`;
    for (const expected of [1, 1]) {
      const { body } = await api.call(`POST ${path}`, { token: ben.token });
      expect(body.article).toMatchObject({ favorited: true, favoritesCount: expected });
    }
    expect((await api.call(`GET /articles/${slug}`)).body.article).toMatchObject({
      favorited: false,
      favoritesCount: 1,
    });
    for (const expected of [0, 0]) {
      const { body } = await api.call(`DELETE ${path}`, { token: ben.token });
      expect(body.article).toMatchObject({ favorited: false, favoritesCount: expected });
    }
  });

  test('the tags that are used most come first', async () => {
    await api.publish(ann.token, { tagList: ['often', 'seldom'] });
    await api.publish(ann.token, { tagList: ['often'] });
    const { tags } = (await api.call('GET /tags')).body;
    expect(tags.indexOf('often')).toBeLessThan(tags.indexOf('seldom'));
  });
});

describe('comments', () => {
  test('they are listed newest first, with who wrote them', async () => {
    const slug = await api.publish(ann.token);
    const path = `/articles/${slug}/comments`;
    for (const [member, text] of [
      [ann, 'First'],
      [ben, 'Second'],
    ] as const) {
      const body = { comment: { body: text } };
      const { status, body: created } = await api.call(`POST ${path}`, {
        token: member.token,
        body,
      });
      expect(status).toBe(200);
      expect(created.comment).toMatchObject({ body: text, author: { username: member.username } });
    }
    const { comments } = (await api.call(`GET ${path}`)).body;
    expect(comments.map((comment: { body: string }) => comment.body)).toEqual(['Second', 'First']);
  });

  test('only who wrote one deletes it', async () => {
    const slug = await api.publish(ann.token);
    const path = `/articles/${slug}/comments`;
    const body = { comment: { body: 'Mine' } };
    const { id } = (await api.call(`POST ${path}`, { token: ben.token, body })).body.comment;
    const refused = await errorsOf(`DELETE ${path}/${id}`, { token: ann.token });
    expect(refused).toMatchObject({ status: 403, errors: { comment: ['forbidden'] } });
    expect((await api.call(`DELETE ${path}/${id}`, { token: ben.token })).status).toBe(204);
    const again = await errorsOf(`DELETE ${path}/${id}`, { token: ben.token });
    expect(again).toMatchObject({ status: 404, errors: { comment: ['not found'] } });
    expect((await api.call(`GET ${path}`)).body.comments).toEqual([]);
  });

  test('a blank one and a strange id are refused', async () => {
    const slug = await api.publish(ann.token);
    const path = `/articles/${slug}/comments`;
    const blank = await errorsOf(`POST ${path}`, {
      token: ann.token,
      body: { comment: { body: '' } },
    });
    expect(blank).toEqual({ status: 422, errors: { body: ["can't be blank"] } });
    expect((await api.call(`DELETE ${path}/first`, { token: ann.token })).status).toBe(422);
    expect((await api.call(`DELETE ${path}/${'9'.repeat(18)}`, { token: ann.token })).status).toBe(
      404,
    );
  });
});
