/**
 * Where releases lie: numbered folders that nobody writes to any more.
 *
 * Holds true here:
 * - A release is there whole or not at all: it is copied beside its place and then renamed.
 * - What is in it does not change: it is made read-only, and the application's folder may go on to change.
 */
import { constants, existsSync } from 'node:fs';
import { chmod, cp, lstat, mkdir, readdir, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { BanyanError } from '../../errors.ts';
import type { DeploymentPaths } from '../deployment.ts';

/** Not part of an application: what Banyan keeps, and version control. */
const LEFT_OUT = new Set(['.banyan', '.git', '.hg', '.svn']);

export class ReleaseGone extends BanyanError {
  constructor(folder: string, release: number) {
    super('RELEASE_GONE', {
      what: `The folder of release ${release} is not there any more`,
      where: folder,
      remedy:
        '`banyan releases` shows those that are; `banyan rollback 0` runs the application’s folder as it is',
    });
  }
}

/** @param release 0 is the application's folder as it is */
export function releaseFolder(paths: DeploymentPaths, release: number): string {
  return release === 0 ? paths.app : path.join(paths.releases, String(release));
}

/** @throws ReleaseGone */
export function requireRelease(paths: DeploymentPaths, release: number): string {
  const folder = releaseFolder(paths, release);
  if (!existsSync(folder)) throw new ReleaseGone(folder, release);
  return folder;
}

/** Copies the application's folder, with its packages, into the place of a release. */
export async function copyIntoRelease(paths: DeploymentPaths, release: number): Promise<string> {
  const target = releaseFolder(paths, release);
  const draft = `${target}.new`;
  await mkdir(paths.releases, { recursive: true, mode: 0o711 });
  // Left by a release that was cut off.
  await removeFolder(draft);
  await mkdir(draft);
  // One by one: the place of the releases lies in the folder that is copied.
  for (const name of await readdir(paths.app)) {
    if (LEFT_OUT.has(name)) continue;
    await cp(path.join(paths.app, name), path.join(draft, name), {
      recursive: true,
      verbatimSymlinks: true,
      preserveTimestamps: true,
      // Where the file system can, blocks are shared instead of copied.
      mode: constants.COPYFILE_FICLONE,
    });
  }
  await setWritable(draft, false);
  await rename(draft, target);
  return target;
}

export async function removeRelease(paths: DeploymentPaths, release: number): Promise<void> {
  await removeFolder(releaseFolder(paths, release));
}

async function removeFolder(folder: string): Promise<void> {
  if (!existsSync(folder)) return;
  await setWritable(folder, true);
  await rm(folder, { recursive: true, force: true });
}

async function setWritable(folder: string, writable: boolean): Promise<void> {
  // Before what is in it can be changed, the folder itself has to be writable; and after it, not.
  if (writable) await chmod(folder, 0o755);
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const file = path.join(folder, entry.name);
    if (entry.isDirectory()) await setWritable(file, writable);
    else if (entry.isFile()) {
      const { mode } = await lstat(file);
      await chmod(file, writable ? mode | 0o200 : mode & ~0o222);
    }
  }
  if (!writable) await chmod(folder, 0o555);
}
