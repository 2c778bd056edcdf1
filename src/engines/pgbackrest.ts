/**
 * pgBackRest: found, run, and its answers understood. Each run is a process of its own that ends.
 *
 * Holds true here:
 * - It runs as the database's account, so that nothing in the repository belongs to anybody else.
 * - Passwords are in its environment, never on its command line.
 */
import { type ChildProcessByStdio, execFileSync, spawn } from 'node:child_process';
import type { Readable } from 'node:stream';
import { BanyanError } from '../errors.ts';
import type { Account } from '../machines/unit.ts';
import { findProgram } from './find-program.ts';

export class BackrestMissing extends BanyanError {
  constructor() {
    super('PGBACKREST_MISSING', {
      what: 'Backups need pgBackRest, and it is not installed',
      where: 'pgbackrest',
      remedy:
        'Install it: `sudo apt-get install -y --no-install-recommends pgbackrest` (macOS: `brew install pgbackrest`)',
    });
  }
}

export class BackupUnderWay extends BanyanError {
  constructor() {
    super('BACKUP_UNDER_WAY', {
      what: 'A backup is under way already',
      where: 'banyan status',
      remedy: 'Wait for it to end; `banyan backups` shows it then',
    });
  }
}

export class BackrestFailed extends BanyanError {
  /** pgBackRest's own number of the error, such as 82 for log that did not arrive in time; 0 when it gave none. */
  readonly number: number;

  constructor(command: string, output: string) {
    const { what, remedy } = diagnose(output);
    super('PGBACKREST_FAILED', {
      what: `pgBackRest could not carry out \`${command}\`: ${what}`,
      where: 'pgbackrest',
      remedy: remedy ?? 'Nothing that was there before is lost. Correct what it says and try again',
    });
    this.number = errorOf(output).number;
  }
}

/** @throws BackrestMissing */
export function findBackrest(): string {
  const found = findProgram('pgbackrest');
  if (!found) throw new BackrestMissing();
  return found;
}

/** Such as `2.45`. @throws BackrestMissing */
export function backrestVersion(): string {
  const text = execFileSync(findBackrest(), ['version'], { encoding: 'utf8' });
  return /(\d+\.\d+(?:\.\d+)?)/.exec(text)?.[1] ?? text.trim();
}

export interface BackrestRun {
  config: string;
  stanza: string;
  account: Account | undefined;
  /** `backup`, `restore`, `info`, …, its options, then its arguments. */
  args: string[];
  env?: NodeJS.ProcessEnv;
  /** Ends it. */
  signal?: AbortSignal | undefined;
  /** Each line that it writes. */
  onLine?: ((line: string) => void) | undefined;
}

/**
 * Runs it to its end.
 * @returns what it wrote to standard output
 * @throws BackrestMissing, BackupUnderWay, BackrestFailed
 */
export async function runBackrest(run: BackrestRun): Promise<string> {
  const { config, stanza, account, args, env = {}, signal, onLine } = run;
  const program = findBackrest();
  const words = [program, `--config=${config}`, `--stanza=${stanza}`, ...args];
  // Node passes its own umask on; files are to be for the account alone.
  const child = spawn('/bin/sh', ['-c', 'umask 077; exec "$@"', 'sh', ...words], {
    ...account,
    cwd: '/',
    env: { PATH: process.env.PATH, LC_ALL: 'C', TZ: 'UTC', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    ...(signal ? { signal, killSignal: 'SIGTERM' as const } : {}),
  });
  const { code, stdout, output } = await ended(child, onLine);
  if (code === 0) return stdout;
  const { number } = errorOf(output);
  if (number === LOCK_ERROR) throw new BackupUnderWay();
  throw new BackrestFailed(args.find(word => !word.startsWith('-')) ?? 'pgbackrest', output);
}

/** "unable to acquire lock", src/common/error.auto.c there. */
const LOCK_ERROR = 50;

async function ended(
  child: ChildProcessByStdio<null, Readable, Readable>,
  onLine: ((line: string) => void) | undefined,
): Promise<{ code: number; stdout: string; output: string }> {
  let stdout = '';
  let output = '';
  const take = (isStdout: boolean) => {
    let rest = '';
    return (chunk: string) => {
      if (isStdout) stdout += chunk;
      output += chunk;
      const lines = (rest + chunk).split('\n');
      rest = lines.pop() ?? '';
      if (onLine) for (const line of lines) onLine(line);
    };
  };
  child.stdout.setEncoding('utf8').on('data', take(true));
  child.stderr.setEncoding('utf8').on('data', take(false));
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  child.once('error', reject);
  child.once('close', code => resolve(code ?? -1));
  return { code: await promise, stdout, output };
}

/** `… P00  ERROR: [082]: WAL segment … was not archived before the 60000ms timeout` */
function errorOf(output: string): { number: number; text: string } {
  const [, number = '0', text = ''] =
    /ERROR: \[(\d+)\]: ([\s\S]*?)(?=\n\d{4}-|\n(?:WARN|INFO|ERROR)|$)/.exec(output) ?? [];
  return { number: Number(number), text: text.replaceAll(/\n\s+/g, '. ').trim() };
}

function diagnose(output: string): { what: string; remedy?: string } {
  const { number, text } = errorOf(output);
  if (/No space left on device/i.test(output)) {
    return {
      what: 'the disk of the repository is full',
      remedy:
        'Free some space, or keep fewer backups (`database.backup.keep`); the database goes on, and what waits is archived then',
    };
  }
  if (number === 82) {
    return {
      what: `the log does not arrive in the repository (${text})`,
      remedy: '`banyan status` shows what waits, `banyan logs` of the primary tells why',
    };
  }
  if (/unable to (flush|decrypt)|cipher/i.test(text)) {
    return {
      what: `the repository is encrypted with another key, or not at all (${text})`,
      remedy:
        'Set `database.backup.encrypt` to what it was when the repository was made; the key is in `.banyan/secrets.json`',
    };
  }
  return { what: text || output.trim() || 'it wrote nothing' };
}
