/** The JSON API of `openapi.yml`, to be mounted under `/api`. */
import { readOwnWrites } from 'banyan';
import { Hono } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import { cors } from 'hono/cors';
import { hasNul } from '../input/validate.ts';
import { logFailure } from '../log-failure.ts';
import { notFound, Problem } from '../problem.ts';
import type { ApiEnv, Services } from '../services.ts';
import { articleRoutes } from './articles.ts';
import { commentRoutes } from './comments.ts';
import { profileRoutes } from './profiles.ts';
import { userRoutes } from './users.ts';
import { readToken } from './viewer.ts';

/** The longest article in characters that take four bytes each, and its JSON. */
const BODY_LIMIT_BYTES = 512 * 1024;

export function apiRoutes(services: Services) {
  const api = new Hono<ApiEnv>();
  api.onError((error, c) => {
    if (error instanceof Problem) {
      // The rest of the body is not read, so the connection is good for nothing more.
      if (error.status === 413) c.header('connection', 'close');
      return c.json(error, error.status);
    }
    logFailure(error);
    return c.json(
      { errors: { body: ['something went wrong on our side; please try again'] } },
      500,
    );
  });
  // Front ends on other sites may use it: what counts is the token, which no browser sends by itself.
  api.use(cors());
  api.use(async (c, next) => {
    await next();
    c.header('cache-control', 'no-store');
  });
  api.use(
    bodyLimit({
      maxSize: BODY_LIMIT_BYTES,
      onError: () => {
        throw new Problem(413, { body: [`is larger than ${BODY_LIMIT_BYTES / 1024} KiB`] });
      },
    }),
  );
  api.use(async (c, next) => {
    // PostgreSQL's text cannot hold NUL, so nothing has a name with one.
    if (hasNul(c.req.path)) throw notFound('path');
    await next();
  });
  // Clients of an API keep no cookie that could tell what they wrote.
  api.use(async (_, next) => {
    readOwnWrites();
    await next();
  });
  api.use(readToken(services));
  api.route('/', userRoutes(services));
  api.route('/', profileRoutes(services));
  api.route('/', articleRoutes(services));
  api.route('/', commentRoutes(services));
  api.all('*', () => {
    throw notFound('path');
  });
  return api;
}
