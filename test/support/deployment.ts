/**
 * Real deployments for tests: a folder of its own, the real `banyan` command, a free port.
 *
 * The folder is a copy, so that a test never touches what a developer runs from the original, and
 * each test file has a database of its own.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, readFileSync } from 'node:fs';
import { cp, mkdir, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { reachDatabase } from '../../src/operate/connect.ts';
import { ControlClient } from '../../src/operate/control/client.ts';
import { DeploymentPaths } from '../../src/operate/deployment.ts';
import { loadTopology } from '../../src/operate/load-topology.ts';
import type { Status } from '../../src/operate/status.ts';
import type { Topology } from '../../src/topology/topology.ts';

export const REPOSITORY = fileURLToPath(new URL('../..', import.meta.url));
const BANYAN = path.join(REPOSITORY, 'bin', 'banyan.js');

export interface CommandResult {
  code: number;
  stdout: string;
  stderr: string;
  /** Both, in the order in which they came. */
  output: string;
}

export interface CommandOptions {
  cwd?: string;
  env?: NodeJS.ProcessEnv;
  input?: string;
}

/** The environment of a user's shell: nothing of the test runner's. */
export function shellEnv(extra: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv {
  const env: NodeJS.ProcessEnv = { ...process.env, NO_COLOR: '1', ...extra };
  for (const name of [
    'NODE_ENV',
    'NODE_OPTIONS',
    'VITEST',
    'DATABASE_URL',
    'FORCE_COLOR',
    'TEST',
  ]) {
    if (!(name in extra)) delete env[name];
  }
  for (const name of Object.keys(env)) {
    if (/^(npm_|VITEST_|BANYAN_)/.test(name) && !(name in extra)) delete env[name];
  }
  return env;
}

/** Starts the command and lets it run. */
export function spawnBanyan(args: string[], options: CommandOptions = {}): ChildProcess {
  return spawn(process.execPath, [BANYAN, ...args], {
    cwd: options.cwd ?? REPOSITORY,
    env: shellEnv(options.env),
    stdio: 'pipe',
  });
}

/** Runs the command to its end. */
export function banyan(args: string[], options: CommandOptions = {}): Promise<CommandResult> {
  return finish(spawnBanyan(args, options), options.input);
}

/** Runs any program to its end. */
export function runProgram(
  program: string,
  args: string[],
  options: CommandOptions & { uid?: number; gid?: number } = {},
): Promise<CommandResult> {
  const { cwd = REPOSITORY, env, input, ...account } = options;
  return finish(
    spawn(program, args, { cwd, env: shellEnv(env), stdio: 'pipe', ...account }),
    input,
  );
}

/** Until it ends. @param input what it reads; `null` leaves its input to the caller */
export function finish(child: ChildProcess, input: string | null = ''): Promise<CommandResult> {
  const result = { code: -1, stdout: '', stderr: '', output: '' };
  const take = (stream: 'stdout' | 'stderr') => (chunk: Buffer) => {
    result[stream] += chunk;
    result.output += chunk;
  };
  child.stdout?.on('data', take('stdout'));
  child.stderr?.on('data', take('stderr'));
  child.stdin?.on('error', () => {});
  if (input !== null) child.stdin?.end(input);
  const { promise, resolve, reject } = Promise.withResolvers<CommandResult>();
  child.once('error', reject);
  child.once('close', (code, signal) => resolve({ ...result, code: code ?? (signal ? 128 : -1) }));
  return promise;
}

/** An application's folder under test, and what runs in it. */
export class Site {
  readonly folder: string;
  readonly #pools: pg.Pool[] = [];
  #address = '';
  #databaseUrl = '';

  constructor(folder: string) {
    this.folder = folder;
  }

  get paths(): DeploymentPaths {
    return new DeploymentPaths(this.folder);
  }

  /** `http://127.0.0.1:40123` */
  get address(): string {
    return this.#address;
  }

  /** With the owner's credentials. */
  get databaseUrl(): string {
    return this.#databaseUrl;
  }

  banyan(args: string[], options: CommandOptions = {}): Promise<CommandResult> {
    const [command, ...rest] = args;
    return banyan([command!, '--dir', this.folder, ...rest], options);
  }

  /** Runs a command that has to succeed. */
  async ok(...args: string[]): Promise<CommandResult> {
    const result = await this.banyan(args);
    if (result.code !== 0) {
      throw new Error(`banyan ${args.join(' ')} ended with ${result.code}:\n${result.output}`);
    }
    return result;
  }

  /** `banyan up --detach` on a free port, or on the one that it had before. Throws when it fails. */
  async up(options: CommandOptions & { args?: string[] } = {}): Promise<void> {
    const port = this.#address ? new URL(this.#address).port : '0';
    const result = await this.banyan(
      ['up', '--detach', '--port', port, ...(options.args ?? [])],
      options,
    );
    if (result.code !== 0) throw new Error(`banyan up failed (${result.code}):\n${result.output}`);
    const { address } = await this.status();
    this.#address = address;
    await this.refresh();
  }

  /** Looks again where the primary of the database is. */
  async refresh(): Promise<void> {
    const { topology } = await loadTopology(this.folder);
    this.#databaseUrl = (await reachDatabase(this.paths, topology)).url;
  }

  /** As `banyan status` has it, without a process for each time that it is asked. @throws NotRunning */
  status(): Promise<Status> {
    return new ControlClient(this.paths.socket, this.paths.app).status();
  }

  /** The process id of a unit's main process. */
  async pidOf(unit: string): Promise<number> {
    const found = (await this.status()).units.find(({ name }) => name === unit);
    if (!found?.pid) throw new Error(`${unit} does not run`);
    return found.pid;
  }

  pool(options: pg.PoolConfig = {}): pg.Pool {
    const pool = new pg.Pool({ connectionString: this.#databaseUrl, ...options });
    pool.on('error', () => {});
    this.#pools.push(pool);
    return pool;
  }

  /** Stops what runs; the folder stays. */
  async down(): Promise<void> {
    await Promise.all(this.#pools.splice(0).map(pool => pool.end()));
    await this.banyan(['down']);
  }

  /** Stops what runs and deletes the folder, also the data that lies elsewhere. */
  async remove(): Promise<void> {
    await this.down();
    const { postgres, identity } = this.paths;
    if (existsSync(identity) && existsSync(postgres)) {
      const { id } = JSON.parse(readFileSync(identity, 'utf8')) as { id: string };
      await rm(path.join('/var/lib/banyan', id), { recursive: true, force: true });
    }
    // Releases are read-only, which whoever is not root has to undo before deleting them.
    await runProgram('chmod', ['-R', 'u+w', this.folder]);
    await rm(this.folder, { recursive: true, force: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.remove();
  }
}

/** A folder in the system's place for such, which other accounts may enter, as most folders. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(path.join(tmpdir(), 'banyan-test-'));
  chmodSync(folder, 0o755);
  return folder;
}

/** A folder with these files, by their paths. Nothing is started. */
export async function siteOf(files: Record<string, string>): Promise<Site> {
  const folder = temporaryFolder();
  for (const [name, text] of Object.entries(files)) {
    const file = path.join(folder, name);
    await mkdir(path.dirname(file), { recursive: true });
    await writeFile(file, text);
  }
  await linkPackages(folder);
  return new Site(folder);
}

/** An application of one file, `server.js`, that is up. */
export async function deployFiles(files: Record<string, string>): Promise<Site> {
  const site = await siteOf(files);
  await upOrRemove(site);
  return site;
}

/** A copy of an example, up on a free port. */
export async function deployExample(name: string, topology: Topology = {}): Promise<Site> {
  const site = await copyExample(name, topology);
  await upOrRemove(site);
  return site;
}

/** A copy of an example. Nothing is started. */
export async function copyExample(name: string, topology: Topology = {}): Promise<Site> {
  const folder = temporaryFolder();
  const source = path.join(REPOSITORY, 'examples', name);
  await cp(source, folder, {
    recursive: true,
    filter: file => !/^(node_modules|\.banyan|test)(\/|$)/.test(path.relative(source, file)),
  });
  if (Object.keys(topology).length > 0) {
    await writeFile(
      path.join(folder, 'banyan.config.ts'),
      `export default ${JSON.stringify(topology, null, 2)};\n`,
    );
  }
  await linkPackages(folder);
  return new Site(folder);
}

async function linkPackages(folder: string): Promise<void> {
  await symlink(path.join(REPOSITORY, 'node_modules'), path.join(folder, 'node_modules'));
}

async function upOrRemove(site: Site): Promise<void> {
  try {
    await site.up();
  } catch (error) {
    await site.remove();
    throw error;
  }
}
