/**
 * The user's own web server as a unit: how its command is run, and when it counts as ready.
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { get } from '../machines/http.ts';
import { PROBE_VARIABLE, SOCKET_VARIABLE } from '../machines/inherit-socket.ts';
import { ownModule } from '../machines/own-module.ts';
import type {
  Diagnosis,
  EngineSupport,
  Labels,
  Readiness,
  SocketAddress,
  UnitSpec,
} from '../machines/unit.ts';

export interface WebServerOptions {
  name: string;
  /** The folder that the command runs in. */
  folder: string;
  command: string;
  host: string;
  port: number;
  /** Path of the readiness probe. */
  ready: string;
  startTimeoutMs: number;
  drainTimeoutMs: number;
  env: NodeJS.ProcessEnv;
  labels?: Labels;
  /** Set for a server that takes users' connections itself: the public socket, which the machine holds. */
  socket?: SocketAddress;
  /** Others serve the public socket too at the time of the start: one replaces another. */
  shares?: boolean;
  /** Path of a Unix socket on which such a server is asked whether it is ready. */
  probeSocket: string;
}

/** The process itself cuts off what is in flight after the drain; it gets this long to go on and exit. */
const EXIT_GRACE_MS = 2_000;

/** After the balancer, before the database. */
const RANK = 20;

const INHERIT_SOCKET = ownModule('machines/inherit-socket').href;

/** The first descriptor after standard input, output and error. */
const SOCKET_FD = 3;

export function webServerUnit(options: WebServerOptions): UnitSpec {
  const { name, host, port, ready, env, socket, probeSocket, labels } = options;
  return {
    name,
    tier: 'web',
    engine: 'web-server',
    ...applicationProcess(options, socket ? inheritance(env, probeSocket) : {}),
    rank: RANK,
    probe: {
      host: forProbe(host),
      port,
      path: ready,
      ...(socket ? { socket: probeSocket, shares: options.shares ? 1 : 0 } : {}),
    },
    ...(socket ? { sockets: [socket] } : {}),
    address: urlForPeople(host, port),
    ...(labels ? { labels } : {}),
  };
}

/** How a process of the user's application is started and stopped. @param more environment */
export function applicationProcess(
  options: Pick<
    WebServerOptions,
    'folder' | 'command' | 'host' | 'port' | 'env' | 'startTimeoutMs' | 'drainTimeoutMs'
  >,
  more: NodeJS.ProcessEnv,
): Pick<UnitSpec, 'command' | 'args' | 'cwd' | 'env' | 'stop' | 'startTimeoutMs'> {
  const { folder, command, host, port, env, startTimeoutMs, drainTimeoutMs } = options;
  return {
    command: '/bin/sh',
    args: ['-c', asOneProcess(command)],
    cwd: folder,
    env: {
      ...env,
      PATH: commandPath(folder, env.PATH),
      PORT: String(port),
      HOST: host,
      ...more,
    },
    stop: { signal: 'SIGTERM', group: true, timeoutMs: drainTimeoutMs + EXIT_GRACE_MS },
    startTimeoutMs,
  };
}

const NOT_TAKEN_OVER =
  'it does not listen on PORT, or is no Node program: such a one can only be replaced online behind a balancer (`balancer: {}` in banyan.config.ts)';

/** What makes a Node process serve the socket that it inherits; see `inherit-socket.ts`. */
function inheritance(env: NodeJS.ProcessEnv, probeSocket: string): NodeJS.ProcessEnv {
  return {
    [SOCKET_VARIABLE]: String(SOCKET_FD),
    [PROBE_VARIABLE]: probeSocket,
    NODE_OPTIONS: [env.NODE_OPTIONS, `--import=${INHERIT_SOCKET}`].filter(Boolean).join(' '),
  };
}

export const webServerEngine: EngineSupport = {
  async probe({ probe: { host, port, path: ready, socket, shares } }, _pid, signal) {
    const target = { host: String(host), port: Number(port), path: String(ready) };
    if (socket === undefined) return probeHttp(target, signal);
    if (existsSync(String(socket))) {
      return probeHttp({ ...target, socketPath: String(socket) }, signal);
    }
    // On the public port the one that is to be replaced would answer.
    if (shares) return { ready: false, reason: NOT_TAKEN_OVER };
    return probeHttp(target, signal);
  },
  diagnose: ({ probe: { port } }, lastWords) =>
    portTaken(lastWords, Number(port)) ?? diagnoseApplication(lastWords, 'web.command'),
};

/**
 * A plain command takes the shell's place instead of running below it: one process less, and signals
 * go where they are meant.
 */
function asOneProcess(command: string): string {
  return /[&|;<>()$`\n=]/.test(command) ? command : `exec ${command}`;
}

/**
 * As in an npm script, the programs of the application's packages come first; then the Node that
 * runs Banyan, so that `node server.ts` means a Node that can run TypeScript.
 */
export function commandPath(folder: string, rest = ''): string {
  const folders: string[] = [];
  for (let at = folder; ; at = path.dirname(at)) {
    folders.push(path.join(at, 'node_modules', '.bin'));
    if (at === path.dirname(at)) break;
  }
  return [...folders, path.dirname(process.execPath), rest].join(path.delimiter);
}

/** @property refused nobody listens there */
export type HttpReadiness = Readiness & { refused?: boolean };

/**
 * 200 is ready; so is any other answer below 500, since it shows a server that works and knows no
 * such path, or wants a login for it.
 */
export function probeHttp(
  target: { host: string; port: number; path: string; socketPath?: string },
  signal: AbortSignal,
): Promise<HttpReadiness> {
  const { port, path: ready } = target;
  const { promise, resolve } = Promise.withResolvers<HttpReadiness>();
  const request = get(
    { ...target, signal, agent: false, headers: { 'user-agent': 'banyan' } },
    response => {
      const { statusCode = 0 } = response;
      const body: Buffer[] = [];
      response.on('data', (chunk: Buffer) => body.push(chunk));
      response.on('error', error => resolve({ ready: false, reason: error.message }));
      response.on('end', () => {
        if (statusCode < 500) resolve({ ready: true });
        else {
          const text = Buffer.concat(body).toString().slice(0, 300).trim();
          resolve({
            ready: false,
            reason: `${ready} answers ${statusCode}${text ? `: ${text}` : ''}`,
          });
        }
      });
    },
  );
  request.on('error', error => {
    const refused = 'code' in error && error.code === 'ECONNREFUSED';
    resolve({
      ready: false,
      refused,
      reason: refused
        ? `nothing listens on port ${port}; the command has to listen on the PORT that it is given`
        : `${ready} does not answer: ${error.message}`,
    });
  });
  return promise;
}

/** `localhost` is tried over IPv4 and IPv6, so a server that chose either is found. */
function forProbe(host: string): string {
  return ['0.0.0.0', '::', '127.0.0.1', '::1'].includes(host) ? 'localhost' : host;
}

/** Where people reach it: what listens everywhere is reached at home. */
export function urlForPeople(host: string, port: number): string {
  if (host === '0.0.0.0' || host === '::') return `http://localhost:${port}`;
  return `http://${host.includes(':') ? `[${host}]` : host}:${port}`;
}

function portTaken(lastWords: string[], port: number): Diagnosis | undefined {
  if (!/EADDRINUSE/.test(lastWords.join('\n'))) return undefined;
  return {
    what: 'a port that it wants is in use',
    remedy: `Banyan gave it PORT=${port}, which was free: let the application listen on process.env.PORT instead of a fixed number`,
  };
}

/** @param setting of the topology that names the command */
export function diagnoseApplication(lastWords: string[], setting: string): Diagnosis | undefined {
  const missing = /Cannot find (?:module|package) '([^']+)'/.exec(lastWords.join('\n'))?.[1];
  if (!missing) return undefined;
  return {
    what: `it cannot find ${missing}`,
    remedy: `Run \`npm install\` in the application folder, and check the path in \`${setting}\``,
  };
}
