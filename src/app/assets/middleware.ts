/**
 * Static files for Hono, Fastify and Express (or Connect). A request that is for no file here goes on
 * to the application. The frameworks' types are described by the few members that are used.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { log } from '../telemetry/log.ts';
import type { Assets, FoundAsset } from './assets.ts';

interface HonoContext {
  req: { header(name: string): string | undefined; url: string; method: string };
  header(name: string, value: string, options?: { append?: boolean }): void;
  body(data: ReadableStream | null, status: never, headers: Record<string, string>): Response;
}

/** @example app.use(honoAssets(assets)) */
export function honoAssets(assets: Assets) {
  return async (c: HonoContext, next: () => Promise<void>): Promise<Response | undefined> => {
    const found = await lookUp(assets, c.req.method, new URL(c.req.url).pathname, name =>
      c.req.header(name),
    );
    if (!found) {
      await next();
      return undefined;
    }
    const { vary, ...headers } = found.headers;
    if (vary) c.header('vary', vary, { append: true });
    const body = found.body ? (Readable.toWeb(found.body) as ReadableStream) : null;
    // `never`: Hono lists the statuses that have a body, and leaves out 304.
    return c.body(body, found.status as never, headers);
  };
}

/** @example app.use(expressAssets(assets)) */
export function expressAssets(assets: Assets) {
  return (req: IncomingMessage, res: ServerResponse, next: (error?: unknown) => void): void => {
    // Express takes the path that it was mounted on off `url` and keeps the whole here.
    const url = (req as { originalUrl?: string }).originalUrl ?? req.url ?? '/';
    lookUp(assets, req.method ?? 'GET', url.split('?', 1)[0]!, name => headerOf(req, name)).then(
      found => (found ? send(found, res) : next()),
      next,
    );
  };
}

interface FastifyLike {
  addHook(
    name: 'onRequest',
    hook: (request: { raw: IncomingMessage }, reply: FastifyReplyLike) => Promise<unknown>,
  ): unknown;
}
interface FastifyReplyLike {
  getHeader(name: string): unknown;
  code(status: number): FastifyReplyLike;
  headers(headers: Record<string, string>): FastifyReplyLike;
  send(body?: unknown): FastifyReplyLike;
}

/** @example await app.register(fastifyAssets(assets)) */
export function fastifyAssets(assets: Assets) {
  const plugin = async (app: FastifyLike): Promise<void> => {
    app.addHook('onRequest', async ({ raw }, reply) => {
      const path = (raw.url ?? '/').split('?', 1)[0]!;
      const found = await lookUp(assets, raw.method ?? 'GET', path, name => headerOf(raw, name));
      if (!found) return;
      const headers = withVary(found.headers, reply.getHeader('vary'));
      return reply.code(found.status).headers(headers).send(found.body);
    });
  };
  return Object.assign(plugin, { [Symbol.for('skip-override')]: true });
}

function lookUp(
  assets: Assets,
  method: string,
  pathname: string,
  header: (name: string) => string | undefined,
): Promise<FoundAsset | undefined> {
  return assets.find(pathname, {
    method,
    acceptEncoding: header('accept-encoding'),
    headers: {
      ifNoneMatch: header('if-none-match'),
      ifModifiedSince: header('if-modified-since'),
      range: header('range'),
      ifRange: header('if-range'),
    },
  });
}

function headerOf(req: IncomingMessage, name: string): string | undefined {
  const value = req.headers[name];
  return Array.isArray(value) ? value.join(', ') : value;
}

/** What others said before (CORS: `Vary: Origin`) holds too, or a cache would mix their answers up. */
function withVary(headers: Record<string, string>, present: unknown): Record<string, string> {
  if (present === undefined || headers.vary === undefined) return headers;
  return { ...headers, vary: `${String(present)}, ${headers.vary}` };
}

function send(found: FoundAsset, res: ServerResponse): void {
  res.writeHead(found.status, withVary(found.headers, res.getHeader('vary')));
  if (!found.body) {
    res.end();
    return;
  }
  pipeline(found.body, res).catch(error => {
    // A browser that goes away in the middle is no fault of ours.
    if (!res.destroyed) log.warn({ err: error }, 'a file could not be sent');
  });
}
