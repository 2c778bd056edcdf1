/**
 * The user's own worker as a unit: the process that does what web servers publish. It serves nobody, so nobody can ask
 * it whether it works; what tells is that it goes on running.
 *
 * Holds true here: one that works on the queue says itself when it takes messages, in a file that it is told of
 * (app/lifecycle/ready-file.ts). One that listens on the PORT that it is given says so there. Any other is ready when it has
 * run for `RUNS_MS` and come to rest: what fails at once (a package that is missing, a mistake in the file) has failed by then. By
 * the clock alone a program that a busy machine is still loading would count as one that runs.
 */
import { readFile } from 'node:fs/promises';
import { ticksOfGroups } from '../machines/process-time.ts';
import type { EngineSupport, Labels, UnitSpec } from '../machines/unit.ts';
import { applicationProcess, diagnoseApplication, probeHttp } from './web-server.ts';

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

/** After the web servers, which may wait for results; before the cache, the queue and the database. */
const RANK = 18;

const RUNS_MS = 2_000;
/** Who has used less than this of a processor for so long is at rest. */
const REST_MS = 1_000;
const REST_TICKS = 2;
/** Who has been at work for so long since its start is taken to be at its work. */
const AT_WORK_MS = 15_000;

/** As app/lifecycle/ready-file.ts has it, which this room does not import. */
const READY_FILE_VARIABLE = 'BANYAN_READY_FILE';

const READY_PATH = '/readyz';

export function workerUnit(options: WorkerOptions): UnitSpec {
  const { name, host, port, memoryMb, env, labels, readyFile } = options;
  const heap = memoryMb === undefined ? [] : [`--max-old-space-size=${memoryMb}`];
  const nodeOptions = [env.NODE_OPTIONS, ...heap].filter(Boolean).join(' ');
  return {
    name,
    tier: 'workers',
    engine: 'worker',
    ...applicationProcess(options, {
      [READY_FILE_VARIABLE]: readyFile,
      ...(nodeOptions ? { NODE_OPTIONS: nodeOptions } : {}),
    }),
    rank: RANK,
    probe: { host, port, readyFile },
    ...(labels ? { labels } : {}),
  };
}

/** Of each unit's present run: a probe is told the process, not when it began. */
const runs = new Map<string, { pid: number; since: number; ticks: number; restSince: number }>();

export const workerEngine: EngineSupport = {
  async probe({ name, probe: { host, port, readyFile } }, pid, signal) {
    const isRunning = comesToRest(name, pid, performance.now());
    const said = await readState(String(readyFile));
    if (said === 'ready') return { ready: true };
    if (said === 'starting') return { ready: false, reason: 'it takes no messages yet' };
    const target = { host: String(host), port: Number(port), path: READY_PATH };
    const answer = await probeHttp(target, signal);
    if (answer.ready || answer.refused !== true) return answer;
    return isRunning ? { ready: true } : { ready: false, reason: 'it has only just begun to run' };
  },
  diagnose: (_spec, lastWords) => diagnoseApplication(lastWords, 'workers.command'),
};

function comesToRest(name: string, pid: number, now: number): boolean {
  const ticks = ticksOfGroups(new Set([pid])).get(pid) ?? 0;
  const known = runs.get(name);
  const run = known?.pid === pid ? known : { pid, since: now, ticks, restSince: now };
  if (ticks - run.ticks > REST_TICKS) Object.assign(run, { ticks, restSince: now });
  runs.set(name, run);
  const ranMs = now - run.since;
  return (ranMs >= RUNS_MS && now - run.restSince >= REST_MS) || ranMs >= AT_WORK_MS;
}

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
