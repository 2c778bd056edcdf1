/** What the page handlers share: rendering, who is looking, reading forms. */
import type { Assets } from 'banyan';
import type { Context, MiddlewareHandler } from 'hono';
import type { ContentfulStatusCode } from 'hono/utils/http-status';
import { findUserById, type User } from '../db/users.ts';
import { Problem } from '../problem.ts';
import type { PageEnv, Services } from '../services.ts';
import { LAST_PAGE, PAGE_SIZE } from './views/article-list.ts';
import type { FormState } from './views/form.ts';
import type { Html } from './views/html.ts';
import { layout } from './views/layout.ts';

export type PageContext = Context<PageEnv>;

/** Sends one to the login when nobody is logged in, and back afterwards. */
export class LoginNeeded extends Error {}

/** Puts a view into the layout. */
export function createRenderer(assets: Assets) {
  return (
    c: PageContext,
    title: string,
    view: Html,
    status: ContentfulStatusCode = 200,
  ): Response | Promise<Response> => {
    // An error may come before there is a session.
    const session = c.get('session') as PageEnv['Variables']['session'] | undefined;
    const flash = session?.get('flash');
    if (flash !== undefined) session?.delete('flash');
    c.header('cache-control', 'private, no-cache');
    // The rest of the form is not read, so the connection is good for nothing more.
    if (status === 413) c.header('connection', 'close');
    const page = { assets, title, path: c.req.path, viewer: c.get('viewer'), flash };
    return c.html(layout(page, view), status);
  };
}

export type Render = ReturnType<typeof createRenderer>;

export function findViewer({ db }: Services): MiddlewareHandler<PageEnv> {
  return async (c, next) => {
    const { userId } = c.get('session');
    if (userId !== undefined) {
      const viewer = await findUserById(db, BigInt(userId));
      if (viewer) c.set('viewer', viewer);
      else c.get('session').logout();
    }
    await next();
  };
}

/** @throws LoginNeeded */
export function memberOf(c: PageContext): User {
  const viewer = c.get('viewer');
  if (!viewer) throw new LoginNeeded();
  return viewer;
}

/** The text fields of a form. */
export async function readForm(c: PageContext): Promise<Record<string, string>> {
  const fields = await c.req.parseBody();
  return Object.fromEntries(
    Object.entries(fields).filter(
      (entry): entry is [string, string] => typeof entry[1] === 'string',
    ),
  );
}

/** The state in which a form is shown again. Any error but one of its fields goes on. */
export function rejectedForm(error: unknown, values: Record<string, string>): FormState {
  if (!(error instanceof Problem) || ![401, 422].includes(error.status)) throw error;
  return { values, errors: error.errors };
}

/** `?page=3` as the database's limit and offset; what is no page is the first. */
export function readPage(c: PageContext): {
  page: number;
  range: { limit: number; offset: number };
} {
  const text = c.req.query('page') ?? '';
  const page = /^[1-9]\d{0,3}$/.test(text) && Number(text) <= LAST_PAGE ? Number(text) : 1;
  return { page, range: { limit: PAGE_SIZE, offset: (page - 1) * PAGE_SIZE } };
}
