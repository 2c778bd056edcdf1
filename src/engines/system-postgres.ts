/**
 * Finds the PostgreSQL that the system's packages brought. A replicated database needs programs that the npm
 * package leaves out: `pg_basebackup` makes a replica, `pg_rewind` brings an old primary back, `pg_dump` reads a
 * schema.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, statSync } from 'node:fs';
import path from 'node:path';
import { BanyanError } from '../errors.ts';
import { findProgram } from './find-program.ts';

export interface SystemPostgres {
  /** The folder with the programs. */
  bin: string;
  /** Such as `15.14`. */
  version: string;
  major: number;
}

/** Where Debian keeps one folder for each major version. */
const DEBIAN_FOLDER = '/usr/lib/postgresql';

const NEEDED = [
  'postgres',
  'initdb',
  'pg_ctl',
  'pg_basebackup',
  'pg_rewind',
  'pg_controldata',
  'pg_dump',
  'pg_restore',
  'psql',
];

/** Older ones lack `track_commit_timestamp` details, `pg_stat_wal` and row filters that Banyan uses. */
const OLDEST_MAJOR = 15;

export class SystemPostgresMissing extends BanyanError {
  constructor(found: string) {
    super('SYSTEM_POSTGRES_MISSING', {
      what: `A replicated database needs PostgreSQL ${OLDEST_MAJOR} or newer with all its programs, and ${found}`,
      where: DEBIAN_FOLDER,
      remedy:
        'Install it: `sudo apt-get install -y --no-install-recommends postgresql-15` (macOS: `brew install postgresql@15`). Debian starts a server of its own with it, which is not needed: `sudo systemctl disable --now postgresql`',
    });
  }
}

/**
 * The newest that is complete: Debian's folders first, then the one of `pg_config`.
 * @param debianFolder where one folder for each major version lies
 * @throws SystemPostgresMissing
 */
export function findSystemPostgres(debianFolder = DEBIAN_FOLDER): SystemPostgres {
  const debian = existsSync(debianFolder)
    ? readdirSync(debianFolder)
        .filter(name => /^\d+$/.test(name))
        .sort((a, b) => Number(b) - Number(a))
        .map(name => path.join(debianFolder, name, 'bin'))
    : [];
  let found = 'none is installed';
  for (const bin of foldersOf(debian)) {
    const missing = NEEDED.filter(program => !existsSync(path.join(bin, program)));
    if (missing.length > 0) {
      found = `${bin} lacks ${missing.join(', ')}`;
      continue;
    }
    const version = versionOf(path.join(bin, 'postgres'));
    const major = Number.parseInt(version, 10);
    if (major >= OLDEST_MAJOR) return { bin, version, major };
    found = `the newest found is ${version}`;
  }
  throw new SystemPostgresMissing(found);
}

/** `pg_config` is asked only when Debian's folders do not do. */
function* foldersOf(debian: string[]): Generator<string> {
  yield* debian;
  const config = findProgram('pg_config');
  if (config) yield execFileSync(config, ['--bindir'], { encoding: 'utf8' }).trim();
}

/** By file and its time: the supervisor asks with each `banyan status`, and would stand still meanwhile. */
const versions = new Map<string, { mtimeMs: number; version: string }>();

function versionOf(program: string): string {
  const { mtimeMs } = statSync(program);
  const known = versions.get(program);
  if (known?.mtimeMs === mtimeMs) return known.version;
  // `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)`
  const text = execFileSync(program, ['--version'], { encoding: 'utf8' });
  const version = /\) (\d+(?:\.\d+)?)/.exec(text)?.[1] ?? '0';
  versions.set(program, { mtimeMs, version });
  return version;
}
