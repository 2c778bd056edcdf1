/**
 * How other commands talk to the supervisor: HTTP with JSON over a Unix socket that only the
 * deployment's account can open.
 *
 *     GET  /status                              → Status
 *     POST /stop                                → 202; the supervisor then stops everything and ends
 *     GET  /logs?lines=N&unit=NAME&follow=1     → one LogLine a line (NDJSON)
 */
import { chmodSync, rmSync } from 'node:fs';
import {
  createServer,
  type IncomingMessage,
  request,
  type Server,
  type ServerResponse,
} from 'node:http';
import { createInterface } from 'node:readline';
import { BanyanError, hasCode } from '../errors.ts';
import type { LogLine, UnitLogs } from '../machines/unit-log.ts';
import type { Status } from './status.ts';

/** A supervisor that does not answer within this is not well. */
const ANSWER_TIMEOUT_MS = 5_000;
/** A follower that reads this many bytes too slowly is cut off; its lines would fill the memory. */
const FOLLOWER_BACKLOG_BYTES = 4 * 1024 * 1024;

export class NotRunning extends BanyanError {
  constructor(folder: string) {
    super('NOT_RUNNING', {
      what: 'This deployment is not up',
      where: folder,
      remedy: 'Start it with `banyan up`',
    });
  }
}

export class SupervisorSilent extends BanyanError {
  constructor(socket: string) {
    super('SUPERVISOR_SILENT', {
      what: `The supervisor did not answer within ${ANSWER_TIMEOUT_MS / 1_000} s`,
      where: socket,
      remedy:
        'See whether its process is stopped (`ps -o pid,stat,args`); kill it and run `banyan up`: nothing is lost',
    });
  }
}

export interface ControlHandlers {
  status: () => Status;
  stop: () => void;
  logs: UnitLogs;
}

/** Serves the socket. The caller holds the deployment's lock, so a socket file that is there is stale. */
export async function serveControl(socket: string, handlers: ControlHandlers): Promise<Server> {
  rmSync(socket, { force: true });
  const server = createServer((req, res) => {
    const url = new URL(req.url ?? '/', 'http://control');
    const route = `${req.method} ${url.pathname}`;
    if (route === 'GET /status') return sendJson(res, 200, handlers.status());
    if (route === 'GET /logs') return sendLogs(res, url.searchParams, handlers.logs);
    if (route === 'POST /stop') {
      sendJson(res, 202, { stopping: true });
      res.once('close', handlers.stop);
      return;
    }
    sendJson(res, 404, { error: `no such route: ${route}` });
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(socket, resolve);
  });
  chmodSync(socket, 0o600);
  return server;
}

function sendJson(res: ServerResponse, status: number, body: unknown): void {
  res.writeHead(status, { 'content-type': 'application/json', connection: 'close' });
  res.end(JSON.stringify(body));
}

function sendLogs(res: ServerResponse, query: URLSearchParams, logs: UnitLogs): void {
  const unit = query.get('unit') ?? undefined;
  res.writeHead(200, { 'content-type': 'application/x-ndjson' });
  for (const line of logs.recent(Number(query.get('lines') ?? 100), unit)) {
    res.write(`${JSON.stringify(line)}\n`);
  }
  if (!query.has('follow')) {
    res.end();
    return;
  }
  const onLine = (line: LogLine) => {
    if (unit && line.unit !== unit) return;
    res.write(`${JSON.stringify(line)}\n`);
    if (res.writableLength > FOLLOWER_BACKLOG_BYTES) res.destroy();
  };
  logs.on('line', onLine);
  res.once('close', () => logs.off('line', onLine));
}

/** The other end of the socket. */
export class ControlClient {
  readonly #socket: string;
  readonly #folder: string;

  /** @param folder the application's, for errors */
  constructor(socket: string, folder: string) {
    this.#socket = socket;
    this.#folder = folder;
  }

  /** @throws NotRunning, SupervisorSilent */
  async status(): Promise<Status> {
    return JSON.parse(await readAll(await this.#send('GET', '/status'))) as Status;
  }

  /** Asks the supervisor to stop everything; it answers before it does. @throws NotRunning, SupervisorSilent */
  async stop(): Promise<void> {
    await readAll(await this.#send('POST', '/stop'));
  }

  /** Ends with the supervisor, or when `signal` is aborted. @throws NotRunning, SupervisorSilent */
  async *logs(
    options: { lines: number; unit?: string; follow?: boolean },
    signal?: AbortSignal,
  ): AsyncGenerator<LogLine> {
    const query = new URLSearchParams({ lines: String(options.lines) });
    if (options.unit) query.set('unit', options.unit);
    if (options.follow) query.set('follow', '1');
    const response = await this.#send('GET', `/logs?${query}`);
    const lines = createInterface({ input: response });
    // Of a stream that is destroyed the lines would never end.
    signal?.addEventListener('abort', () => lines.close());
    try {
      for await (const line of lines) yield JSON.parse(line) as LogLine;
    } catch (error) {
      if (!signal?.aborted && !hasCode(error, 'ECONNRESET')) throw error;
    } finally {
      response.destroy();
    }
  }

  #send(method: string, path: string): Promise<IncomingMessage> {
    const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
    const req = request({ socketPath: this.#socket, method, path, agent: false }, resolve);
    const timer = setTimeout(
      () => req.destroy(new SupervisorSilent(this.#socket)),
      ANSWER_TIMEOUT_MS,
    );
    req.once('close', () => clearTimeout(timer));
    req.once('response', () => clearTimeout(timer));
    req.once('error', error => {
      reject(
        hasCode(error, 'ENOENT', 'ECONNREFUSED', 'ENOTDIR') ? new NotRunning(this.#folder) : error,
      );
    });
    req.end();
    return promise;
  }
}

async function readAll(response: IncomingMessage): Promise<string> {
  let text = '';
  for await (const chunk of response.setEncoding('utf8')) text += chunk;
  return text;
}
