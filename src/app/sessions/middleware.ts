/**
 * Sessions for Hono, Fastify and Express (or Connect). The frameworks' types are described here by the
 * few members that are used, so that none of the three is a dependency.
 *
 * In all three the session is written before the response is sent: what a user was told has been kept.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { log } from '../telemetry/log.ts';
import type { Session } from './session.ts';
import { isHttps, type Sessions } from './sessions.ts';

/** For `new Hono<{ Variables: SessionVariables<Data> }>()`. */
export interface SessionVariables<Data extends object = Record<string, unknown>> {
  session: Session<Data>;
}

interface HonoContext {
  req: { header(name: string): string | undefined; url: string };
  set(key: 'session', value: unknown): void;
  header(name: string, value: string, options: { append: boolean }): void;
}

/**
 * @example
 * const app = new Hono<{ Variables: SessionVariables<Data> }>();
 * app.use(honoSessions(sessions));
 * app.get('/', c => c.text(c.get('session').userId ?? 'nobody'));
 */
export function honoSessions<Data extends object>(sessions: Sessions<Data>) {
  return async (c: HonoContext, next: () => Promise<void>): Promise<void> => {
    const session = await sessions.open(c.req.header('cookie'));
    c.set('session', session);
    await next();
    await session.save();
    const forwarded = c.req.header('x-forwarded-proto');
    const secure = forwarded ? forwarded.startsWith('https') : c.req.url.startsWith('https:');
    const cookie = sessions.setCookie(session, secure);
    if (cookie) c.header('set-cookie', cookie, { append: true });
  };
}

interface FastifyRequestLike {
  raw: IncomingMessage;
  session?: unknown;
}
interface FastifyReplyLike {
  getHeader(name: string): unknown;
  header(name: string, value: string[]): unknown;
}
interface FastifyLike {
  decorateRequest(name: string, value: null): unknown;
  addHook(
    name: 'onRequest',
    hook: (request: FastifyRequestLike, reply: FastifyReplyLike) => Promise<void>,
  ): unknown;
  addHook(
    name: 'onSend',
    hook: (request: FastifyRequestLike, reply: FastifyReplyLike) => Promise<void>,
  ): unknown;
}

/**
 * @example
 * declare module 'fastify' { interface FastifyRequest { session: Session<Data> } }
 * await app.register(fastifySessions(sessions));
 */
export function fastifySessions<Data extends object>(sessions: Sessions<Data>) {
  const plugin = async (app: FastifyLike): Promise<void> => {
    app.decorateRequest('session', null);
    app.addHook('onRequest', async request => {
      request.session = await sessions.open(request.raw.headers.cookie);
    });
    app.addHook('onSend', async (request, reply) => {
      // A request that failed before its session was opened has none.
      const session = request.session as Session<Data> | null | undefined;
      if (!session) return;
      await session.save();
      const cookie = sessions.setCookie(session, isHttps(request.raw));
      if (cookie) reply.header('set-cookie', withHeader(reply.getHeader('set-cookie'), cookie));
    });
  };
  // For the whole application, not for the plugin's own scope (what fastify-plugin does).
  return Object.assign(plugin, { [Symbol.for('skip-override')]: true });
}

/** Request of Express or Connect with its session. */
export type RequestWithSession<Data extends object = Record<string, unknown>> = IncomingMessage & {
  session: Session<Data>;
};

/**
 * @example
 * declare global { namespace Express { interface Request { session: Session<Data> } } }
 * app.use(expressSessions(sessions));
 */
export function expressSessions<Data extends object>(sessions: Sessions<Data>) {
  return (req: IncomingMessage, res: ServerResponse, next: (error?: unknown) => void): void => {
    sessions.open(req.headers.cookie).then(session => {
      (req as RequestWithSession<Data>).session = session;
      saveBeforeEnd(sessions, session, req, res);
      next();
    }, next);
  };
}

/**
 * Express knows no moment before the response: the cookie is added when the headers are written, and
 * the end of the response waits until the session is.
 */
function saveBeforeEnd<Data extends object>(
  sessions: Sessions<Data>,
  session: Session<Data>,
  req: IncomingMessage,
  res: ServerResponse,
): void {
  const { writeHead, end } = res;
  res.writeHead = function (this: ServerResponse, ...args: unknown[]) {
    const cookie = sessions.setCookie(session, isHttps(req));
    if (cookie) res.setHeader('set-cookie', withHeader(res.getHeader('set-cookie'), cookie));
    return (writeHead as (...args: unknown[]) => ServerResponse).apply(this, args);
  } as typeof writeHead;

  res.end = function (this: ServerResponse, ...args: unknown[]) {
    const finish = () => (end as (...args: unknown[]) => ServerResponse).apply(this, args);
    res.end = end;
    if (!session.needsSave) return finish();
    session.save().then(finish, error => {
      log.error({ err: error }, 'the session could not be written');
      if (res.headersSent) return res.destroy(error as Error);
      // Nothing may be promised that was not kept; the cookie would name a session that is not there.
      res.writeHead = writeHead;
      for (const name of res.getHeaderNames()) res.removeHeader(name);
      res.statusCode = 500;
      end.call(res, 'The session could not be stored. Please try again.\n', 'utf8');
    });
    return res;
  } as typeof end;
}

function withHeader(present: unknown, cookie: string): string[] {
  if (present === undefined) return [cookie];
  return [...(Array.isArray(present) ? present.map(String) : [String(present)]), cookie];
}
