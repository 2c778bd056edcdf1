/**
 * A web server's life, for any framework: health and readiness, request ids, graceful shutdown.
 *
 * It stands in front of the framework, at Node's own `http.Server`, so that Hono, Fastify, Express
 * and a bare request listener all get the same with one line.
 *
 * Holds true here:
 * - `GET /healthz` and `GET /readyz` are answered here and do not reach the application.
 * - Each request has a context (see `request-context.ts`) and an `X-Request-Id` on its response.
 * - After SIGTERM: `/readyz` says 503 for `drainDelayMs` while requests are still served, so that a
 *   balancer stops sending; then no new connection is taken, requests in flight finish, at most for
 *   `drainTimeoutMs`; then the hooks run, the pool is closed and the process ends with 0.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { readEnvironment } from '../environment.ts';
import { log } from '../telemetry/log.ts';
import { withRequestContext } from '../telemetry/request-context.ts';
import { databaseCheck, type Phase, type ReadinessCheck, readinessReport } from './readiness.ts';
import { requestIdOf } from './request-id.ts';

export interface LifecycleOptions {
  /** The application's pool: checked by `/readyz`, closed at the end. */
  pool?: pg.Pool;
  /** More that has to work before this server should get requests. Each must throw to say no. */
  checks?: Record<string, ReadinessCheck>;
  /** Until it resolves `/readyz` says 503: warming a cache, loading a model. If it fails, the process ends. */
  startUp?: Promise<unknown>;
  /**
   * How long to go on serving after SIGTERM while `/readyz` already says 503, in milliseconds.
   * Default: 0; a load balancer that finds out by polling needs two of its intervals.
   */
  drainDelayMs?: number;
  /**
   * How long requests in flight may take to finish, in milliseconds; what is left is cut off.
   * Default: what the topology says (`web.drainTimeoutMs`), else 10000.
   */
  drainTimeoutMs?: number;
  /** Runs when the last request is done and before the pool is closed. */
  onShutdown?: () => Promise<void> | void;
  /**
   * One line of log for each request: method, path, status, milliseconds.
   * Default: false.
   */
  logRequests?: boolean;
}

export interface Lifecycle {
  readonly phase: Phase;
  /** Drains and closes as on SIGTERM, without ending the process. May be called again; it happens once. */
  shutdown(): Promise<void>;
}

const DRAIN_TIMEOUT_MS = 10_000;
/** How often connections that have become idle are closed while draining. */
const SWEEP_INTERVAL_MS = 50;

type Next = (req: IncomingMessage, res: ServerResponse) => void;

/**
 * Takes charge of a server's life. Call it once the framework has put its listener on the server.
 * @example
 * const server = serve({ fetch: app.fetch, port: Number(process.env.PORT) });   // Hono
 * lifecycle(server, { pool });
 */
export function lifecycle(server: Server, options: LifecycleOptions = {}): Lifecycle {
  const life = new ServerLife(server, options);
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.once(signal, () => {
      void life.shutdown().then(
        () => process.exit(0),
        error => {
          log.error({ err: error }, 'the shutdown failed');
          process.exit(1);
        },
      );
    });
  }
  return life;
}

class ServerLife implements Lifecycle {
  readonly #server: Server;
  readonly #options: LifecycleOptions;
  readonly #checks: Record<string, ReadinessCheck>;
  /** Sockets that were taken over by another protocol (WebSocket): the server no longer counts them. */
  readonly #upgraded = new Set<Socket>();
  #phase: Phase;
  #shutdown: Promise<void> | undefined;

  constructor(server: Server, options: LifecycleOptions) {
    this.#server = server;
    this.#options = options;
    this.#checks = {
      ...(options.pool ? { database: databaseCheck(options.pool) } : {}),
      ...options.checks,
    };
    this.#phase = options.startUp ? 'starting' : 'serving';
    options.startUp?.then(
      () => {
        if (this.#phase === 'starting') this.#phase = 'serving';
      },
      error => {
        log.fatal({ err: error }, 'the application could not start up');
        process.exit(1);
      },
    );
    this.#standInFront();
    server.on('upgrade', (_req, socket: Socket) => {
      this.#upgraded.add(socket);
      socket.once('close', () => this.#upgraded.delete(socket));
    });
  }

  get phase(): Phase {
    return this.#phase;
  }

  shutdown(): Promise<void> {
    this.#shutdown ??= this.#drain();
    return this.#shutdown;
  }

  #standInFront(): void {
    const listeners = this.#server.listeners('request') as Next[];
    this.#server.removeAllListeners('request');
    const application: Next = (req, res) => {
      for (const listener of listeners) listener.call(this.#server, req, res);
    };
    this.#server.on('request', (req: IncomingMessage, res: ServerResponse) => {
      const requestId = requestIdOf(req);
      res.setHeader('x-request-id', requestId);
      if (this.#phase === 'draining') res.setHeader('connection', 'close');
      withRequestContext({ requestId }, () => {
        const path = req.url?.split('?', 1)[0];
        const isProbe = req.method === 'GET' || req.method === 'HEAD';
        if (isProbe && path === '/healthz') return answer(res, 200, { healthy: true });
        if (isProbe && path === '/readyz') return void this.#answerReadiness(res);
        if (this.#options.logRequests) logWhenDone(req, res, path, requestId);
        application(req, res);
      });
    });
  }

  async #answerReadiness(res: ServerResponse): Promise<void> {
    const report = await readinessReport(this.#phase, this.#checks);
    answer(res, report.ready ? 200 : 503, report);
  }

  async #drain(): Promise<void> {
    this.#phase = 'draining';
    const { drainDelayMs = 0, onShutdown, pool } = this.#options;
    const timeoutMs =
      this.#options.drainTimeoutMs ?? readEnvironment().drainTimeoutMs ?? DRAIN_TIMEOUT_MS;
    if (drainDelayMs > 0) await delay(drainDelayMs);

    const closed = new Promise<void>(resolve => this.#server.close(() => resolve()));
    // A connection whose last response was begun before the drain stays open for the next request.
    const sweep = setInterval(() => this.#server.closeIdleConnections(), SWEEP_INTERVAL_MS);
    const patience = new AbortController();
    const tooLate = delay(timeoutMs, 'late' as const, { signal: patience.signal }).catch(() => {});
    if ((await Promise.race([closed, tooLate])) === 'late') {
      log.warn(`requests were still in flight after ${timeoutMs} ms and are cut off`);
      this.#server.closeAllConnections();
    }
    clearInterval(sweep);
    patience.abort();
    for (const socket of this.#upgraded) socket.destroy();
    await onShutdown?.();
    await pool?.end();
  }
}

function answer(res: ServerResponse, status: number, body: unknown): void {
  res.writeHead(status, { 'content-type': 'application/json', 'cache-control': 'no-store' });
  res.end(JSON.stringify(body));
}

/** `close` comes from the socket, outside the request's context: the id is handed on. */
function logWhenDone(
  { method }: IncomingMessage,
  res: ServerResponse,
  path: string | undefined,
  requestId: string,
): void {
  const begun = performance.now();
  res.once('close', () => {
    const ms = Math.round((performance.now() - begun) * 10) / 10;
    const aborted = res.writableFinished ? {} : { aborted: true };
    log.info({ requestId, method, path, status: res.statusCode, ms, ...aborted }, 'request');
  });
}
