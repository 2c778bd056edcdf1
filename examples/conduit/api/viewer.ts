/** Who is asking: `Authorization: Token <jwt>`. */
import type { Context, MiddlewareHandler } from 'hono';
import { findUserById, type User } from '../db/users.ts';
import { unauthorized } from '../problem.ts';
import type { ApiEnv, Services } from '../services.ts';

const INVALID = { token: ['is invalid'] };

/**
 * Finds the viewer. Without a token there is none; a token that is no good is an error, also where one
 * need not be logged in: a client should learn that its login is over.
 */
export function readToken({ db, tokens }: Services): MiddlewareHandler<ApiEnv> {
  return async (c, next) => {
    const header = c.req.header('authorization');
    if (header !== undefined) {
      const token = /^(?:Token|Bearer) +(\S+)$/i.exec(header)?.[1];
      const subject = token && (await tokens.read(token));
      const viewer = subject ? await findUserById(db, subject.id) : undefined;
      if (!subject || viewer?.credentialsVersion !== subject.credentialsVersion) {
        throw unauthorized(INVALID);
      }
      c.set('viewer', viewer);
    }
    await next();
  };
}

/** @throws Problem 401 when nobody is logged in */
export function viewerOf(c: Context<ApiEnv>): User {
  const viewer = c.get('viewer');
  if (!viewer) throw unauthorized({ token: ['is missing'] });
  return viewer;
}
