/**
 * Compiles `src` to `dist`: JavaScript in few files, which a process loads in a third of the time that it takes for
 * each module by itself, and types for the published package.
 *
 *     node scripts/build.ts [--js]      --js: without the types
 *
 * Holds true here: what runs from `dist` meanwhile goes on. Parts are named by what is in them and are there before
 * the files that load them; what is of an older build goes last.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { rolldown } from 'rolldown';
import { BUILT_FROM, stateOfSources } from '../bin/sources.js';

const root = path.resolve(import.meta.dirname, '..');
const src = path.join(root, 'src');
const dist = path.join(root, 'dist');

/** What others load by its path: the package's own entry, the command, and what runs in processes of their own. */
const ENTRIES = ['index', 'cli/main', 'machines/reap', 'machines/inherit-socket'];
/** Parts lie one folder deep, as the entries do that look for files of this package (`own-module.ts`). */
const PARTS = 'parts';

const state = stateOfSources(src);
mkdirSync(path.join(root, 'node_modules'), { recursive: true });
const fresh = mkdtempSync(path.join(root, 'node_modules', '.build-'));
try {
  await bundle();
  if (!process.argv.includes('--js')) declare();
  replace();
} finally {
  rmSync(fresh, { recursive: true, force: true });
}

async function bundle(): Promise<void> {
  const built = await rolldown({
    input: Object.fromEntries(ENTRIES.map(name => [name, path.join(src, `${name}.ts`)])),
    platform: 'node',
    // Packages stay what they are.
    external: id => !id.startsWith('.') && !path.isAbsolute(id),
  });
  await built.write({
    dir: fresh,
    format: 'esm',
    entryFileNames: '[name].js',
    chunkFileNames: `${PARTS}/[name]-[hash].js`,
    // Libraries and error messages look at the names of classes.
    keepNames: true,
  });
  await built.close();
}

function declare(): void {
  const require = createRequire(import.meta.url);
  const typescript = path.dirname(require.resolve('typescript/package.json'));
  const compiler = path.join(typescript, 'bin', 'tsc');
  execFileSync(
    process.execPath,
    [compiler, '--project', 'tsconfig.build.json', '--outDir', fresh],
    { cwd: root, stdio: 'inherit' },
  );
}

function replace(): void {
  const isPart = (name: string) => name.startsWith(`${PARTS}${path.sep}`);
  const files = filesIn(fresh).sort((a, b) => Number(isPart(b)) - Number(isPart(a)));
  // Until all is in its place, it is of no state.
  rmSync(path.join(dist, BUILT_FROM), { force: true });
  for (const name of files) {
    mkdirSync(path.dirname(path.join(dist, name)), { recursive: true });
    renameSync(path.join(fresh, name), path.join(dist, name));
  }
  const stays = new Set(files.flatMap(name => [name, ...foldersOf(name)]));
  for (const name of readdirSync(dist, { recursive: true, encoding: 'utf8' })) {
    if (!stays.has(name)) rmSync(path.join(dist, name), { recursive: true, force: true });
  }
  writeFileSync(path.join(fresh, BUILT_FROM), state);
  renameSync(path.join(fresh, BUILT_FROM), path.join(dist, BUILT_FROM));
}

function filesIn(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter(entry => entry.isFile())
    .map(entry => path.relative(folder, path.join(entry.parentPath, entry.name)));
}

function foldersOf(name: string): string[] {
  const folder = path.dirname(name);
  return folder === '.' ? [] : [folder, ...foldersOf(folder)];
}
