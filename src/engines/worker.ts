/**
 * The user's own worker as a unit: the process that does what web servers publish. It serves nobody, so nobody can ask
 * it whether it works; what tells is that it goes on running.
 *
 * Holds true here: one that works on the queue says itself when it takes messages, in a file that it is told of
 * (app/lifecycle/ready-file.ts). One that listens on the PORT that it is given says so there. Any other is ready when it has run for
 * `RUNS_MS`: what fails at once (a package that is missing, a mistake in the file) has failed by then.
 */
import { readFile } from 'node:fs/promises';
import type { EngineSupport, Labels, UnitSpec } from '../machines/unit.ts';
import { asOneProcess, commandPath, diagnoseApplication, probeHttp } from './web-server.ts';

export interface WorkerOptions {
  name: string;
  /** The folder that the command runs in. */
  folder: string;
  command: string;
  /** Where it may answer for its readiness; most do not. */
  host: string;
  port: number;
  /** Where it may say that it takes messages. */
  readyFile: string;
  startTimeoutMs: number;
  drainTimeoutMs: number;
  /** Of JavaScript's heap; unset: what Node takes. */
  memoryMb?: number | undefined;
  env: NodeJS.ProcessEnv;
  labels?: Labels;
}

/** A job that is cut off after the drain is handed back, and the process ends; for that it gets this long. */
const EXIT_GRACE_MS = 2_000;

/** After the web servers, which may wait for results; before the cache, the queue and the database. */
const RANK = 18;

/** Longer than a program takes to begin on a machine that is busy. */
const RUNS_MS = 3_000;

/** As app/lifecycle/ready-file.ts has it, which this room does not import. */
const READY_FILE_VARIABLE = 'BANYAN_READY_FILE';

const READY_PATH = '/readyz';

export function workerUnit(options: WorkerOptions): UnitSpec {
  const { name, folder, command, host, port, startTimeoutMs, drainTimeoutMs, memoryMb } = options;
  const { env, labels, readyFile } = options;
  const heap = memoryMb === undefined ? [] : [`--max-old-space-size=${memoryMb}`];
  const nodeOptions = [env.NODE_OPTIONS, ...heap].filter(Boolean).join(' ');
  return {
    name,
    tier: 'workers',
    engine: 'worker',
    command: '/bin/sh',
    args: ['-c', asOneProcess(command)],
    cwd: folder,
    env: {
      ...env,
      PATH: commandPath(folder, env.PATH),
      PORT: String(port),
      HOST: host,
      [READY_FILE_VARIABLE]: readyFile,
      ...(nodeOptions ? { NODE_OPTIONS: nodeOptions } : {}),
    },
    stop: { signal: 'SIGTERM', group: true, timeoutMs: drainTimeoutMs + EXIT_GRACE_MS },
    rank: RANK,
    startTimeoutMs,
    probe: { host, port, readyFile },
    ...(labels ? { labels } : {}),
  };
}

/** Since when each run is asked: a probe is told the process, not when it began. */
const firstAsked = new Map<string, { pid: number; at: number }>();

export const workerEngine: EngineSupport = {
  async probe({ name, probe: { host, port, readyFile } }, pid, signal) {
    const now = performance.now();
    const known = firstAsked.get(name);
    const since = known?.pid === pid ? known.at : now;
    firstAsked.set(name, { pid, at: since });
    const said = await readState(String(readyFile));
    if (said === 'ready') return { ready: true };
    if (said === 'starting') return { ready: false, reason: 'it takes no messages yet' };
    const target = { host: String(host), port: Number(port), path: READY_PATH };
    const answer = await probeHttp(target, signal);
    if (answer.ready || answer.refused !== true) return answer;
    return now - since >= RUNS_MS
      ? { ready: true }
      : { ready: false, reason: 'it has only just begun to run' };
  },
  diagnose: (_spec, lastWords) => diagnoseApplication(lastWords, 'workers.command'),
};

/** What a process that still runs has said of itself. */
async function readState(file: string): Promise<string | undefined> {
  try {
    const [state, pid] = (await readFile(file, 'utf8')).trim().split(' ');
    process.kill(Number(pid), 0);
    return state;
  } catch {
    return undefined;
  }
}
