// Whether what was built is of the sources as they are: a clone runs its build then, which starts three times as fast.
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';

/** In `dist`: the state of the sources that it was built from. */
export const BUILT_FROM = 'built-from.txt';

/** Changes with each file that is changed, added, renamed or deleted. */
export function stateOfSources(folder) {
  const hash = createHash('sha1');
  const names = readdirSync(folder, { recursive: true }).sort();
  for (const name of names) {
    const { mtimeMs, size } = statSync(path.join(folder, name));
    hash.update(`${name} ${mtimeMs} ${size}\n`);
  }
  return hash.digest('hex');
}

/** Whether `dist` was built from `src` as it is now. */
export function isBuilt(src, dist) {
  try {
    return readFileSync(path.join(dist, BUILT_FROM), 'utf8') === stateOfSources(src);
  } catch {
    return false;
  }
}
