/**
 * Where a module of this package lies that another process is to run: beside this one among the sources, and among
 * what was built from them (`scripts/build.ts`), where all other modules are parts of larger files.
 */

/** @param name from the folder of the sources, without its ending: `machines/reap`; `build.ts` makes a file of it */
export function ownModule(name: string): URL {
  const ending = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
  return new URL(`../${name}.${ending}`, import.meta.url);
}
