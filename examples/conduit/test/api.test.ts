/** Every operation of the document, on the real server: what it answers when all is well and when not. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { deployExample, type Site } from '../../../test/support/deployment.ts';
import { Api, type Member } from './support/api.ts';
import { operations } from './support/document.ts';

let site: Site;
let api: Api;
let ann: Member;
let ben: Member;

beforeAll(async () => {
  site = await deployExample('conduit');
  api = new Api(site.address);
  ann = await api.signUp('ann');
  ben = await api.signUp('ben');
});
afterAll(() => site?.remove());

const errorsOf = async (request: string, options: Parameters<Api['call']>[1]) => {
  const { status, body } = await api.call(request, options);
  return { status, errors: body.errors as Record<string, string[]> };
};

describe('users', () => {
  test('whoever signs up is a user with a token, an empty bio and no picture', async () => {
    const user = { username: 'Zoë.1', email: 'Zoe@Example.com', password: 'correct horse' };
    const { status, body } = await api.call('POST /users', { body: { user } });
    expect(status).toBe(201);
    expect(body.user).toEqual({
      username: 'Zoë.1',
      email: 'zoe@example.com',
      bio: '',
      image: '',
      token: expect.stringMatching(/^[\w-]+\.[\w-]+\.[\w-]+$/),
    });
  });

  test('each field that is wrong is named, with the reason', async () => {
    const blank = await errorsOf('POST /users', { body: { user: { email: ' ' } } });
    expect(blank.status).toBe(422);
    expect(blank.errors).toMatchObject({
      username: ["can't be blank"],
      email: ["can't be blank"],
      password: ["can't be blank"],
      body: ["username can't be blank", "email can't be blank", "password can't be blank"],
    });
    const user = { username: '../x', email: 'nobody', password: 'short' };
    const wrong = await errorsOf('POST /users', { body: { user } });
    expect(wrong.errors).toMatchObject({
      username: [expect.stringContaining('letters, digits')],
      email: ['is not an email address'],
      password: ['is too short (minimum is 8 characters)'],
    });
  });

  test.each([
    ['no JSON', '{', 'body', 'is not valid JSON'],
    ['no envelope', {}, 'user', "can't be blank"],
    ['a list', [1], 'user', "can't be blank"],
    ['a number for a text', { user: { username: 1 } }, 'username', 'must be a string'],
    ['a NUL', { user: { username: 'a\0b' } }, 'username', 'must not contain the character NUL'],
    [
      'too long a text',
      { user: { username: 'a'.repeat(41) } },
      'username',
      'is too long (maximum is 40 characters)',
    ],
  ])('%s is refused', async (_name, body, field, message) => {
    const { status, errors } = await errorsOf('POST /users', { body });
    expect(status).toBe(422);
    expect(errors[field]).toEqual([message]);
  });

  test('a body that is too large is not read', async () => {
    const user = { username: 'x'.repeat(600_000) };
    expect((await api.call('POST /users', { body: { user } })).status).toBe(413);
  });

  test('a username is taken in any case of its letters, and so is an address', async () => {
    const { username, email, password } = ann;
    const sameName = { username: username.toUpperCase(), email: 'other@example.com', password };
    expect((await errorsOf('POST /users', { body: { user: sameName } })).errors.username).toEqual([
      'has already been taken',
    ]);
    const sameEmail = { username: 'other', email: email.toUpperCase(), password };
    const refused = await errorsOf('POST /users', { body: { user: sameEmail } });
    expect(refused).toMatchObject({ status: 422, errors: { email: ['has already been taken'] } });
  });

  test('one logs in with address and password', async () => {
    const user = { email: ann.email.toUpperCase(), password: ann.password };
    const { status, body } = await api.call('POST /users/login', { body: { user } });
    expect(status).toBe(200);
    expect(body.user.username).toBe(ann.username);
    expect((await api.call('GET /user', { token: body.user.token })).status).toBe(200);
  });

  test('a wrong password and an unknown address get the same answer', async () => {
    for (const email of [ann.email, 'nobody@example.com']) {
      const user = { email, password: 'wrong horse' };
      const { status, errors } = await errorsOf('POST /users/login', { body: { user } });
      expect(status).toBe(401);
      expect(errors.credentials).toEqual(['invalid']);
    }
    const user = { email: ann.email };
    expect((await errorsOf('POST /users/login', { body: { user } })).errors.password).toEqual([
      "can't be blank",
    ]);
  });

  test('the current user is the token’s', async () => {
    const { status, body } = await api.call('GET /user', { token: ben.token });
    expect(status).toBe(200);
    expect(body.user).toMatchObject({ username: ben.username, email: ben.email });
  });

  test('what is changed is changed, the rest stays; null empties', async () => {
    const { token } = await api.signUp('changes');
    const change = (user: object) => api.call('PUT /user', { token, body: { user } });
    const image = 'https://example.com/me.png';
    expect((await change({ bio: 'Hello', image })).body.user).toMatchObject({
      bio: 'Hello',
      image,
    });
    expect((await change({ username: 'renamed' })).body.user).toMatchObject({
      username: 'renamed',
      bio: 'Hello',
    });
    expect((await change({ bio: null, image: null })).body.user).toMatchObject({
      bio: '',
      image: '',
    });
    expect((await change({ username: ann.username })).body.errors.username).toEqual([
      'has already been taken',
    ]);
    expect((await change({ image: 'javascript:alert(1)' })).status).toBe(422);
    expect((await change({})).status).toBe(422);
  });

  test('a new password ends the tokens of before', async () => {
    const { token, email } = await api.signUp('forgetful');
    const user = { password: 'another horse' };
    const { body } = await api.call('PUT /user', { token, body: { user } });
    expect((await errorsOf('GET /user', { token })).errors.token).toEqual(['is invalid']);
    expect((await api.call('GET /user', { token: body.user.token })).status).toBe(200);
    const login = { user: { email, password: 'another horse' } };
    expect((await api.call('POST /users/login', { body: login })).status).toBe(200);
  });
});

describe('profiles', () => {
  test('following shows in the profile, to the follower alone, and can be undone', async () => {
    const path = `/profiles/${ann.username}`;
    const followed = await api.call(`POST ${path}/follow`, { token: ben.token });
    expect(followed).toMatchObject({ status: 200, body: { profile: { following: true } } });
    expect((await api.call(`GET ${path}`, { token: ben.token })).body.profile).toEqual({
      username: ann.username,
      bio: '',
      image: '',
      following: true,
    });
    expect((await api.call(`GET ${path}`)).body.profile.following).toBe(false);
    // Twice is once.
    await api.call(`POST ${path}/follow`, { token: ben.token });
    const left = await api.call(`DELETE ${path}/follow`, { token: ben.token });
    expect(left).toMatchObject({ status: 200, body: { profile: { following: false } } });
  });

  test('nobody follows themselves', async () => {
    const own = await errorsOf(`POST /profiles/${ann.username}/follow`, { token: ann.token });
    expect(own).toMatchObject({ status: 422, errors: { username: ['is your own'] } });
  });

  test('an unknown name is not found', async () => {
    for (const request of [
      'GET /profiles/x',
      'POST /profiles/x/follow',
      'DELETE /profiles/x/follow',
    ]) {
      const { status, errors } = await errorsOf(request, { token: ann.token });
      expect([request, status, errors.profile]).toEqual([request, 404, ['not found']]);
    }
  });
});

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

describe('what holds for every operation', () => {
  const fill = (path: string) =>
    path.replace('{username}', 'x').replace('{slug}', 'x').replace('{id}', '1');
  const body = (method: string) => (method === 'POST' || method === 'PUT' ? { body: {} } : {});

  test('where one has to be logged in, nobody is told so with 401', async () => {
    for (const { method, path, responses } of operations) {
      const isOpen = method === 'GET' && !['/user', '/articles/feed'].includes(path);
      if (isOpen || path.startsWith('/users') || !responses.has(401)) continue;
      const { status, errors } = await errorsOf(`${method} ${fill(path)}`, body(method));
      expect([method, path, status, errors.token]).toEqual([method, path, 401, ['is missing']]);
    }
  });

  test('a token that is no good is told so with 401, even where none is needed', async () => {
    const [header, , signature] = ann.token.split('.');
    const forged = `${header}.${btoa('{"sub":"1","ver":1}')}.${signature}`;
    for (const token of ['x', forged]) {
      for (const { method, path, responses } of operations) {
        if (path.startsWith('/users') || !responses.has(401)) continue;
        const { status, errors } = await errorsOf(`${method} ${fill(path)}`, {
          token,
          ...body(method),
        });
        expect([method, path, status, errors.token]).toEqual([method, path, 401, ['is invalid']]);
      }
    }
  });

  test('an unknown article is not found', async () => {
    for (const { method, path } of operations.filter(operation =>
      operation.path.includes('{slug}'),
    )) {
      const input = { article: { title: 'x' }, comment: { body: 'x' } };
      const { status, errors } = await errorsOf(`${method} ${fill(path)}`, {
        token: ann.token,
        ...(method === 'POST' || method === 'PUT' ? { body: input } : {}),
      });
      expect([method, path, status, errors.article]).toEqual([method, path, 404, ['not found']]);
    }
  });

  test('an address that is none, or cannot be, is not found', async () => {
    for (const request of [
      'GET /nothing',
      'GET /articles/a%00b',
      'GET /profiles/%00',
      'PATCH /user',
    ]) {
      expect([request, (await api.call(request)).status]).toEqual([request, 404]);
    }
  });

  /** Documented, but there is nothing in such a request that could be invalid: unknown names are 404. */
  const NOTHING_TO_VALIDATE = [
    'GET /user',
    'GET /profiles/{username}',
    'DELETE /profiles/{username}/follow',
    'GET /articles/{slug}',
    'DELETE /articles/{slug}',
    'GET /articles/{slug}/comments',
    'POST /articles/{slug}/favorite',
    'DELETE /articles/{slug}/favorite',
    'GET /tags',
  ].map(operation => `${operation} 422`);

  test('every status that the document has was seen, or cannot be', async () => {
    await api.call('GET /articles', { token: ann.token });
    await api.call('GET /articles/feed', { token: ann.token });
    await api.call('GET /articles?limit=0');
    await api.call('GET /articles/feed?offset=-1', { token: ann.token });
    const documented = operations.flatMap(({ method, path, responses }) =>
      [...responses.keys()].map(status => `${method} ${path} ${status}`),
    );
    const unseen = documented.filter(answer => !api.seen.has(answer));
    expect(unseen.sort()).toEqual(NOTHING_TO_VALIDATE.sort());
  });
});
