/**
 * A web server's life, for any framework: health and readiness, request ids, graceful shutdown.
 *
 * It stands in front of the framework, at Node's own `http.Server`, so that Hono, Fastify, Express
 * and a bare request listener all get the same with one line.
 *
 * Holds true here:
 * - `GET /healthz` and `GET /readyz` are answered here and do not reach the application.
 * - Each request has a context (see `request-context.ts`) and an `X-Request-Id` on its response.
 * - What else of the process takes work in (the queue's workers, `drain.ts`) is drained with the requests.
 * - After SIGTERM: `/readyz` says 503 for `drainDelayMs` while requests are still served, so that a
 *   balancer stops sending; then no new connection is taken, requests in flight finish, at most for
 *   `drainTimeoutMs`; then `onShutdown` runs, upgraded connections and the pool are closed, each with
 *   a limit, and the process ends with 0.
 * - A signal that comes again changes nothing: npm and shells pass on what the terminal has sent already.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Http2SecureServer, Http2Server } from 'node:http2';
import type { Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { readEnvironment } from '../environment.ts';
import { log } from '../telemetry/log.ts';
import { withRequestContext } from '../telemetry/request-context.ts';
import { DRAIN_TIMEOUT_MS, drainAll, signals } from './drain.ts';
import { databaseCheck, type Phase, type ReadinessCheck, readinessReport } from './readiness.ts';
import { REQUEST_ID_HEADER, requestIdOf } from './request-id.ts';

/** Node's own server, which every framework has; Hono's `serve` says that it may be one of HTTP/2. */
export type WebServer = Server | Http2Server | Http2SecureServer;

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
  /**
   * Runs when the last request is done and before WebSockets are cut off and the pool is closed: say
   * goodbye to WebSockets, stop timers, flush what is buffered. It may take what is left of
   * `drainTimeoutMs`, and 1 second in any case.
   */
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

/** `onShutdown` has this long even when the requests have used the time up. */
const HOOK_TIMEOUT_MS = 1_000;

/** For the pool. With the limits around it less than the 2 seconds that the supervisor adds to the drain. */
const CLOSE_TIMEOUT_MS = 500;

/** Browsers open connections ahead of need. One that has sent nothing after this is closed. */
const SILENT_CONNECTION_MS = 300;

/**
 * A client that is at work sends its next request within this, and is told to close with the answer. To
 * close its connection at once would cut off the request that is just on its way.
 */
const NEXT_REQUEST_MS = 500;

/**
 * Longer than any balancer keeps an idle connection: whoever closes first must be the one that sends, since
 * a request that meets the other's close has no answer, and one that may not be repeated has failed.
 */
const KEEP_ALIVE_MS = 75_000;
/** What Node sets; another value is the application's own. */
const NODE_KEEP_ALIVE_MS = 5_000;

/** Events of a server that carry a request and its response. */
const REQUEST_EVENTS = ['request', 'checkContinue', 'checkExpectation'];

/** Events after which the server has handed the connection over to the application. */
const HANDOVER_EVENTS = ['upgrade', 'connect'];

/** All servers of this process: it ends when the last of them is drained. */
const lives = new Set<ServerLife>();

/**
 * Takes charge of a server's life. Call it once for each server of the process.
 * @example
 * const server = serve({ fetch: app.fetch, port: Number(process.env.PORT) });   // Hono
 * lifecycle(server, { pool });
 */
export function lifecycle(server: WebServer, options: LifecycleOptions = {}): Lifecycle {
  const life = new ServerLife(server as ServerParts, options);
  lives.add(life);
  signals.areServers = true;
  if (lives.size === 1) for (const signal of SIGNALS) process.on(signal, endProcess);
  return life;
}

const SIGNALS = ['SIGTERM', 'SIGINT'] as const;

function endProcess(): void {
  Promise.all([...lives].map(life => life.shutdown())).then(
    () => process.exit(0),
    error => {
      log.error({ err: error }, 'the shutdown failed');
      process.exit(1);
    },
  );
}

/** What is used of a server; one of HTTP/2 knows no idle connections. */
type ServerParts = Pick<Server, 'emit' | 'close'> &
  Partial<Pick<Server, 'closeIdleConnections' | 'closeAllConnections' | 'keepAliveTimeout'>>;

class ServerLife implements Lifecycle {
  readonly #server: ServerParts;
  readonly #options: LifecycleOptions;
  readonly #checks: Record<string, ReadinessCheck>;
  readonly #upgraded = new Set<Socket>();
  /** Responses that are not sent to their last byte. */
  readonly #inFlight = new Set<ServerResponse>();
  /** Called when the last of them is. */
  #whenQuiet: (() => void) | undefined;
  /** Before this moment no connection is closed for being idle, on `performance.now()`'s clock. */
  #keepIdleUntil = 0;
  #phase: Phase;
  #shutdown: Promise<void> | undefined;

  constructor(server: ServerParts, options: LifecycleOptions) {
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
        if (this.#phase === 'draining') return;
        log.fatal({ err: error }, 'the application could not start up');
        process.exit(1);
      },
    );
    if (server.keepAliveTimeout === NODE_KEEP_ALIVE_MS) server.keepAliveTimeout = KEEP_ALIVE_MS;
    this.#standInFront();
    this.#protectAnswers();
  }

  get phase(): Phase {
    return this.#phase;
  }

  shutdown(): Promise<void> {
    this.#shutdown ??= this.#drain().finally(() => {
      lives.delete(this);
      signals.areServers = lives.size > 0;
      if (lives.size === 0) for (const signal of SIGNALS) process.off(signal, endProcess);
    });
    return this.#shutdown;
  }

  /**
   * At `emit`, as OpenTelemetry does: it does not matter whether the framework has put its listener on
   * the server yet, and no listener is added. One for `upgrade` would change what Node does: a plain
   * request that offers an upgrade (Java's client offers HTTP/2) would never get an answer.
   */
  #standInFront(): void {
    const server = this.#server;
    const emit = server.emit as (event: string | symbol, ...args: unknown[]) => boolean;
    const intercept = (event: string | symbol, ...args: unknown[]): boolean => {
      const pass = () => emit.call(server, event, ...args);
      if (REQUEST_EVENTS.includes(String(event))) {
        this.#onRequest(args[0] as IncomingMessage, args[1] as ServerResponse, pass);
        return true;
      }
      if (!HANDOVER_EVENTS.includes(String(event))) return pass();
      const [req, socket] = args as [IncomingMessage, Socket];
      this.#upgraded.add(socket);
      socket.once('close', () => this.#upgraded.delete(socket));
      return withRequestContext({ requestId: requestIdOf(req) }, pass);
    };
    server.emit = intercept as typeof server.emit;
  }

  #onRequest(req: IncomingMessage, res: ServerResponse, application: () => void): void {
    const requestId = requestIdOf(req);
    this.#inFlight.add(res);
    res.once('close', () => {
      this.#inFlight.delete(res);
      if (this.#inFlight.size === 0) this.#whenQuiet?.();
    });
    res.setHeader(REQUEST_ID_HEADER, requestId);
    if (this.#phase === 'draining' && req.httpVersionMajor < 2)
      res.setHeader('connection', 'close');
    withRequestContext({ requestId }, () => {
      const path = req.url?.split('?', 1)[0];
      const isProbe = req.method === 'GET' || req.method === 'HEAD';
      if (isProbe && path === '/healthz') return answer(res, 200, { healthy: true });
      if (isProbe && path === '/readyz') return void this.#answerReadiness(res);
      if (this.#options.logRequests) logWhenDone(req, res, path, requestId);
      application();
    });
  }

  /**
   * Node's `close()` destroys connections that it takes for idle, among them those whose response has
   * been ended by the application and is still on its way to a slow reader: it would be cut off in the
   * middle. So none is closed as idle before the last byte of every response has gone.
   */
  #protectAnswers(): void {
    const { closeIdleConnections } = this.#server;
    if (!closeIdleConnections) return;
    this.#server.closeIdleConnections = () => {
      const isEarly = performance.now() < this.#keepIdleUntil;
      if (this.#inFlight.size === 0 && !isEarly) closeIdleConnections.call(this.#server);
    };
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

    const deadline = performance.now() + timeoutMs;
    await Promise.all([this.#finishRequests(timeoutMs), drainAll(timeoutMs)]);
    const timeForHook = Math.max(HOOK_TIMEOUT_MS, deadline - performance.now());
    try {
      if (!(await isDoneWithin(timeForHook, (async () => onShutdown?.())()))) {
        log.warn('onShutdown did not finish in time and is left behind');
      }
    } finally {
      for (const socket of this.#upgraded) socket.destroy();
      // A request that was cut off may still hold a connection to the database: it is not waited for.
      if (pool && !pool.ending && !(await isDoneWithin(CLOSE_TIMEOUT_MS, pool.end()))) {
        log.warn('queries still run; their connections are left behind');
      }
    }
  }

  /** Resolves when no request is in flight and none can come any more. */
  async #finishRequests(timeoutMs: number): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    this.#keepIdleUntil = performance.now() + Math.min(NEXT_REQUEST_MS, timeoutMs);
    const closed = new Promise<void>(resolve => this.#server.close(() => resolve()));
    if (await isDoneWithin(this.#keepIdleUntil - performance.now(), closed)) return;
    for (;;) {
      if (!(await isDoneWithin(deadline - performance.now(), this.#quiet()))) {
        log.warn(`requests were still in flight after ${timeoutMs} ms and are cut off`);
        break;
      }
      // Those whose last response was begun before the drain wait for another request.
      this.#server.closeIdleConnections?.();
      // What is left has sent nothing yet, or was upgraded.
      if (await isDoneWithin(SILENT_CONNECTION_MS, closed)) return;
      if (this.#inFlight.size === 0) break;
    }
    this.#server.closeAllConnections?.();
  }

  async #quiet(): Promise<void> {
    if (this.#inFlight.size === 0) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#whenQuiet = resolve;
    await promise;
  }
}

/** @returns false when time was up first */
async function isDoneWithin(timeoutMs: number, work: Promise<unknown>): Promise<boolean> {
  const patience = new AbortController();
  const late = delay(timeoutMs, false, { signal: patience.signal }).catch(() => false);
  try {
    return await Promise.race([work.then(() => true), late]);
  } finally {
    patience.abort();
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
