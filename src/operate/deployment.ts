/**
 * A deployment on disk: the folder `.banyan` in the application's folder, and what lies in it.
 *
 *     .banyan/
 *       deployment.json   who this is: an id, the database's name. Never changes.
 *       secrets.json      generated passwords and keys, mode 0600. Never logged.
 *       map.json          the runtime map
 *       database.json     where the rows are: in `postgres`, or in the nodes of `cluster`
 *       balancer/         the load balancers' configuration; the self-signed certificate
 *       releases/         numbered folders, immutable
 *       postgres/         the database (a link to /var/lib/banyan when only root may enter here)
 *       postgres-2/ …     those of further shards
 *       cluster/          a replicated database: etcd, a folder for each node
 *       backups/          pgBackRest's repository, unless the topology names another
 *       restore.json      the last restore: how far it came, and what it put aside
 *       redis/            configuration of the cache's servers
 *       rabbitmq/         RabbitMQ's nodes: configuration, messages
 *       cache/            what Node compiled of the application; may be deleted
 *       load/             what each process asks of which shard, of late
 *       logs/             one rotated file for each unit
 *       run/              lock, socket and records of what runs now; empty when nothing does
 *
 * The database's name is kept here, not derived each time: renaming the application must not make
 * its data seem to vanish.
 */
import { createHash, randomBytes } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { BanyanError, hasCode } from '../errors.ts';
import { writeFileAtomic } from '../map/atomic-file.ts';
import { LOAD_FOLDER } from '../map/load-folder.ts';

export interface Secrets {
  /** What applications derive their keys from: BANYAN_SECRET. */
  application: string;
  /** PostgreSQL's superuser, for operations. */
  superuserPassword: string;
  /** The role that owns the application's database, in DATABASE_URL. */
  ownerPassword: string;
}

interface Identity {
  id: string;
  /** Name of the database and of the role that owns it. */
  database: string;
}

/** The longest path of a Unix socket that every system takes (sun_path is 104 bytes on macOS). */
const SOCKET_PATH_LIMIT = 103;

export class DeploymentDamaged extends BanyanError {
  constructor(file: string, cause: unknown) {
    super('DEPLOYMENT_DAMAGED', {
      what: 'A file of the deployment cannot be read',
      where: file,
      remedy: 'Restore it from a backup; without it the database cannot be opened',
      cause,
    });
  }
}

/** Where everything of a deployment lies. */
export class DeploymentPaths {
  /** The application's folder, absolute. */
  readonly app: string;
  readonly root: string;

  constructor(appFolder: string) {
    this.app = path.resolve(appFolder);
    this.root = path.join(this.app, '.banyan');
  }

  get identity() {
    return path.join(this.root, 'deployment.json');
  }
  get secrets() {
    return path.join(this.root, 'secrets.json');
  }
  get map() {
    return path.join(this.root, 'map.json');
  }
  get postgres() {
    return path.join(this.root, 'postgres');
  }
  /** Where the rows are. */
  get database() {
    return path.join(this.root, 'database.json');
  }
  get cluster() {
    return path.join(this.root, 'cluster');
  }
  get backups() {
    return path.join(this.root, 'backups');
  }
  /** The journal of restores: it cannot be in the database that is restored. */
  get restore() {
    return path.join(this.root, 'restore.json');
  }
  /** Only there with several shards. */
  get load() {
    return path.join(this.root, LOAD_FOLDER);
  }
  /** How far copies of columns are behind, as the unit that keeps them tells it. */
  get copies() {
    return path.join(this.root, 'copies.json');
  }
  /** Of the cache's servers: their configuration. */
  get redis() {
    return path.join(this.root, 'redis');
  }
  /** Of RabbitMQ's nodes: configuration, and the messages. */
  get rabbitmq() {
    return path.join(this.root, 'rabbitmq');
  }
  get logs() {
    return path.join(this.root, 'logs');
  }
  get compileCache() {
    return path.join(this.root, 'cache');
  }
  get run() {
    return path.join(this.root, 'run');
  }
  get records() {
    return path.join(this.run, 'units');
  }
  /** Whose invalidator serves. */
  get invalidatorLock() {
    return path.join(this.run, 'invalidator.lock');
  }
  get lock() {
    return path.join(this.run, 'supervisor.lock');
  }
  /** Of the load balancers: configuration, certificate. */
  get balancer() {
    return path.join(this.root, 'balancer');
  }
  get releases() {
    return path.join(this.root, 'releases');
  }
  /** The supervisor's. */
  get socket() {
    return this.socketFor('control');
  }
  /** In the folder itself unless its path is too long for a socket. */
  socketFor(name: string): string {
    const here = path.join(this.run, `${name}.sock`);
    if (Buffer.byteLength(here) <= SOCKET_PATH_LIMIT) return here;
    const hash = createHash('sha256').update(here).digest('hex').slice(0, 16);
    return path.join(tmpdir(), `banyan-${hash}.sock`);
  }
}

/** An opened deployment: its identity and its secrets. */
export interface Deployment {
  paths: DeploymentPaths;
  id: string;
  database: string;
  secrets: Secrets;
}

/**
 * Opens the deployment of an application's folder, and makes it when there is none.
 * @param name what the database is to be called if it is made now
 * @throws DeploymentDamaged
 */
export async function openDeployment(paths: DeploymentPaths, name: string): Promise<Deployment> {
  makeFolder(paths.root, 0o711);
  makeFolder(paths.run, 0o700);
  const ignore = path.join(paths.root, '.gitignore');
  if (!existsSync(ignore)) await writeFileAtomic(ignore, '*\n', 0o644);

  const identity = await readOrMake<Identity>(paths.identity, () => ({
    id: randomBytes(6).toString('hex'),
    database: databaseName(name),
  }));
  const secrets = await readOrMake<Secrets>(paths.secrets, () => ({
    application: randomBytes(32).toString('base64url'),
    superuserPassword: randomBytes(24).toString('base64url'),
    ownerPassword: randomBytes(24).toString('base64url'),
  }));
  return { paths, ...identity, secrets };
}

/** Opens a deployment that is there; undefined when there is none. */
export function existingDeployment(paths: DeploymentPaths): Deployment | undefined {
  const identity = read<Identity>(paths.identity);
  const secrets = read<Secrets>(paths.secrets);
  return identity && secrets ? { paths, ...identity, secrets } : undefined;
}

/** Folders may be passed through by PostgreSQL's account (0711), not listed; files have modes of their own. */
function makeFolder(folder: string, mode: number): void {
  mkdirSync(folder, { recursive: true, mode });
  chmodSync(folder, mode);
}

async function readOrMake<T>(file: string, make: () => T): Promise<T> {
  const found = read<T>(file);
  if (found) return found;
  const made = make();
  await writeFileAtomic(file, `${JSON.stringify(made, null, 2)}\n`);
  return made;
}

function read<T>(file: string): T | undefined {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as T;
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'ENOTDIR')) return undefined;
    throw new DeploymentDamaged(file, error);
  }
}

/** A name that needs no quotes in SQL and is none of PostgreSQL's own. */
function databaseName(name: string): string {
  const plain = name.replaceAll('-', '_');
  return ['postgres', 'template0', 'template1', 'public', 'user'].includes(plain) ||
    plain.startsWith('pg_')
    ? `${plain.replace(/^pg_/, '')}_app`
    : plain;
}
