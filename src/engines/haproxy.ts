/**
 * HAProxy as a unit: the load balancer in front of the web servers.
 *
 * Holds true here:
 * - A configuration is checked by HAProxy itself before anything uses it.
 * - It serves sockets that belong to the machine (see `listening-socket.ts`), so it takes over from a
 *   single web server, restarts and reloads without refusing a connection.
 */
import { execFile } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';
import { BanyanError } from '../errors.ts';
import type {
  Diagnosis,
  EngineSupport,
  Labels,
  SocketAddress,
  UnitSpec,
} from '../machines/unit.ts';
import { findProgram } from './find-program.ts';
import { HaproxyRuntime } from './haproxy-runtime.ts';

/** It takes requests: the first to be stopped. */
const RANK = 30;
const START_TIMEOUT_MS = 10_000;
/** After the drain it ends by itself (`hard-stop-after`). */
const EXIT_GRACE_MS = 2_000;

export class HaproxyMissing extends BanyanError {
  constructor() {
    super('HAPROXY_MISSING', {
      what: 'More than one web server needs a load balancer, and HAProxy is not installed',
      where: 'haproxy',
      remedy:
        'Install it: `sudo apt-get install -y --no-install-recommends haproxy` (macOS: `brew install haproxy`)',
    });
  }
}

export class HaproxyConfigInvalid extends BanyanError {
  constructor(file: string, output: string) {
    super('HAPROXY_CONFIG_INVALID', {
      what: `HAProxy does not take its configuration:\n${complaints(output)}\n`,
      where: file,
      remedy: 'The running balancer was left as it is. Check `balancer` in banyan.config.ts',
    });
  }
}

/** Without its greetings. */
function complaints(output: string): string {
  const lines = output.trim().split('\n');
  const bad = lines.filter(line => /^\[(ALERT|WARNING)\]/.test(line));
  return (bad.length > 0 ? bad : lines)
    .map(line => line.replace(/^(\[\w+\])\s+\(\d+\) : /, '$1 '))
    .join('\n');
}

/** @throws HaproxyMissing */
export function findHaproxy(searchPath?: string, systemFolders?: readonly string[]): string {
  const found = findProgram('haproxy', searchPath, systemFolders);
  if (!found) throw new HaproxyMissing();
  return found;
}

/** Lets HAProxy read a file and say what it thinks of it. @throws HaproxyConfigInvalid, HaproxyMissing */
export async function checkHaproxyConfig(file: string): Promise<void> {
  // Without `-q`, which leaves out what is wrong too.
  try {
    // The sockets' descriptors are not there in this process; standard input stands in for them.
    await promisify(execFile)('/bin/sh', [
      '-c',
      'exec "$0" -c -f "$1" 3<&0 4<&0',
      findHaproxy(),
      file,
    ]);
  } catch (error) {
    const { stderr = '', stdout = '' } = error as { stderr?: string; stdout?: string };
    throw new HaproxyConfigInvalid(file, stderr || stdout || (error as Error).message);
  }
}

export interface HaproxyUnitOptions {
  name: string;
  configFile: string;
  runtimeSocket: string;
  /** The plain one first, then the one for TLS. */
  sockets: SocketAddress[];
  drainTimeoutMs: number;
  labels: Labels;
  address: string;
}

/** The unit that runs it. The configuration has to be there and checked. */
export function haproxyUnit(options: HaproxyUnitOptions): UnitSpec {
  const { name, configFile, runtimeSocket, sockets, drainTimeoutMs, labels, address } = options;
  return {
    name,
    tier: 'balancer',
    engine: 'haproxy',
    command: findHaproxy(),
    // A master that starts workers: SIGUSR2 to it is a reload.
    args: ['-W', '-db', '-f', configFile],
    cwd: path.dirname(configFile),
    env: { PATH: process.env.PATH },
    // USR1: no new connections, those in flight finish.
    stop: { signal: 'SIGUSR1', group: true, timeoutMs: drainTimeoutMs + EXIT_GRACE_MS },
    rank: RANK,
    startTimeoutMs: START_TIMEOUT_MS,
    probe: { runtimeSocket },
    sockets,
    address,
    labels,
  };
}

export const haproxyEngine: EngineSupport = {
  async probe({ probe: { runtimeSocket } }) {
    try {
      await new HaproxyRuntime(String(runtimeSocket)).revision();
      return { ready: true };
    } catch (error) {
      return { ready: false, reason: (error as Error).message };
    }
  },
  diagnose: (_spec, lastWords) => diagnose(lastWords),
};

function diagnose(lastWords: string[]): Diagnosis | undefined {
  const text = lastWords.join('\n');
  if (/cannot bind UNIX socket/.test(text)) {
    return {
      what: 'its control socket cannot be made',
      remedy: 'See that `.banyan/run` can be written, or set TMPDIR to a shorter path',
    };
  }
  return undefined;
}
