/**
 * Fills in what a topology leaves open, from what is known of the application's folder. Pure: the
 * folder's contents are handed in.
 */
import { BanyanError } from '../errors.ts';
import { parseCopy, qualifyColumn, qualifyTable } from './columns.ts';
import type {
  CompleteBackup,
  CompleteBalancer,
  CompleteCache,
  CompleteQueue,
  CompleteTopology,
  CompleteWorkers,
} from './complete.ts';
import { parseDuration } from './duration.ts';
import type { Backup, Balancer, CacheTier, QueueTier, Topology, WorkersTier } from './topology.ts';

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

export class NoWorkerCommand extends BanyanError {
  constructor(where: string) {
    super('NO_WORKER_COMMAND', {
      what: 'It is not clear how a worker of your application is started',
      where,
      remedy:
        'Nothing was changed. Add a `worker.ts` that calls `queue.work`, or a `worker` script to package.json, or set `workers.command` in banyan.config.ts, such as `workers: { command: "node jobs/worker.ts" }`',
    });
  }
}

export const DEFAULT_WEB_PORT = 3000;
export const DEFAULT_TLS_PORT = 3443;

/** Of all servers on the machine together: more gains PostgreSQL little, and the application needs the rest. */
const DATABASE_MEMORY_SHARE = 0.25;
const DATABASE_MEMORY_LIMIT_MB = 2_048;

/** How busy servers are meant to be: high enough to be worth it, low enough to take a sudden half more. */
const SCALING = { target: 0.6, scaleDownAfterMs: 60_000 };

/** A message waits for seconds at most; and of a hundred a worker is free soon. */
const WORKER_SCALING = { depth: 100, ageMs: 10_000, scaleDownAfterMs: 60_000 };

const DEFAULT_BACKUP_EVERY_MS = 86_400_000;

/** Nothing is public unless the user says so. */
const DEFAULT_HOST = '127.0.0.1';

const ENTRY_FILES = ['server.ts', 'server.js', 'server.mjs', 'index.ts', 'index.js', 'index.mjs'];
const WORKER_FILES = ['worker.ts', 'worker.js', 'worker.mjs'];

/**
 * @throws NoStartCommand, NoWorkerCommand when neither the topology nor the folder says how to start the application or
 *   its workers
 */
export function completeTopology(topology: Topology, folder: AppFolder): CompleteTopology {
  const { web = {}, database = {}, logs = {} } = topology;
  const servers = completeServers(web.servers);
  const balancer = completeBalancer(topology, servers.max);
  const build = web.build ?? defaultBuild(folder);
  const { replicas = 0, shards = 1 } = database;
  const migrations =
    database.migrations ?? (folder.hasMigrations && !database.migrate ? 'migrations' : undefined);
  return {
    name: topology.name ?? defaultName(folder),
    web: {
      command: web.command ?? defaultCommand(folder),
      port: web.port ?? DEFAULT_WEB_PORT,
      host: web.host ?? DEFAULT_HOST,
      ready: web.ready ?? '/readyz',
      startTimeoutMs: web.startTimeoutMs ?? 30_000,
      drainTimeoutMs: web.drainTimeoutMs ?? 10_000,
      env: web.env ?? {},
      servers,
      weights: web.weights ?? [],
      maxConcurrency: web.maxConcurrency ?? 256,
      sticky: web.sticky ?? false,
      ...(build ? { build } : {}),
    },
    ...(balancer ? { balancer } : {}),
    database: {
      ...(database.url ? { url: database.url } : {}),
      readers: database.readers ?? [],
      port: database.port ?? 0,
      shards,
      tables: Object.fromEntries(
        Object.entries(database.tables ?? {}).map(([name, placement]) => [
          qualifyTable(name),
          placement === 'reference'
            ? { kind: 'reference' }
            : { kind: 'sharded', key: placement.shardBy },
        ]),
      ),
      unique: (database.unique ?? []).map(qualifyColumn),
      denormalize: Object.fromEntries(
        Object.entries(database.denormalize ?? {}).map(([column, text]) => [
          qualifyColumn(column),
          parseCopy(text)!,
        ]),
      ),
      replicas,
      etcd: database.etcd ?? 1,
      strict: database.strict ?? replicas > 1,
      ...(migrations ? { migrations } : {}),
      ...(database.migrate ? { migrate: database.migrate } : {}),
      memoryMb:
        database.memoryMb ??
        Math.max(
          128,
          Math.min(
            DATABASE_MEMORY_LIMIT_MB,
            Math.floor(
              (folder.machineMemoryMb * DATABASE_MEMORY_SHARE) / (shards * (replicas + 1)),
            ),
          ),
        ),
      maxConnections: database.maxConnections ?? 100,
      settings: database.settings ?? {},
      ...(database.backup ? { backup: completeBackup(database.backup) } : {}),
    },
    ...(topology.cache ? { cache: completeCache(topology.cache, folder) } : {}),
    workers: completeWorkers(topology.workers, folder),
    ...(topology.queue && topology.queue !== 'postgresql'
      ? { queue: completeQueue(topology.queue, folder) }
      : {}),
    logs: { maxFileMb: logs.maxFileMb ?? 10, keepFiles: logs.keepFiles ?? 5 },
  };
}

/** Of all nodes of RabbitMQ together. */
const QUEUE_MEMORY_SHARE = 1 / 16;
/** A node that has nothing to do takes 130 MB: with less it would never take a message. */
const QUEUE_MEMORY_MB = { least: 256, most: 1_024 };

function completeQueue(
  { servers = 1, memoryMb, freeDiskMb = 200, url }: QueueTier,
  { machineMemoryMb }: Pick<AppFolder, 'machineMemoryMb'>,
): CompleteQueue {
  const share = Math.floor((machineMemoryMb * QUEUE_MEMORY_SHARE) / servers);
  const { least, most } = QUEUE_MEMORY_MB;
  return {
    servers,
    memoryMb: memoryMb ?? Math.max(least, Math.min(most, share)),
    freeDiskMb,
    ...(url ? { url } : {}),
  };
}

/** What `banyan scale queue=1` begins with where the topology says nothing of RabbitMQ. */
export function plainQueue(machineMemoryMb: number): CompleteQueue {
  return completeQueue({}, { machineMemoryMb });
}

/** @throws NoWorkerCommand */
function completeWorkers(tier: WorkersTier | undefined, folder: AppFolder): CompleteWorkers {
  const { servers = 1, startTimeoutMs, drainTimeoutMs, memoryMb, env } = tier ?? { servers: 0 };
  const command = tier?.command ?? defaultWorkerCommand(folder);
  const bounds = typeof servers === 'number' ? { min: servers, max: servers } : servers;
  if (bounds.max > 0 && command === undefined) throw new NoWorkerCommand(folder.path);
  return {
    ...(command === undefined ? {} : { command }),
    env: env ?? {},
    startTimeoutMs: startTimeoutMs ?? 30_000,
    drainTimeoutMs: drainTimeoutMs ?? 30_000,
    ...(memoryMb === undefined ? {} : { memoryMb }),
    servers: { ...WORKER_SCALING, ...bounds },
  };
}

function defaultWorkerCommand({ packageJson, files }: AppFolder): string | undefined {
  const script = scriptOf(packageJson, 'worker');
  if (script) return script;
  const entry = WORKER_FILES.find(file => files.includes(file));
  return entry && `node ${entry}`;
}

/** Of all Redis servers together. */
const CACHE_MEMORY_SHARE = 0.05;
const CACHE_MEMORY_MB = { least: 32, most: 1_024 };

function completeCache(
  cache: true | CacheTier,
  { machineMemoryMb }: Pick<AppFolder, 'machineMemoryMb'>,
): CompleteCache {
  const {
    servers = cache === true ? 0 : 1,
    memoryMb,
    invalidators = 1,
    url,
    ...rest
  }: CacheTier = cache === true ? {} : cache;
  const replicas = rest.replicas ?? (servers >= FEWEST_IN_CLUSTER && !url ? 1 : 0);
  const nodes = servers * (replicas + 1);
  const share = Math.floor((machineMemoryMb * CACHE_MEMORY_SHARE) / Math.max(1, nodes));
  const { least, most } = CACHE_MEMORY_MB;
  return {
    servers,
    replicas,
    memoryMb: memoryMb ?? Math.max(least, Math.min(most, share)),
    invalidators,
    ...(url ? { url } : {}),
  };
}

/** The same with another number of servers, as `banyan scale cache=3` asks for; what is not said follows. */
export function cacheWithServers(
  { url: _url, ...cache }: CompleteCache,
  servers: number,
): CompleteCache {
  const isCluster = servers >= FEWEST_IN_CLUSTER;
  return { ...cache, servers, replicas: isCluster ? Math.max(1, cache.replicas) : 0 };
}

/** Of fewer masters no majority is left when one is lost. */
export const FEWEST_IN_CLUSTER = 3;

/** What `banyan scale cache=1` begins with where the topology says nothing of a cache. */
export function plainCache(machineMemoryMb: number): CompleteCache {
  return completeCache(true, { machineMemoryMb });
}

function completeBackup({ repository, keep, every, encrypt, backlogMb }: Backup): CompleteBackup {
  return {
    ...(repository ? { repository } : {}),
    keep: keep ?? 2,
    everyMs: (every && parseDuration(every)) || DEFAULT_BACKUP_EVERY_MS,
    encrypt: encrypt ?? false,
    backlogMb: backlogMb ?? 4_096,
  };
}

function completeServers(
  servers: NonNullable<Topology['web']>['servers'] = 1,
): CompleteTopology['web']['servers'] {
  if (typeof servers === 'number') {
    return { min: servers, max: servers, ...SCALING };
  }
  return { ...SCALING, ...servers };
}

/** One server without a word about a balancer needs none. */
function completeBalancer(
  { balancer, web }: Topology,
  mostServers: number,
): CompleteBalancer | undefined {
  if (!balancer && mostServers === 1) return undefined;
  return balancerWithDefaults(balancer, web?.host ?? DEFAULT_HOST);
}

/** @param host where it listens when it does not say so itself */
export function balancerWithDefaults(balancer: Balancer = {}, host: string): CompleteBalancer {
  const { algorithm, addresses, virtualAddress, tls, rateLimit, ...limits } = balancer;
  return {
    algorithm: algorithm ?? 'roundrobin',
    addresses: addresses ?? [host],
    ...(virtualAddress ? { virtualAddress } : {}),
    ...(tls
      ? {
          tls: {
            port: tls.port ?? DEFAULT_TLS_PORT,
            redirect: tls.redirect ?? false,
            ...(tls.certificate ? { certificate: tls.certificate } : {}),
          },
        }
      : {}),
    ...(rateLimit ? { rateLimit: { windowSeconds: 10, ...rateLimit } } : {}),
    maxBodyMb: limits.maxBodyMb ?? 32,
    responseTimeoutMs: limits.responseTimeoutMs ?? 30_000,
    checkTimeoutMs: limits.checkTimeoutMs ?? 5_000,
    queueTimeoutMs: limits.queueTimeoutMs ?? 30_000,
    tunnelTimeoutMs: limits.tunnelTimeoutMs ?? 3_600_000,
  };
}

function defaultBuild({ packageJson }: AppFolder): string | undefined {
  return scriptOf(packageJson, 'build') ? 'npm run build' : undefined;
}

function scriptOf(packageJson: AppFolder['packageJson'], name: string): string | undefined {
  const scripts = packageJson?.scripts;
  const script =
    typeof scripts === 'object' && scripts !== null
      ? (scripts as Record<string, unknown>)[name]
      : undefined;
  return typeof script === 'string' && script.trim() !== '' ? script : undefined;
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
  const start = scriptOf(packageJson, 'start');
  // `"start": "banyan up"` is what `banyan init` offers: taking it would start ourselves for ever.
  if (start && !STARTS_BANYAN.test(start)) return start;
  const main = packageJson?.main;
  if (typeof main === 'string' && files.includes(main.replace(/^\.\//, ''))) {
    return `node ${quote(main)}`;
  }
  const entry = ENTRY_FILES.find(file => files.includes(file));
  if (entry) return `node ${entry}`;
  throw new NoStartCommand(path);
}
