/** The supervisor's end of the control socket; see `protocol.ts`. */
import { chmodSync, rmSync } from 'node:fs';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { BanyanError } from '../../errors.ts';
import { createServer } from '../../machines/http.ts';
import type { Machine, SocketAddress, UnitSpec } from '../../machines/unit.ts';
import type { LogLine, UnitLogs } from '../../machines/unit-log.ts';
import type { CutOver } from '../database/move/cut-over.ts';
import type { Status } from '../status.ts';
import type { Circumstances } from './protocol.ts';

/** A follower that reads this many bytes too slowly is cut off; its lines would fill the memory. */
const FOLLOWER_BACKLOG_BYTES = 4 * 1024 * 1024;

export interface ControlHandlers {
  status: () => Promise<Status>;
  circumstances: () => Promise<Circumstances>;
  cutOver: (move: CutOver) => Promise<number>;
  stop: () => void;
  logs: UnitLogs;
  machine: Machine;
}

/** Serves the socket. The caller holds the deployment's lock, so a socket file that is there is stale. */
export async function serveControl(socket: string, handlers: ControlHandlers): Promise<Server> {
  rmSync(socket, { force: true });
  const server = createServer((req, res) => {
    answer(req, res, handlers).catch(error => {
      if (res.headersSent) return res.destroy();
      const body =
        error instanceof BanyanError ? error.toJSON() : { code: 'UNEXPECTED', what: String(error) };
      sendJson(res, 500, { error: body });
    });
  });
  // A unit may take minutes to be ready; the units' own limits bound it.
  server.requestTimeout = 0;
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(socket, resolve);
  });
  chmodSync(socket, 0o600);
  return server;
}

async function answer(
  req: IncomingMessage,
  res: ServerResponse,
  { status, circumstances, cutOver, stop, logs, machine }: ControlHandlers,
): Promise<void> {
  const url = new URL(req.url ?? '/', 'http://control');
  const [, room, name, verb] = url.pathname.split('/');
  const unit = decodeURIComponent(name ?? '');
  switch (`${req.method} ${[room, name && 'NAME', verb].filter(Boolean).join('/')}`) {
    case 'GET status':
      return sendJson(res, 200, await status());
    case 'GET circumstances':
      return sendJson(res, 200, await circumstances());
    case 'GET logs':
      return sendLogs(res, url.searchParams, logs);
    case 'POST stop':
      sendJson(res, 202, { stopping: true });
      res.once('close', stop);
      return;
    case 'POST sockets':
      return sendJson(res, 200, { port: await machine.listen(await body<SocketAddress>(req)) });
    case 'POST cut-over':
      return sendJson(res, 200, { heldMs: await cutOver(await body<CutOver>(req)) });
    case 'POST units':
      await machine.start(await body<UnitSpec>(req));
      return sendJson(res, 200, { started: true });
    case 'DELETE units/NAME':
      await machine.stop(unit);
      return sendJson(res, 200, { stopped: true });
    case 'POST units/NAME/signal':
      await machine.signal(unit, (await body<{ signal: NodeJS.Signals }>(req)).signal);
      return sendJson(res, 200, { sent: true });
    default:
      sendJson(res, 404, {
        error: { code: 'NO_ROUTE', what: `No such route: ${req.method} ${url.pathname}` },
      });
  }
}

async function body<T>(req: IncomingMessage): Promise<T> {
  let text = '';
  for await (const chunk of req.setEncoding('utf8')) text += chunk;
  return JSON.parse(text) as T;
}

function sendJson(res: ServerResponse, status: number, value: unknown): void {
  res.writeHead(status, { 'content-type': 'application/json', connection: 'close' });
  res.end(JSON.stringify(value));
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
