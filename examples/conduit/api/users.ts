/** Signing up, logging in, one's own account. */
import { type Context, Hono } from 'hono';
import { changeAccount, logIn, signUp } from '../auth/account.ts';
import type { User } from '../db/users.ts';
import { credentials, registration, userChanges } from '../input/schemas.ts';
import { BLANK, unwrap, validate } from '../input/validate.ts';
import { invalid } from '../problem.ts';
import type { ApiEnv, Services } from '../services.ts';
import { readJson, userJson } from './json.ts';
import { viewerOf } from './viewer.ts';

export function userRoutes(services: Services) {
  const withToken = async (c: Context, user: User) =>
    userJson(c, user, await services.tokens.issue(user));

  return new Hono<ApiEnv>()
    .post('/users', async c => {
      const input = validate(registration, unwrap(await readJson(c), 'user'));
      return c.json(await withToken(c, await signUp(services, input)), 201);
    })
    .post('/users/login', async c => {
      const input = validate(credentials, unwrap(await readJson(c), 'user'));
      return c.json(await withToken(c, await logIn(services, input)));
    })
    .get('/user', async c => c.json(await withToken(c, viewerOf(c))))
    .put('/user', async c => {
      const viewer = viewerOf(c);
      const changes = validate(userChanges, unwrap(await readJson(c), 'user'));
      if (Object.keys(changes).length === 0) throw invalid({ user: [BLANK] });
      return c.json(await withToken(c, await changeAccount(services, viewer, changes)));
    });
}
