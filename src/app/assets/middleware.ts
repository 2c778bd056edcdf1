/**
 * Static files for Hono, Fastify and Express (or Connect). A request that is for no file here goes on
 * to the application.
 */
import { createReadStream } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { log } from '../telemetry/log.ts';
import type { Assets, FoundAsset } from './assets.ts';

interface HonoContext {
  req: { header(name: string): string | undefined; url: string; method: string };
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
    const body = found.bytes
      ? (Readable.toWeb(createReadStream(found.file, found.bytes)) as ReadableStream)
      : null;
    return new Response(body, { status: found.status, headers: found.headers });
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
      const body = found.bytes ? createReadStream(found.file, found.bytes) : undefined;
      return reply.code(found.status).headers(found.headers).send(body);
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

function send(found: FoundAsset, res: ServerResponse): void {
  res.writeHead(found.status, found.headers);
  if (!found.bytes) {
    res.end();
    return;
  }
  pipeline(createReadStream(found.file, found.bytes), res).catch(error => {
    // A browser that goes away in the middle is no fault of ours.
    if (!res.destroyed) log.warn({ err: error, file: found.file }, 'a file could not be sent');
  });
}
