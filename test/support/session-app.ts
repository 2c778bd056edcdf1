/**
 * One application with sessions on four servers: Hono, Fastify, Express, and a bare listener that writes
 * its headers with `writeHead` (as Connect applications do).
 */
import { Readable } from 'node:stream';
import express from 'express';
import fastify from 'fastify';
import { Hono } from 'hono';
import {
  expressSessions,
  fastifySessions,
  honoSessions,
  type RequestWithSession,
  type SessionVariables,
} from '../../src/app/sessions/middleware.ts';
import type { Session } from '../../src/app/sessions/session.ts';
import type { Sessions } from '../../src/app/sessions/sessions.ts';
import { type Listening, listen, listenExpress, listenFastify, listenHono } from './listen.ts';

export interface Data {
  [key: string]: unknown;
}

export interface Reply {
  status?: number;
  body?: string;
  headers?: Record<string, string>;
  cookies?: string[];
  stream?: string[];
}

export type Handler = (url: URL, session: Session<Data>) => Promise<Reply> | Reply;
export type Framework = keyof typeof FRAMEWORKS;

declare module 'fastify' {
  interface FastifyRequest {
    session: Session<Data>;
  }
}
declare global {
  namespace Express {
    interface Request {
      session: Session<Data>;
    }
  }
}

const urlOf = (path: string) => new URL(path, 'http://x');

function hono(sessions: Sessions<Data>, handle: Handler): Promise<Listening> {
  const app = new Hono<{ Variables: SessionVariables<Data> }>();
  app.use(honoSessions(sessions));
  app.all('*', async c => {
    const reply = await handle(new URL(c.req.url), c.get('session'));
    for (const cookie of reply.cookies ?? []) c.header('set-cookie', cookie, { append: true });
    const body = reply.stream ? Readable.toWeb(Readable.from(reply.stream)) : (reply.body ?? '');
    return c.body(body as string, (reply.status ?? 200) as 200, reply.headers);
  });
  return listenHono(app);
}

async function fastifyApp(sessions: Sessions<Data>, handle: Handler): Promise<Listening> {
  const app = fastify();
  await app.register(fastifySessions(sessions));
  app.all('*', async (request, reply) => {
    const {
      status = 200,
      body = '',
      headers = {},
      cookies = [],
      stream,
    } = await handle(urlOf(request.url), request.session);
    for (const cookie of cookies) reply.header('set-cookie', cookie);
    return reply
      .code(status)
      .headers(headers)
      .send(stream ? Readable.from(stream) : body);
  });
  return listenFastify(app);
}

function expressApp(sessions: Sessions<Data>, handle: Handler): Promise<Listening> {
  const app = express();
  app.use(expressSessions(sessions));
  app.use(async (req, res) => {
    const reply = await handle(urlOf(req.url), req.session);
    for (const cookie of reply.cookies ?? []) res.append('set-cookie', cookie);
    res.status(reply.status ?? 200).set(reply.headers ?? {});
    if (reply.stream) Readable.from(reply.stream).pipe(res);
    else res.send(reply.body ?? '');
  });
  return listenExpress(app);
}

function bare(sessions: Sessions<Data>, handle: Handler): Promise<Listening> {
  const middleware = expressSessions(sessions);
  return listen((req, res) => {
    middleware(req, res, async error => {
      if (error) return void res.writeHead(500).end('failed');
      const { session } = req as RequestWithSession<Data>;
      const reply = await handle(urlOf(req.url!), session);
      res.writeHead(reply.status ?? 200, {
        ...reply.headers,
        ...(reply.cookies ? { 'Set-Cookie': reply.cookies } : {}),
      });
      for (const chunk of reply.stream ?? []) res.write(chunk);
      res.end(reply.body);
    });
  });
}

export const FRAMEWORKS = { Hono: hono, Fastify: fastifyApp, Express: expressApp, bare };

/** A browser: it keeps cookies, and sends those that it has. */
export class Browser {
  readonly #origin: string;
  readonly cookies = new Map<string, string>();

  constructor(origin: string, cookies: Iterable<[string, string]> = []) {
    this.#origin = origin;
    this.cookies = new Map(cookies);
  }

  /** Another tab, or a thief: the cookies as they are now. */
  copy(): Browser {
    return new Browser(this.#origin, this.cookies);
  }

  async send(path: string, headers: Record<string, string> = {}) {
    const cookie = [...this.cookies].map(([name, value]) => `${name}=${value}`).join('; ');
    const response = await fetch(this.#origin + path, {
      headers: { ...(cookie ? { cookie } : {}), ...headers },
      redirect: 'manual',
    });
    const setCookies = response.headers.getSetCookie();
    for (const header of setCookies) {
      const [pair = '', ...attributes] = header.split('; ');
      const [name = '', value = ''] = pair.split('=');
      if (attributes.includes('Max-Age=0')) this.cookies.delete(name);
      else this.cookies.set(name, value);
    }
    return {
      status: response.status,
      headers: response.headers,
      setCookies,
      text: await response.text(),
    };
  }
}
