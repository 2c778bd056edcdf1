/**
 * Ends what an earlier supervisor left running.
 *
 * Ended, not adopted: an adopted process would write its log into a pipe that nobody reads, and
 * nobody would learn of its exit. PostgreSQL is back within a tenth of a second anyway.
 */
import { readFile } from 'node:fs/promises';
import { BanyanError } from '../errors.ts';
import { commandOf, identify, isRunning, sendSignal, waitForEnd } from './process-identity.ts';
import type { UnitRecord, UnitRecords } from './records.ts';
import type { DetachedProcess, StopRule } from './unit.ts';

/** A process that was killed may need this long to vanish when the machine is busy. */
const KILL_TIMEOUT_MS = 10_000;

export class LeftoverStays extends BanyanError {
  constructor(name: string, pid: number) {
    super('LEFTOVER_STAYS', {
      what: `A process of an earlier start does not end, even when killed: ${name}, pid ${pid}`,
      where: name,
      remedy: `It may hang on a disk that does not answer. Look at it with \`ps -o pid,stat,wchan,args -p ${pid}\``,
    });
  }
}

/**
 * Stops every recorded unit that still runs, last started first, and removes the records.
 * @returns the names of those that did run
 * @throws LeftoverStays
 */
export async function endLeftovers(records: UnitRecords): Promise<string[]> {
  const ended: string[] = [];
  for (const record of records.all()) {
    const runs = await isRunning(record);
    if (runs) await endProcess(record.name, record, record.stop);
    const left = record.detached && (await endDetached(record.name, record.detached));
    if (runs || left) ended.push(record.name);
    records.remove(record.name);
  }
  return ended;
}

/**
 * Asks a process to stop, and kills it when it does not in time.
 * @throws LeftoverStays
 */
export async function endProcess(
  name: string,
  process: Pick<UnitRecord, 'pid' | 'started'>,
  stop: StopRule,
): Promise<void> {
  sendSignal(process.pid, stop.signal, stop.group);
  // A process that was stopped with SIGSTOP gets no signal before it goes on.
  sendSignal(process.pid, 'SIGCONT', stop.group);
  if (await waitForEnd(process, stop.timeoutMs)) return;
  sendSignal(process.pid, 'SIGKILL', stop.group);
  if (!(await waitForEnd(process, KILL_TIMEOUT_MS))) throw new LeftoverStays(name, process.pid);
}

/**
 * Ends the process that a pid file names, if it is the one that is meant.
 * @returns whether it ran
 * @throws LeftoverStays
 */
export async function endDetached(
  name: string,
  { pidFile, commandHas, stop }: DetachedProcess,
): Promise<boolean> {
  const text = await readFile(pidFile, 'utf8').catch(() => '');
  const identity = await identify(Number.parseInt(text, 10));
  if (!identity || !(await commandOf(identity.pid))?.includes(commandHas)) return false;
  await endProcess(name, identity, stop);
  return true;
}
