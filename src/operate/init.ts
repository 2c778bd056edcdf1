/**
 * `banyan init`: what it takes to add Banyan to an application that is there. Planned first, as files
 * with their new text; written only when the user has seen it and agreed.
 */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { BanyanError } from '../errors.ts';
import { writeFileAtomic } from '../map/atomic-file.ts';
import { NoStartCommand } from '../topology/defaults.ts';
import { CONFIG_FILES, loadTopology } from './load-topology.ts';

export interface PlannedFile {
  /** Relative to the application's folder. */
  name: string;
  /** Undefined when there is no such file yet. */
  before: string | undefined;
  after: string;
}

export interface InitPlan {
  files: PlannedFile[];
  /** What the user should know or do afterwards. */
  notes: string[];
}

export class NoPackageJson extends BanyanError {
  constructor(folder: string) {
    super('NO_PACKAGE_JSON', {
      what: 'There is no package.json, so this is no application yet',
      where: folder,
      remedy: 'Make one with `npm init -y`, or give the folder of your application with --dir',
    });
  }
}

export class AlreadyInitialised extends BanyanError {
  constructor(file: string) {
    super('ALREADY_INITIALISED', {
      what: 'Banyan has been added to this application already',
      where: file,
      remedy: 'Change that file to change the deployment; `banyan up` starts it',
    });
  }
}

/** @throws NoPackageJson, AlreadyInitialised */
export async function planInit(folder: string, version: string): Promise<InitPlan> {
  const packageFile = path.join(folder, 'package.json');
  if (!existsSync(packageFile)) throw new NoPackageJson(folder);
  const present = CONFIG_FILES.find(name => existsSync(path.join(folder, name)));
  if (present) throw new AlreadyInitialised(path.join(folder, present));

  const text = readFileSync(packageFile, 'utf8');
  const manifest = JSON.parse(text) as Manifest;
  const notes: string[] = [];
  const command = await startCommand(folder);
  if (!command) {
    notes.push('It is not clear how your application starts: fill in `web.command` in the file');
  }
  if (command && isOurs(manifest.scripts?.start)) {
    notes.push('The start script runs banyan itself, so `web.command` names the server directly');
  }
  const files: PlannedFile[] = [
    {
      name: isTypeScript(folder, manifest) ? 'banyan.config.ts' : 'banyan.config.mjs',
      before: undefined,
      after: configText(command),
    },
  ];
  const dependency = manifest.dependencies?.banyan ?? manifest.devDependencies?.banyan;
  if (!dependency) {
    files.push({ name: 'package.json', before: text, after: withDependency(text, version) });
    notes.push('Then install what was added: npm install');
  }
  notes.push('Start it: npx banyan up');
  return { files, notes };
}

export async function writeInit(folder: string, plan: InitPlan): Promise<void> {
  for (const { name, after } of plan.files) {
    await writeFileAtomic(path.join(folder, name), after, 0o644);
  }
}

interface Manifest {
  scripts?: { start?: string };
  dependencies?: Record<string, string>;
  devDependencies?: Record<string, string>;
}

/** What the defaults would run; undefined when nothing is found. */
async function startCommand(folder: string): Promise<string | undefined> {
  try {
    return (await loadTopology(folder)).topology.web.command;
  } catch (error) {
    if (error instanceof NoStartCommand) return undefined;
    throw error;
  }
}

function isOurs(script: string | undefined): boolean {
  return /\bbanyan\b/.test(script ?? '');
}

function isTypeScript(folder: string, manifest: Manifest): boolean {
  return (
    existsSync(path.join(folder, 'tsconfig.json')) ||
    manifest.dependencies?.typescript !== undefined ||
    manifest.devDependencies?.typescript !== undefined
  );
}

function configText(command: string | undefined): string {
  return `import { defineTopology } from 'banyan';

// What is left out has a sensible default; hover over a key to read what it means.
export default defineTopology({
  web: {
    // It has to listen on the PORT that it is given.
    command: ${quoted(command ?? 'node server.js')},
    port: 3000,
  },
  database: {
    // Banyan runs PostgreSQL and gives your application its DATABASE_URL. To use your own:
    // url: process.env.DATABASE_URL,
    // SQL files in ./migrations run by themselves; or name your own command:
    // migrate: 'npx drizzle-kit migrate',
  },
});
`;
}

function quoted(text: string): string {
  return /['\\\n]/.test(text) ? JSON.stringify(text) : `'${text}'`;
}

/** Adds the dependency in its alphabetical place, and leaves the file's style alone. */
function withDependency(text: string, version: string): string {
  const manifest = JSON.parse(text) as Manifest;
  const indent = /^([ \t]+)"/m.exec(text)?.[1] ?? '  ';
  const dependencies = { ...manifest.dependencies, banyan: `^${version}` };
  manifest.dependencies = Object.fromEntries(
    Object.entries(dependencies).sort(([a], [b]) => (a < b ? -1 : 1)),
  );
  return JSON.stringify(manifest, null, indent) + (text.endsWith('\n') ? '\n' : '');
}
