/** Files in the application's folder that have changed while it was up: a server has written them. */
import type { Dirent } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import path from 'node:path';

/** What Banyan, npm, version control and builds keep. */
const LEFT_OUT = new Set(['node_modules', 'dist', 'build', 'coverage', 'out']);

/** What a developer edits while the application is up. */
const EDITED =
  /\.([cm]?[jt]sx?|css|s[ac]ss|less|html?|vue|svelte|md|sql|ya?ml|toml|lock|tsbuildinfo)$|^(package(-lock)?|tsconfig.*|.*\.config)\.json$/;

const MOST_ENTRIES = 50_000;

/**
 * @param sinceMs in milliseconds since 1970
 * @returns paths relative to the folder
 */
export async function filesWritten(folder: string, sinceMs: number): Promise<string[]> {
  const written: string[] = [];
  const folders = [folder];
  let seen = 0;
  for (let at = folders.pop(); at !== undefined; at = folders.pop()) {
    for (const entry of await entriesOf(at)) {
      if (++seen > MOST_ENTRIES) return written;
      const file = path.join(at, entry.name);
      if (entry.name.startsWith('.') || LEFT_OUT.has(entry.name)) continue;
      if (entry.isDirectory()) folders.push(file);
      else if (entry.isFile() && !EDITED.test(entry.name) && (await changedAt(file)) > sinceMs) {
        written.push(path.relative(folder, file));
      }
    }
  }
  return written.sort();
}

async function entriesOf(folder: string): Promise<Dirent[]> {
  return readdir(folder, { withFileTypes: true }).catch(() => []);
}

async function changedAt(file: string): Promise<number> {
  return stat(file).then(
    ({ mtimeMs }) => mtimeMs,
    () => 0,
  );
}
