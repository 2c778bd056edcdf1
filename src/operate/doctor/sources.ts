/** The application's own source files, as far as the server loads them. */
import { type Dirent, existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';

export interface SourceFile {
  /** Relative to the application's folder. */
  file: string;
  /** Without comments, which are blanked out: lines are as they were. */
  text: string;
}

/** A larger folder than this is not an application's sources; what was read of it counts. */
const MOST_FILES = 5_000;
const MOST_BYTES = 1024 * 1024;

const EXTENSIONS = ['.ts', '.tsx', '.mts', '.cts', '.js', '.jsx', '.mjs', '.cjs'];

/** Folders in which nothing is the application's source. */
const NOT_SOURCE = new Set(['node_modules', 'dist', 'build', 'coverage', 'public', 'static']);
/** Beside the application: what tests and scripts do is done once, by a developer. */
const NOT_SERVER = new Set(['test', 'tests', '__tests__', 'e2e', 'scripts', 'bench', 'migrations']);

/**
 * The files that are loaded by the one that the command starts, found by their relative imports. When it
 * starts none of them (a framework, a build), all that look like the server's.
 */
export function serverSources(folder: string, command: string): SourceFile[] {
  const entries = command
    .split(/\s+/)
    .map(word => word.replace(/^["']|["']$/g, ''))
    .filter(word => EXTENSIONS.includes(path.extname(word)))
    .map(word => path.resolve(folder, word))
    .filter(file => existsSync(file) && !isOutside(folder, file));
  // What was built holds other people's code too; its sources are looked at instead.
  const isBuilt = entries.some(file =>
    NOT_SOURCE.has(path.relative(folder, file).split(path.sep)[0]!),
  );
  const all = entries.length === 0 || isBuilt ? walk(folder) : [];
  const files = all.length > 0 ? all : reachable(folder, entries);
  return files.flatMap(file => {
    const text = read(file);
    return text === undefined ? [] : [{ file: path.relative(folder, file), text }];
  });
}

function reachable(folder: string, entries: string[]): string[] {
  const found = new Set(entries);
  // A set that grows while it is gone through gives what was added too.
  for (const file of found) {
    if (found.size > MOST_FILES) break;
    for (const [, target = ''] of (read(file) ?? '').matchAll(
      /(?:from|import|require)\s*\(?\s*['"](\.{1,2}\/[^'"]*)['"]/g,
    )) {
      const imported = resolveImport(path.resolve(path.dirname(file), target));
      if (imported && !isOutside(folder, imported)) found.add(imported);
    }
  }
  return [...found];
}

/** As TypeScript and bundlers write them: with the extension, without it, `.js` for `.ts`, a folder. */
function resolveImport(target: string): string | undefined {
  const stem = target.replace(/\.[cm]?jsx?$/, '');
  const candidates = [
    target,
    ...EXTENSIONS.map(extension => stem + extension),
    ...EXTENSIONS.map(extension => path.join(target, `index${extension}`)),
  ];
  return candidates.find(
    file => EXTENSIONS.includes(path.extname(file)) && existsSync(file) && statSync(file).isFile(),
  );
}

function isOutside(folder: string, file: string): boolean {
  const relative = path.relative(folder, file);
  return relative.startsWith('..') || relative.split(path.sep).includes('node_modules');
}

function walk(folder: string): string[] {
  const found: string[] = [];
  const folders = [folder];
  for (let at = folders.pop(); at !== undefined && found.length < MOST_FILES; at = folders.pop()) {
    for (const entry of entriesOf(at)) {
      const { name } = entry;
      if (name.startsWith('.')) continue;
      if (entry.isDirectory() && !NOT_SOURCE.has(name) && !NOT_SERVER.has(name)) {
        folders.push(path.join(at, name));
      }
      const isTest = /\.(test|spec|config|d)\.[cm]?[jt]sx?$/.test(name);
      if (entry.isFile() && EXTENSIONS.includes(path.extname(name)) && !isTest) {
        found.push(path.join(at, name));
      }
    }
  }
  return found.sort();
}

function entriesOf(folder: string): Dirent[] {
  try {
    return readdirSync(folder, { withFileTypes: true });
  } catch {
    return [];
  }
}

function read(file: string): string | undefined {
  try {
    return statSync(file).size > MOST_BYTES ? undefined : blankComments(readFileSync(file, 'utf8'));
  } catch {
    return undefined;
  }
}

/** Text and templates are passed over, so that what looks like a comment in them stays. */
export function blankComments(text: string): string {
  return text.replace(
    /"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`|\/\*[\s\S]*?\*\/|\/\/[^\n]*/g,
    found => (found.startsWith('/') ? found.replace(/[^\n]/g, ' ') : found),
  );
}
