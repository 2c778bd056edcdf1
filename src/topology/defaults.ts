/**
 * Fills in what a topology leaves open, from what is known of the application's folder. Pure: the
 * folder's contents are handed in.
 */
import { BanyanError } from '../errors.ts';
import type { Topology } from './topology.ts';

/** What the defaults depend on, read from the application's folder by its caller. */
export interface AppFolder {
  /** Absolute path. */
  path: string;
  packageJson?: { name?: unknown; main?: unknown; scripts?: unknown } | undefined;
  /** Names of the files at the top of the folder. */
  files: string[];
  /** True when `migrations/` holds `.sql` files. */
  hasMigrations: boolean;
  /** The machine's memory, in megabytes. */
  machineMemoryMb: number;
}

/** A topology with every question answered. */
export interface CompleteTopology {
  name: string;
  web: {
    command: string;
    port: number;
    host: string;
    ready: string;
    startTimeoutMs: number;
    drainTimeoutMs: number;
    env: Record<string, string>;
  };
  database: {
    /** Set: an external PostgreSQL. Unset: the embedded one runs. */
    url?: string;
    port: number;
    migrations?: string;
    migrate?: string;
    memoryMb: number;
    maxConnections: number;
    settings: Record<string, string | number | boolean>;
  };
  logs: { maxFileMb: number; keepFiles: number };
}

export class NoStartCommand extends BanyanError {
  constructor(folder: string) {
    super('NO_START_COMMAND', {
      what: 'It is not clear how your application is started',
      where: folder,
      remedy:
        'Add a `start` script to package.json, or set `web.command` in banyan.config.ts, such as `web: { command: "node server.ts" }`',
    });
  }
}

export const DEFAULT_WEB_PORT = 3000;

/** PostgreSQL gains little from a larger share at this rung, and the application needs the rest. */
const DATABASE_MEMORY_SHARE = 0.25;
const DATABASE_MEMORY_LIMIT_MB = 2_048;

const ENTRY_FILES = ['server.ts', 'server.js', 'server.mjs', 'index.ts', 'index.js', 'index.mjs'];

/** @throws NoStartCommand when neither the topology nor the folder says how to start the application */
export function completeTopology(topology: Topology, folder: AppFolder): CompleteTopology {
  const { web = {}, database = {}, logs = {} } = topology;
  const migrations =
    database.migrations ?? (folder.hasMigrations && !database.migrate ? 'migrations' : undefined);
  return {
    name: topology.name ?? defaultName(folder),
    web: {
      command: web.command ?? defaultCommand(folder),
      port: web.port ?? DEFAULT_WEB_PORT,
      host: web.host ?? '127.0.0.1',
      ready: web.ready ?? '/readyz',
      startTimeoutMs: web.startTimeoutMs ?? 30_000,
      drainTimeoutMs: web.drainTimeoutMs ?? 10_000,
      env: web.env ?? {},
    },
    database: {
      ...(database.url ? { url: database.url } : {}),
      port: database.port ?? 0,
      ...(migrations ? { migrations } : {}),
      ...(database.migrate ? { migrate: database.migrate } : {}),
      memoryMb:
        database.memoryMb ??
        Math.max(
          128,
          Math.min(
            DATABASE_MEMORY_LIMIT_MB,
            Math.floor(folder.machineMemoryMb * DATABASE_MEMORY_SHARE),
          ),
        ),
      maxConnections: database.maxConnections ?? 100,
      settings: database.settings ?? {},
    },
    logs: { maxFileMb: logs.maxFileMb ?? 10, keepFiles: logs.keepFiles ?? 5 },
  };
}

/** The command, also by its path (`node bin/banyan.js up`); not a folder or file that is named like it. */
const STARTS_BANYAN = /(^|[\s/])banyan(\.js)?(\s|$)/;

/** For the shell that runs the command. */
function quote(file: string): string {
  return /^[\w./@-]+$/.test(file) ? file : `'${file.replaceAll("'", "'\\''")}'`;
}

/** The package's name without its scope, in the letters that a deployment's name may have. */
function defaultName({ packageJson, path }: AppFolder): string {
  const source =
    typeof packageJson?.name === 'string' && packageJson.name.trim() !== ''
      ? packageJson.name.replace(/^@[^/]*\//, '')
      : (path.split('/').at(-1) ?? '');
  const name = source
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^[^a-z]+|-+$/g, '')
    .slice(0, 40)
    .replace(/-+$/, '');
  return name || 'app';
}

/** @throws NoStartCommand */
function defaultCommand({ packageJson, files, path }: AppFolder): string {
  const scripts = packageJson?.scripts;
  const start =
    typeof scripts === 'object' && scripts !== null && 'start' in scripts
      ? scripts.start
      : undefined;
  // `"start": "banyan up"` is what `banyan init` offers: taking it would start ourselves for ever.
  if (typeof start === 'string' && start.trim() !== '' && !STARTS_BANYAN.test(start)) return start;
  const main = packageJson?.main;
  if (typeof main === 'string' && files.includes(main.replace(/^\.\//, ''))) {
    return `node ${quote(main)}`;
  }
  const entry = ENTRY_FILES.find(file => files.includes(file));
  if (entry) return `node ${entry}`;
  throw new NoStartCommand(path);
}
