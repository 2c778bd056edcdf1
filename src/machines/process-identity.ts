/**
 * Which process a number means.
 *
 * A process id is used again after its process ended, at once after a restart of a container. So
 * wherever a pid is remembered, the moment of its start is remembered with it, and the two together
 * are the process's identity. Nothing is ever signalled on a bare pid from a file.
 */
import { execFile } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { hasCode } from '../errors.ts';

export interface ProcessIdentity {
  pid: number;
  /** Opaque: equal for the same process, different for another one with the same pid. */
  started: string;
}

/** The identity of a running process; undefined when there is none with this pid. */
export async function identify(pid: number): Promise<ProcessIdentity | undefined> {
  const started = process.platform === 'linux' ? await startedOnLinux(pid) : await startedByPs(pid);
  return started === undefined ? undefined : { pid, started };
}

/** True while this very process runs. A zombie has ended: it holds nothing any more. */
export async function isRunning(identity: ProcessIdentity): Promise<boolean> {
  return (await identify(identity.pid))?.started === identity.started;
}

/**
 * Waits until the process has ended.
 * @returns false if it was still there after `timeoutMs`
 */
export async function waitForEnd(identity: ProcessIdentity, timeoutMs: number): Promise<boolean> {
  const deadline = performance.now() + timeoutMs;
  while (await isRunning(identity)) {
    if (performance.now() >= deadline) return false;
    await delay(20);
  }
  return true;
}

/**
 * Sends a signal to a process, or to its whole group.
 * @returns false when nobody is there to get it
 */
export function sendSignal(pid: number, signal: NodeJS.Signals | 0, group: boolean): boolean {
  try {
    process.kill(group ? -pid : pid, signal);
    return true;
  } catch (error) {
    if (hasCode(error, 'ESRCH')) return false;
    throw error;
  }
}

/**
 * True while a process of the group runs. Zombies do not count: where nobody collects orphans at once (a
 * container whose first process does not care) they stay, and a signal to the group still "arrives".
 */
export async function groupRuns(group: number): Promise<boolean> {
  if (!sendSignal(group, 0, true)) return false;
  if (process.platform !== 'linux') return true;
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    // Fields 3 (state) and 5 (group).
    const [state, , inGroup] = await statFields(Number(name));
    if (Number(inGroup) === group && state !== 'Z' && state !== 'X') return true;
  }
  return false;
}

/** The command line of a running process, for people and for telling programs apart. */
export async function commandOf(pid: number): Promise<string | undefined> {
  if (process.platform === 'linux') {
    const text = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => undefined);
    return text?.replaceAll('\0', ' ').trim();
  }
  return ps('args=', pid);
}

/** Fields 3 (state) and 22 (start, in ticks since boot) of proc(5); the boot's id tells reboots apart. */
async function startedOnLinux(pid: number): Promise<string | undefined> {
  const fields = await statFields(pid);
  if (fields.length === 0 || fields[0] === 'Z' || fields[0] === 'X') return undefined;
  return `${await bootId()}:${fields[19]}`;
}

/** The fields of proc(5)'s `stat` from the third on; none when there is no such process. */
async function statFields(pid: number): Promise<string[]> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined);
  // The second field is the program's name in brackets, which may hold blanks and brackets itself.
  return stat?.slice(stat.lastIndexOf(')') + 2).split(' ') ?? [];
}

let knownBootId: string | undefined;
async function bootId(): Promise<string> {
  knownBootId ??= (
    await readFile('/proc/sys/kernel/random/boot_id', 'utf8').catch(() => 'unknown')
  ).trim();
  return knownBootId;
}

async function startedByPs(pid: number): Promise<string | undefined> {
  const text = await ps('state=,lstart=', pid);
  return text && !text.startsWith('Z') ? text.replace(/^\S+\s+/, '') : undefined;
}

async function ps(format: string, pid: number): Promise<string | undefined> {
  try {
    const { stdout } = await promisify(execFile)('ps', ['-o', format, '-p', String(pid)]);
    return stdout.trim() || undefined;
  } catch {
    return undefined;
  }
}
