/**
 * TCP ports: which are free, and who sits on one that is not.
 */
import { execFile } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { createServer, type ListenOptions, type Server } from 'node:net';
import path from 'node:path';
import { promisify } from 'node:util';
import { BanyanError, hasCode } from '../errors.ts';
import { UnitStartFailed } from './unit-process.ts';

export class PortInUse extends BanyanError {
  constructor(port: number, host: string, holder: string | undefined, remedy: string) {
    super('PORT_IN_USE', {
      what: `Port ${port} is in use${holder ? ` by ${holder}` : ''}`,
      where: `${host}:${port}`,
      remedy,
    });
  }
}

export class AddressNotHere extends BanyanError {
  constructor(host: string, reason: string, where = 'web.host') {
    super('ADDRESS_NOT_HERE', {
      what: `This machine cannot listen on ${host}: ${reason}`,
      where,
      remedy: 'Use 127.0.0.1 for this machine alone, 0.0.0.0 for everyone who can reach it',
    });
  }
}

/** A unit listens within this time after its port was chosen: a new PostgreSQL makes its files first, a RabbitMQ starts Erlang. */
const RESERVED_MS = 60_000;

/** Few programs have a port of their own here, and Linux, macOS and Kubernetes give none of these to others by themselves. */
const FIRST_PORT = 20_000;
const LAST_PORT = 29_999;
/** Then it is one of those that the system gives. */
const MAX_TRIES = 200;

/**
 * A port that was free a moment ago, and that nobody else is given by this function for a minute. None of those that the system gives to
 * connections that go out: one that had it would keep a unit that is started again from its port for as long as it lasts. Whoever takes
 * it has to be ready to lose a race for it with other programs.
 */
export async function freePort(host = '127.0.0.1'): Promise<number> {
  const isOutgoing = outgoingPorts();
  for (let tries = 1; ; tries++) {
    const chosen = tries > MAX_TRIES ? 0 : randomInt(FIRST_PORT, LAST_PORT + 1);
    if (isOutgoing(chosen)) continue;
    const port = await tryListen(chosen, host);
    if (port === undefined && chosen === 0) throw new Error('the system gave no free port');
    if (port !== undefined && (await reserve(port))) return port;
  }
}

/** ip(7): `ip_local_port_range`. */
function outgoingPorts(): (port: number) => boolean {
  if (process.platform !== 'linux') return () => false;
  try {
    const text = readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'utf8');
    const [first, last] = text.trim().split(/\s+/).map(Number) as [number, number];
    return port => port >= first && port <= last;
  } catch {
    return () => false;
  }
}

/**
 * By a socket of Linux's abstract namespace, which all processes see and which goes with its process; elsewhere, and where that may not be
 * made, there is no such thing.
 * @returns false when another has reserved it
 */
async function reserve(port: number): Promise<boolean> {
  if (process.platform !== 'linux') return true;
  try {
    const server = await listenAt({ path: `\0banyan-port-${port}` });
    if (!server) return false;
    setTimeout(() => server.close(), RESERVED_MS).unref();
  } catch {
    // The race may be lost, as elsewhere.
  }
  return true;
}

/** Between choosing a free port and listening on it another program may take it; then the next one is tried. */
const ATTEMPTS = 3;

/**
 * Starts something on a free port, and on another when that one was lost in between, or another that it chose by itself.
 * @param choose a port that is free now
 * @throws what `start` throws, when that had another reason
 */
export async function onFreePort<T>(
  host: string,
  choose: () => Promise<number>,
  start: (port: number) => Promise<T>,
): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    const port = await choose();
    try {
      return await start(port);
    } catch (error) {
      const isLost = error instanceof UnitStartFailed && error.lostPort;
      if (attempt >= ATTEMPTS || (!isLost && (await isPortFree(port, host)))) throw error;
    }
  }
}

export async function isPortFree(port: number, host: string): Promise<boolean> {
  return (await tryListen(port, host)) !== undefined;
}

/** The port that was listened on for a moment; undefined when it is taken. */
async function tryListen(port: number, host: string): Promise<number | undefined> {
  try {
    const server = await listenAt({ port, host, exclusive: true });
    if (!server) return undefined;
    const address = server.address();
    await new Promise(resolve => server.close(resolve));
    return typeof address === 'object' && address ? address.port : port;
  } catch (error) {
    if (hasCode(error, 'EADDRNOTAVAIL', 'ENOTFOUND', 'EACCES'))
      throw new AddressNotHere(host, (error as Error).message);
    throw error;
  }
}

/** What listens there now, and keeps no process alive; undefined when the place is taken. */
function listenAt(place: ListenOptions): Promise<Server | undefined> {
  const { promise, resolve, reject } = Promise.withResolvers<Server | undefined>();
  const server = createServer();
  server.unref();
  server.once('error', error =>
    hasCode(error, 'EADDRINUSE') ? resolve(undefined) : reject(error),
  );
  server.listen(place, () => resolve(server));
  return promise;
}

/** Who listens on a port, as text for people; undefined when the system does not tell. */
export async function portHolder(port: number): Promise<string | undefined> {
  if (process.platform === 'linux') return holderOnLinux(port);
  try {
    const run = promisify(execFile);
    const { stdout } = await run('lsof', ['-nP', `-iTCP:${port}`, '-sTCP:LISTEN', '-Fpc']);
    const pid = /^p(\d+)/m.exec(stdout)?.[1];
    const name = /^c(.+)/m.exec(stdout)?.[1];
    return pid && `${name ?? 'a process'} (pid ${pid})`;
  } catch {
    return undefined;
  }
}

/** In the kernel's tables (proc(5)), so that no tool has to be installed: port → inode → process. */
function holderOnLinux(port: number): string | undefined {
  const inodes = new Set(
    ['/proc/net/tcp', '/proc/net/tcp6'].flatMap(table => listening(table, port)),
  );
  if (inodes.size === 0) return undefined;
  for (const pid of readdirSync('/proc').filter(name => /^\d+$/.test(name))) {
    try {
      for (const fd of readdirSync(`/proc/${pid}/fd`)) {
        const inode = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1];
        if (!inode || !inodes.has(inode)) continue;
        return `${nameOf(pid)} (pid ${pid})`;
      }
    } catch {
      // Another account's process, or one that has just ended.
    }
  }
  return undefined;
}

/** The program and, of an interpreter, the script: `node server.js`. Not its other arguments: they may be secret. */
function nameOf(pid: string): string {
  const [program = '', script] = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
  const words = [path.basename(program)];
  if (script && /\.[cm]?[jt]s$|\.py$|\.rb$/.test(script)) words.push(path.basename(script));
  return words.join(' ');
}

/** Inodes of the sockets that listen on a port. Fields: 2 is the local address, 4 the state, 10 the inode. */
function listening(table: string, port: number): string[] {
  const LISTEN = '0A';
  const wanted = port.toString(16).toUpperCase().padStart(4, '0');
  let text: string;
  try {
    text = readFileSync(table, 'utf8');
  } catch {
    return [];
  }
  return text
    .split('\n')
    .map(line => line.trim().split(/\s+/))
    .filter(([, local, , state]) => state === LISTEN && local?.endsWith(`:${wanted}`))
    .map(fields => fields[9]!);
}
