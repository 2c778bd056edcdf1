/** Finds a program where systems put them, which an ordinary user's PATH may leave out. */
import { accessSync, constants } from 'node:fs';
import path from 'node:path';

/** Debian keeps servers in `sbin`; the last is Homebrew's. */
const SYSTEM_FOLDERS = [
  '/usr/bin',
  '/usr/sbin',
  '/usr/local/bin',
  '/usr/local/sbin',
  '/opt/homebrew/bin',
];

/**
 * @param searchPath folders with `:` between them
 * @param systemFolders where it is looked for besides these
 * @returns its absolute path; undefined when it is not there
 */
export function findProgram(
  name: string,
  searchPath = process.env.PATH ?? '',
  systemFolders: readonly string[] = SYSTEM_FOLDERS,
): string | undefined {
  for (const folder of [...searchPath.split(path.delimiter), ...systemFolders]) {
    if (folder === '') continue;
    const file = path.join(folder, name);
    try {
      accessSync(file, constants.X_OK);
      return file;
    } catch {
      // Not in this folder.
    }
  }
  return undefined;
}
