/** What runs on this machine for a deployment: asked from the kernel, not from Banyan. Linux. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';

export interface Found {
  pid: number;
  command: string;
}

/** Processes that have the folder in their command line, their environment, or as their working folder. */
export function processesOf(folder: string): Found[] {
  return readdirSync('/proc')
    .filter(name => /^\d+$/.test(name) && Number(name) !== process.pid)
    .flatMap(name => {
      const command = read(`/proc/${name}/cmdline`);
      // A zombie has no command line any more.
      if (command === '') return [];
      const traces = [command, read(`/proc/${name}/environ`), workingFolder(name)];
      if (!traces.some(text => text.includes(folder))) return [];
      return [{ pid: Number(name), command: command.replaceAll('\0', ' ').trim() }];
    });
}

/** To each of them that is still there: the short-lived end between the look and the signal. */
export function signalAll(pids: Iterable<number>, name: NodeJS.Signals): void {
  for (const pid of pids) {
    try {
      process.kill(pid, name);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
    }
  }
}

/** Resolves when nothing of the folder runs; fails with what still does. */
export async function nothingRuns(folder: string, timeoutMs = 20_000): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const left = processesOf(folder);
    if (left.length === 0) return;
    if (performance.now() > deadline) {
      throw new Error(
        `still running: ${left.map(({ pid, command }) => `${pid} ${command}`).join('; ')}`,
      );
    }
    await delay(25);
  }
}

function read(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}

function workingFolder(pid: string): string {
  try {
    return readlinkSync(`/proc/${pid}/cwd`);
  } catch {
    return '';
  }
}
