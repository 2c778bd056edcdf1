/** Real HTTP for tests: servers on free ports, and requests that show all that a client sees. */
import { createServer, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { connect, type Socket } from 'node:net';
import { serve } from '@hono/node-server';
import type { Express } from 'express';
import type { FastifyInstance } from 'fastify';
import type { Env, Hono } from 'hono';

export interface Listening {
  server: Server;
  port: number;
  /** `http://127.0.0.1:40123` */
  origin: string;
  close(): Promise<void>;
}

export async function listen(listener: RequestListener): Promise<Listening> {
  const server = createServer(listener);
  const listening = Promise.withResolvers<void>();
  server.listen(0, '127.0.0.1', listening.resolve);
  await listening.promise;
  return describe(server);
}

export async function listenHono<E extends Env>(app: Hono<E>): Promise<Listening> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const server = serve({ fetch: app.fetch, port: 0, hostname: '127.0.0.1' }, () => resolve());
  await promise;
  return describe(server as Server);
}

export function listenExpress(app: Express): Promise<Listening> {
  return listen(app);
}

export async function listenFastify(app: FastifyInstance): Promise<Listening> {
  await app.listen({ port: 0, host: '127.0.0.1' });
  return { ...describe(app.server), close: () => app.close() };
}

function describe(server: Server): Listening {
  const { port } = server.address() as AddressInfo;
  return {
    server,
    port,
    origin: `http://127.0.0.1:${port}`,
    close: async () => {
      const { promise, resolve } = Promise.withResolvers<void>();
      server.close(() => resolve());
      server.closeAllConnections();
      await promise;
    },
  };
}

/** A connection on which the test decides when each byte goes and comes. */
export class RawConnection {
  readonly socket: Socket;
  readonly #received: Buffer[] = [];
  byteCount = 0;
  readonly closed: Promise<void>;

  constructor(port: number) {
    this.socket = connect(port, '127.0.0.1');
    this.socket.on('data', chunk => {
      this.#received.push(chunk);
      this.byteCount += chunk.length;
    });
    this.socket.on('error', () => {});
    const { promise, resolve } = Promise.withResolvers<void>();
    this.socket.once('close', () => resolve());
    this.closed = promise;
  }

  async opened(): Promise<this> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.socket.once('connect', resolve);
    this.socket.once('error', reject);
    await promise;
    return this;
  }

  send(...lines: string[]): this {
    this.socket.write(`${lines.join('\r\n')}\r\n\r\n`);
    return this;
  }

  get text(): string {
    return Buffer.concat(this.#received).toString('latin1');
  }
}
