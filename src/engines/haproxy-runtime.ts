/**
 * HAProxy's Runtime API: one command a connection over its Unix socket.
 * (https://docs.haproxy.org/2.6/management.html, section 9.3)
 */
import { connect } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { BanyanError, hasCode } from '../errors.ts';
import {
  BACKENDS,
  type BalancedServer,
  type BalancerSettings,
  CHECKED,
  serverWords,
} from './haproxy-config.ts';

const COMMAND_TIMEOUT_MS = 5_000;
const POLL_INTERVAL_MS = 20;
const ADDED = /registered/;

export class HaproxyRefused extends BanyanError {
  constructor(command: string, answer: string) {
    super('HAPROXY_REFUSED', {
      what: `HAProxy did not do it: ${answer.trim()}`,
      where: command,
      remedy: 'See `banyan logs balancer-1`; `banyan apply` puts the balancer right',
    });
  }
}

export class HaproxyUnreachable extends BanyanError {
  constructor(socket: string, cause: unknown) {
    super('HAPROXY_UNREACHABLE', {
      what: 'The load balancer does not answer on its control socket',
      where: socket,
      remedy: 'See `banyan status` whether it runs, and `banyan logs balancer-1` why not',
      cause,
    });
  }
}

/** A server as HAProxy sees it at this moment. */
export interface ServerStatistics {
  name: string;
  /** `UP`, `DOWN`, `MAINT`, `DRAIN`, … */
  status: string;
  /** Requests that it works on. */
  current: number;
  queued: number;
  /** Requests that it got since HAProxy started. */
  total: number;
  errors5xx: number;
  /** Connections that failed, and requests that were sent to another server after all. */
  connectionErrors: number;
  retries: number;
  redispatches: number;
  weight: number;
  /** Average over the last 1024 requests, in milliseconds. */
  responseMs: number;
}

export interface BalancerStatistics {
  servers: ServerStatistics[];
  /** Requests that wait because every server is busy. */
  queued: number;
  requestRate: number;
}

export class HaproxyRuntime {
  readonly #socket: string;

  constructor(socket: string) {
    this.#socket = socket;
  }

  /** Adds a server and lets it have requests. It must be ready. @throws HaproxyRefused */
  async add(server: BalancedServer, settings: BalancerSettings): Promise<void> {
    const { servers } = await this.statistics();
    if (servers.some(({ name }) => name === server.name)) await this.remove(server.name, 0);
    for (const backend of BACKENDS) {
      const target = `${backend}/${server.name}`;
      await this.#expect(`add server ${target} ${serverWords(server, settings, backend)}`, ADDED);
      // `add server` makes no cookie, and no word of it asks for one (HAProxy 2.6); this makes all of them.
      if (settings.stickyKey) await this.#expect(`enable dynamic-cookie backend ${backend}`);
      // A server that was added is in maintenance, and its checks are off.
      if (backend === CHECKED) await this.#expect(`enable health ${target}`);
      await this.#expect(`enable server ${target}`);
    }
  }

  /**
   * Takes a server out: it gets no new requests at once, those that it works on may finish.
   * Maintenance, not `drain`: a draining server still gets requests of clients whose connection
   * it served before.
   * @param timeoutMs how long to wait for requests in flight
   * @returns false when some were still in flight after that
   */
  async drain(name: string, timeoutMs: number): Promise<boolean> {
    // One that was started and never joined is not there.
    for (const backend of BACKENDS) {
      await this.#expect(`set server ${backend}/${name} state maint`, /^\s*$|No such server/);
    }
    const deadline = performance.now() + timeoutMs;
    for (;;) {
      const server = (await this.statistics()).servers.find(found => found.name === name);
      if (!server || server.current + server.queued === 0) return true;
      if (performance.now() > deadline) return false;
      await delay(POLL_INTERVAL_MS);
    }
  }

  /** Removes a server that is drained and stopped, so that no connection to it is left. @throws HaproxyRefused */
  async remove(name: string, timeoutMs: number): Promise<void> {
    for (const backend of BACKENDS) await this.#remove(`${backend}/${name}`, timeoutMs);
  }

  async #remove(target: string, timeoutMs: number): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    await this.#send(`set server ${target} state maint`);
    for (;;) {
      const answer = await this.#send(`del server ${target}`);
      if (/deleted|No such server/i.test(answer)) return;
      if (performance.now() > deadline) {
        await this.#send(`shutdown sessions server ${target}`);
        if (performance.now() > deadline + COMMAND_TIMEOUT_MS) {
          throw new HaproxyRefused(`del server ${target}`, answer);
        }
      }
      await delay(POLL_INTERVAL_MS);
    }
  }

  async setWeight(name: string, weight: number): Promise<void> {
    for (const backend of BACKENDS) await this.#expect(`set weight ${backend}/${name} ${weight}`);
  }

  async statistics(): Promise<BalancerStatistics> {
    const rows = parseStatistics(await this.#send('show stat'));
    const isOurs = ({ pxname = '' }: Row) => (BACKENDS as readonly string[]).includes(pxname);
    const ofServers = rows.filter(row => isOurs(row) && row.svname !== 'BACKEND');
    const ofBackends = rows.filter(row => isOurs(row) && row.svname === 'BACKEND');
    const frontend = rows.find(({ svname }) => svname === 'FRONTEND');
    return {
      servers: mergeServers(ofServers),
      queued: ofBackends.reduce((sum, row) => sum + numberIn(row, 'qcur'), 0),
      requestRate: frontend ? numberIn(frontend, 'req_rate') : 0,
    };
  }

  /** Of the settings that are in force. @throws HaproxyUnreachable */
  async revision(): Promise<string> {
    return /^Description: (.*)$/im.exec(await this.#send('show info'))?.[1]?.trim() ?? '';
  }

  /** Most commands answer nothing when they succeed. */
  async #expect(command: string, answer = /^\s*$/): Promise<void> {
    const got = await this.#send(command);
    if (!answer.test(got)) throw new HaproxyRefused(command, got);
  }

  #send(command: string): Promise<string> {
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    const connection = connect(this.#socket);
    let answer = '';
    connection.setTimeout(COMMAND_TIMEOUT_MS, () =>
      connection.destroy(new Error(`no answer within ${COMMAND_TIMEOUT_MS} ms`)),
    );
    connection.on('connect', () => connection.end(`${command}\n`));
    connection.setEncoding('utf8').on('data', chunk => {
      answer += chunk;
    });
    connection.on('end', () => resolve(answer));
    connection.on('error', error => {
      // The answer is complete; HAProxy only closed before we did.
      if (answer && hasCode(error, 'EPIPE', 'ECONNRESET')) resolve(answer);
      else reject(new HaproxyUnreachable(this.#socket, error));
    });
    return promise;
  }
}

type Row = Record<string, string>;

function numberIn(row: Row, key: string): number {
  return Number(row[key] || 0);
}

/** A server stands in each backend; its health is known in the checked one. */
function mergeServers(rows: Row[]): ServerStatistics[] {
  return rows
    .filter(({ pxname }) => pxname === CHECKED)
    .map(checked => {
      const all = rows.filter(({ svname }) => svname === checked.svname);
      const sum = (key: string) => all.reduce((total, row) => total + numberIn(row, key), 0);
      return {
        name: checked.svname ?? '',
        status: checked.status ?? '',
        current: sum('scur'),
        queued: sum('qcur'),
        total: sum('stot'),
        errors5xx: sum('hrsp_5xx'),
        connectionErrors: sum('econ'),
        retries: sum('wretr'),
        redispatches: sum('wredis'),
        weight: numberIn(checked, 'weight'),
        responseMs: Math.max(...all.map(row => numberIn(row, 'rtime'))),
      };
    });
}

/** CSV with a first line of names. No value of ours holds a comma. Pure. */
export function parseStatistics(csv: string): Row[] {
  const [head = '', ...lines] = csv.trim().split('\n');
  const names = head.replace(/^# /, '').split(',');
  return lines.map(line => {
    const values = line.split(',');
    return Object.fromEntries(names.map((name, index) => [name, values[index] ?? '']));
  });
}
