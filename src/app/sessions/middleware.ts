/**
 * Sessions for Hono, Fastify and Express (or Connect). The frameworks' types are described here by the
 * few members that are used, so that none of the three is a dependency.
 *
 * In all three the session is written before the first byte of the response leaves: what a user was told
 * has been kept. If it cannot be written, the answer is a 500 without the cookie.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { log } from '../telemetry/log.ts';
import { holdResponse } from './hold-response.ts';
import type { Session } from './session.ts';
import { isHttps, type Sessions } from './sessions.ts';

/** For `new Hono<{ Variables: SessionVariables<Data> }>()`. */
export interface SessionVariables<Data extends object = Record<string, unknown>> {
  session: Session<Data>;
}

interface HonoContext {
  req: { header(name: string): string | undefined; url: string };
  res: Response;
  set(key: 'session', value: unknown): void;
  header(name: string, value: string, options?: { append?: boolean }): void;
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
    try {
      await sessions.save(session);
    } catch (error) {
      // The response that promised something goes, with its headers; Hono makes a 500 of the error.
      (c as { res: Response | undefined }).res = undefined;
      throw error;
    }
    const secure = isHttps(c.req.header('x-forwarded-proto'), c.req.url.startsWith('https:'));
    const cacheControl = c.res.headers.get('cache-control') ?? undefined;
    const headers = sessions.responseHeaders(session, secure, cacheControl);
    if (!headers) return;
    for (const cookie of headers.setCookies) c.header('set-cookie', cookie, { append: true });
    c.header('cache-control', headers.cacheControl);
  };
}

interface FastifyRequestLike {
  raw: IncomingMessage;
  session?: unknown;
}
interface FastifyReplyLike {
  getHeader(name: string): unknown;
  header(name: string, value: string): unknown;
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
    // Fastify sends the 500 for a failed `onSend` through `onSend` again.
    const failed = new WeakSet<Session<Data>>();
    app.decorateRequest('session', null);
    app.addHook('onRequest', async request => {
      request.session = await sessions.open(request.raw.headers.cookie);
    });
    app.addHook('onSend', async (request, reply) => {
      // A request that failed before its session was opened has none.
      const session = request.session as Session<Data> | null | undefined;
      if (!session || failed.has(session)) return;
      try {
        await sessions.save(session);
      } catch (error) {
        failed.add(session);
        reply.header('cache-control', 'no-store');
        throw error;
      }
      const headers = sessions.responseHeaders(
        session,
        isSecure(request.raw),
        textOf(reply.getHeader('cache-control')),
      );
      if (!headers) return;
      // Fastify keeps the cookies that are there already.
      for (const cookie of headers.setCookies) reply.header('set-cookie', cookie);
      reply.header('cache-control', headers.cacheControl);
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
      holdResponse(res, {
        isNeeded: () => sessions.needsSave(session),
        run: () => sessions.save(session),
        beforeHeaders: () => addHeaders(sessions, session, req, res),
        onFailure: error => log.error({ err: error }, 'the session could not be written'),
      });
      next();
    }, next);
  };
}

function addHeaders<Data extends object>(
  sessions: Sessions<Data>,
  session: Session<Data>,
  req: IncomingMessage,
  res: ServerResponse,
): void {
  const cacheControl = textOf(res.getHeader('cache-control'));
  const headers = sessions.responseHeaders(session, isSecure(req), cacheControl);
  if (!headers) return;
  for (const cookie of headers.setCookies) res.appendHeader('set-cookie', cookie);
  res.setHeader('cache-control', headers.cacheControl);
}

function isSecure(req: IncomingMessage): boolean {
  return isHttps(req.headers['x-forwarded-proto'], 'encrypted' in req.socket);
}

function textOf(header: unknown): string | undefined {
  return header === undefined ? undefined : String(header);
}
