/** The pages: HTML from the server, forms that work without any script, cookie sessions. */
import { honoSessions } from 'banyan';
import { Hono } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import { csrf } from 'hono/csrf';
import { HTTPException } from 'hono/http-exception';
import { hasNul } from '../input/validate.ts';
import { logFailure } from '../log-failure.ts';
import { notFound, Problem } from '../problem.ts';
import type { PageEnv, Services } from '../services.ts';
import { accountPages } from './account.ts';
import { articlePages } from './article.ts';
import { editorPages } from './editor.ts';
import { homePages } from './home.ts';
import { createRenderer, findViewer, LoginNeeded, type PageContext, readForm } from './page.ts';
import { profilePages } from './profile.ts';
import { settingsPages } from './settings.ts';
import { localPath } from './views/html.ts';
import { messageView } from './views/message.ts';

const FORM_LIMIT_BYTES = 512 * 1024;
const AVATAR_FORM = '/settings/avatar';

export function pageRoutes(services: Services) {
  const render = createRenderer(services.assets);
  const pages = new Hono<PageEnv>();

  pages.onError(async (error, c) => {
    if (error instanceof LoginNeeded) return c.redirect(await loginPath(c), 303);
    const { status, title, text } = explain(error);
    if (status === 500) logFailure(error);
    return render(c, title, messageView(status, title, text), status);
  });

  pages.use(async (c, next) => {
    // PostgreSQL's text cannot hold NUL, so nothing has a name with one.
    if (hasNul(c.req.path)) throw notFound('page');
    await next();
  });
  // Behind a balancer that ends TLS this server sees http: the host tells whether a form is ours.
  pages.use(csrf({ origin: (origin, c) => hostOf(origin) === c.req.header('host') }));
  pages.use(honoSessions(services.sessions));
  pages.use(findViewer(services));
  const limit = bodyLimit({
    maxSize: FORM_LIMIT_BYTES,
    onError: () => {
      throw new Problem(413, { body: ['is too large'] });
    },
  });
  pages.use((c, next) => (c.req.path === AVATAR_FORM ? next() : limit(c, next)));

  pages.route('/', homePages(services, render));
  pages.route('/', accountPages(services, render));
  pages.route('/', settingsPages(services, render));
  pages.route('/', editorPages(services, render));
  pages.route('/', articlePages(services, render));
  pages.route('/', profilePages(services, render));
  pages.all('*', () => {
    throw notFound('page');
  });
  return pages;
}

/** After the login one is where one was; a form is not sent again. */
async function loginPath(c: PageContext): Promise<string> {
  const { pathname, search } = new URL(c.req.url);
  const next = c.req.method === 'GET' ? pathname + search : localPath((await readForm(c)).back);
  return next === '/' ? '/login' : `/login?next=${encodeURIComponent(next)}`;
}

function hostOf(origin: string): string | undefined {
  return URL.canParse(origin) ? new URL(origin).host : undefined;
}

interface Explanation {
  status: 403 | 404 | 413 | 422 | 500 | 503;
  title: string;
  text: string;
}

function explain(error: Error): Explanation {
  const status =
    error instanceof Problem || error instanceof HTTPException ? error.status : undefined;
  switch (status) {
    case 403:
      return {
        status,
        title: 'That is not yours to do',
        text:
          error instanceof HTTPException
            ? 'The form came from another site, so nothing was done.'
            : 'Only who wrote it may change it.',
      };
    case 404:
      return {
        status,
        title: 'There is nothing here',
        text: 'It was moved or deleted, or the address has a mistake in it.',
      };
    case 413:
      return { status, title: 'That is too much', text: 'What you sent is larger than we take.' };
    case 422:
      return { status, title: 'That did not work', text: `${error.message}.` };
    case 503:
      return {
        status,
        title: 'Just a moment',
        text: 'Too many people are here at once. Please try again.',
      };
    default:
      return {
        status: 500,
        title: 'Something went wrong on our side',
        text: 'Nothing that you did was wrong. Please try again in a moment.',
      };
  }
}
