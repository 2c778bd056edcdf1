/** Signing up, logging in, one’s own account, other people’s profiles. */
import { describe, expect, test } from 'vitest';
import { ann, api, ben, errorsOf, site } from './setting.ts';

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
    // Who answers before the body has come closes the connection under it, and behind a balancer the
    // answer may be lost with it (RFC 9112, 9.6): that it is refused is what counts.
    const status = await api.call('POST /users', { body: { user } }).then(
      answer => answer.status,
      error => (error.cause as { code?: string }).code,
    );
    expect([413, 'UND_ERR_SOCKET', 'ECONNRESET', 'EPIPE']).toContain(status);
    const { rows } = await site.pool().query('select from users where length(username) > 1000');
    expect(rows).toEqual([]);
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
