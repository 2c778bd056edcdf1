/**
 * The commands' end of the control socket; see `protocol.ts`. Also a machine: what another process
 * supervises can be changed through it.
 */
import type { IncomingMessage } from 'node:http';
import { createInterface } from 'node:readline';
import { BanyanError, type ErrorDetails, hasCode } from '../../errors.ts';
import { request } from '../../machines/http.ts';
import type { Machine, SocketAddress, UnitSpec, UnitState } from '../../machines/unit.ts';
import type { LogLine } from '../../machines/unit-log.ts';
import type { CutOver } from '../database/move/cut-over.ts';
import type { Status } from '../status.ts';
import type { Circumstances } from './protocol.ts';

/** A supervisor that does not answer within this is not well, or the machine is very busy. */
const ANSWER_TIMEOUT_MS = 10_000;
/** It looks for the primary, for half a minute when there is none at the moment, and then says so itself. */
const CIRCUMSTANCES_TIMEOUT_MS = 60_000;
/** Beyond the longest that a unit may take by its own limits, the way there and back. */
const UNIT_GRACE_MS = 30_000;
/** PostgreSQL's checkpoint at a stop may take a while. */
const STOP_TIMEOUT_MS = 180_000;
/** Its own limits are much narrower. */
const CUT_OVER_TIMEOUT_MS = 120_000;

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
  constructor(socket: string, timeoutMs: number) {
    super('SUPERVISOR_SILENT', {
      what: `The supervisor did not answer within ${timeoutMs / 1_000} s`,
      where: socket,
      remedy:
        'See whether its process is stopped (`ps -o pid,stat,args`); kill it and run `banyan up`: nothing is lost',
    });
  }
}

export class ControlClient implements Machine {
  readonly #socket: string;
  readonly #folder: string;

  /** @param folder the application's, for errors */
  constructor(socket: string, folder: string) {
    this.#socket = socket;
    this.#folder = folder;
  }

  /** @throws NotRunning, SupervisorSilent */
  status(): Promise<Status> {
    return this.#ask('GET', '/status');
  }

  /** @throws NotRunning, SupervisorSilent */
  circumstances(): Promise<Circumstances> {
    return this.#ask('GET', '/circumstances', undefined, CIRCUMSTANCES_TIMEOUT_MS);
  }

  /** Asks the supervisor to stop everything; it answers before it does. @throws NotRunning, SupervisorSilent */
  async stopAll(): Promise<void> {
    await this.#ask('POST', '/stop');
  }

  async listen(address: SocketAddress): Promise<number> {
    return (await this.#ask<{ port: number }>('POST', '/sockets', address)).port;
  }

  async start(spec: UnitSpec): Promise<void> {
    const timeoutMs = spec.startTimeoutMs + spec.stop.timeoutMs + UNIT_GRACE_MS;
    await this.#ask('POST', '/units', spec, timeoutMs);
  }

  async stop(name: string): Promise<void> {
    await this.#ask('DELETE', `/units/${encodeURIComponent(name)}`, undefined, STOP_TIMEOUT_MS);
  }

  async signal(name: string, signal: NodeJS.Signals): Promise<void> {
    await this.#ask('POST', `/units/${encodeURIComponent(name)}/signal`, { signal });
  }

  /** Carries the switch of a move out in the supervisor. @throws StillBusy, CopyStands, RowsDiffer, … */
  async cutOver(move: CutOver): Promise<number> {
    return (await this.#ask<{ heldMs: number }>('POST', '/cut-over', move, CUT_OVER_TIMEOUT_MS))
      .heldMs;
  }

  async states(): Promise<UnitState[]> {
    return (await this.status()).units;
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

  async #ask<T>(method: string, path: string, body?: unknown, timeoutMs?: number): Promise<T> {
    const response = await this.#send(method, path, body, timeoutMs);
    let text = '';
    for await (const chunk of response.setEncoding('utf8')) text += chunk;
    const answer = JSON.parse(text) as T & { error?: ErrorDetails & { code: string } };
    if ((response.statusCode ?? 500) >= 400 && answer.error) {
      throw new BanyanError(answer.error.code, answer.error);
    }
    return answer;
  }

  #send(
    method: string,
    path: string,
    body?: unknown,
    timeoutMs = ANSWER_TIMEOUT_MS,
  ): Promise<IncomingMessage> {
    const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
    const req = request({ socketPath: this.#socket, method, path, agent: false }, resolve);
    const timer = setTimeout(
      () => req.destroy(new SupervisorSilent(this.#socket, timeoutMs)),
      timeoutMs,
    );
    req.once('close', () => clearTimeout(timer));
    req.once('response', () => clearTimeout(timer));
    req.once('error', error => {
      reject(
        hasCode(error, 'ENOENT', 'ECONNREFUSED', 'ENOTDIR') ? new NotRunning(this.#folder) : error,
      );
    });
    req.end(body === undefined ? undefined : JSON.stringify(body));
    return promise;
  }
}
