/**
 * One supervisor for a deployment: a lock file that names its holder.
 *
 * The file is made by `link`, which either makes it with its whole content or fails because it is
 * there. A lock whose holder no longer runs is stale and taken over; whoever moves a stale lock out of
 * the way looks at what it moved, so that two at the same time cannot both win.
 */
import { randomBytes } from 'node:crypto';
import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { BanyanError, hasCode } from '../errors.ts';
import { identify, isRunning, type ProcessIdentity } from './process-identity.ts';

export class AlreadyRunning extends BanyanError {
  /** Of who holds it. */
  readonly pid: number;

  constructor(where: string, pid: number) {
    super('ALREADY_RUNNING', {
      what: `This deployment is already up, under the supervisor with pid ${pid}`,
      where,
      remedy: 'See it with `banyan status`; stop it with `banyan down`',
    });
    this.pid = pid;
  }
}

/** Two that race for a stale lock may each have to look again; more rounds mean something is wrong. */
const ROUNDS = 10;

/**
 * Takes the lock for this process.
 * @returns a function that gives it back
 * @throws AlreadyRunning
 */
export async function takeLock(file: string): Promise<() => void> {
  const self = await identify(process.pid);
  if (!self) throw new Error('this process cannot find itself');
  const text = JSON.stringify(self);

  for (let round = 0; round < ROUNDS; round++) {
    const own = `${file}.${process.pid}.${randomBytes(4).toString('hex')}`;
    writeFileSync(own, text, { mode: 0o600 });
    try {
      linkSync(own, file);
      return () => {
        if (read(file) === text) rmSync(file, { force: true });
      };
    } catch (error) {
      if (!hasCode(error, 'EEXIST')) throw error;
    } finally {
      rmSync(own, { force: true });
    }
    const found = read(file);
    const holder = found === undefined ? undefined : parse(found);
    if (holder && (await isRunning(holder))) throw new AlreadyRunning(file, holder.pid);
    if (found !== undefined) moveAway(file, found);
  }
  throw new BanyanError('LOCK_CONTENDED', {
    what: 'The lock of this deployment changes hands too fast',
    where: file,
    remedy: 'Several `banyan up` run at the same time; start one',
  });
}

/** The process that holds the lock; undefined when nobody does. */
export async function lockHolder(file: string): Promise<ProcessIdentity | undefined> {
  const found = read(file);
  const holder = found === undefined ? undefined : parse(found);
  return holder && (await isRunning(holder)) ? holder : undefined;
}

function moveAway(file: string, stale: string): void {
  const aside = `${file}.stale.${process.pid}`;
  try {
    renameSync(file, aside);
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return;
    throw error;
  }
  // Another took the stale lock over in between, and this is its new one: give it back.
  if (read(aside) !== stale) linkSync(aside, file);
  rmSync(aside, { force: true });
}

function read(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined;
    throw error;
  }
}

function parse(text: string): ProcessIdentity | undefined {
  try {
    const value = JSON.parse(text) as ProcessIdentity;
    return Number.isInteger(value.pid) ? value : undefined;
  } catch {
    return undefined;
  }
}
