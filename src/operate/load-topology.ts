/**
 * Reads the topology of an application's folder: its `banyan.config.*` if there is one, completed by
 * what its `package.json` and its files tell.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { totalmem } from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { BanyanError } from '../errors.ts';
import type { CompleteTopology } from '../topology/complete.ts';
import { type AppFolder, completeTopology } from '../topology/defaults.ts';
import { validateTopology } from '../topology/validate.ts';

export const CONFIG_FILES = [
  'banyan.config.ts',
  'banyan.config.mts',
  'banyan.config.js',
  'banyan.config.mjs',
];

export class NoSuchFolder extends BanyanError {
  constructor(folder: string) {
    super('NO_SUCH_FOLDER', {
      what: 'There is no such folder',
      where: folder,
      remedy: 'Give the folder of your application, the one with its package.json, with --dir',
    });
  }
}

export class ConfigUnreadable extends BanyanError {
  constructor(file: string, cause: unknown) {
    const missing = /Cannot find package 'banyan'/.test(String(cause));
    super('CONFIG_UNREADABLE', {
      what: `The configuration cannot be loaded: ${cause instanceof Error ? cause.message : String(cause)}`,
      where: file,
      remedy: missing
        ? 'Run `npm install banyan` in the application folder'
        : 'Nothing was changed. Correct the file and run the command again',
      cause,
    });
  }
}

export interface LoadedTopology {
  topology: CompleteTopology;
  /** The file that it was read from; undefined when all of it is defaults. */
  file: string | undefined;
}

/** @throws NoSuchFolder, ConfigUnreadable, InvalidTopology, NoStartCommand */
export async function loadTopology(appFolder: string): Promise<LoadedTopology> {
  const folder = look(appFolder);
  const name = CONFIG_FILES.find(file => folder.files.includes(file));
  const file = name && path.join(folder.path, name);
  const topology = file ? validateTopology(await importConfig(file), file) : {};
  return { topology: completeTopology(topology, folder), file };
}

/** The topology with what the command line says in place of the configuration. */
export function withOverrides(
  topology: CompleteTopology,
  { port, host }: { port?: number; host?: string },
): CompleteTopology {
  const web = {
    ...topology.web,
    ...(port === undefined ? {} : { port }),
    ...(host === undefined ? {} : { host }),
  };
  const { balancer } = topology;
  // Balancers on the default address follow it; those with addresses of their own stay there.
  const follows =
    host !== undefined &&
    balancer?.addresses.length === 1 &&
    balancer.addresses[0] === topology.web.host;
  return {
    ...topology,
    web,
    ...(balancer && follows ? { balancer: { ...balancer, addresses: [host] } } : {}),
  };
}

async function importConfig(file: string): Promise<unknown> {
  let module: { default?: unknown };
  try {
    module = (await import(pathToFileURL(file).href)) as { default?: unknown };
  } catch (error) {
    throw new ConfigUnreadable(file, error);
  }
  if (module.default === undefined) {
    throw new ConfigUnreadable(
      file,
      new Error('it has no default export; write `export default defineTopology({ … })`'),
    );
  }
  return module.default;
}

/** What the defaults depend on. @throws NoSuchFolder, ConfigUnreadable */
function look(appFolder: string): AppFolder {
  const folder = path.resolve(appFolder);
  let files: string[];
  try {
    files = readdirSync(folder);
  } catch {
    throw new NoSuchFolder(folder);
  }
  return {
    path: folder,
    packageJson: readPackageJson(path.join(folder, 'package.json')),
    files,
    hasMigrations: hasSqlFiles(path.join(folder, 'migrations')),
    machineMemoryMb: Math.floor(totalmem() / 1024 / 1024),
  };
}

function readPackageJson(file: string): AppFolder['packageJson'] {
  if (!existsSync(file)) return undefined;
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as AppFolder['packageJson'];
  } catch (error) {
    throw new ConfigUnreadable(file, error);
  }
}

function hasSqlFiles(folder: string): boolean {
  try {
    return readdirSync(folder).some(name => name.endsWith('.sql'));
  } catch {
    return false;
  }
}
