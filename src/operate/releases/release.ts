/**
 * `banyan release`: build, copy, migrate, replace the servers one by one. `banyan rollback`: the same way
 * back, without building and without touching the schema.
 *
 * Holds true here:
 * - Until the first new server is ready nothing that serves has been touched, but for the migrations,
 *   which the old release has to bear (docs/7-releases.md).
 * - A release that does not become ready, or whose errors rise, is taken back by itself.
 */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { BanyanError } from '../../errors.ts';
import { applicationEnv } from '../application-env.ts';
import type { Controller } from '../controller.ts';
import { applyCopies } from '../database/copies/apply.ts';
import { shardUrls } from '../database/primary.ts';
import { declareOnline } from '../database/sharding/declare.ts';
import { runMigrations, runUserCommand } from '../migrations.ts';
import { type ChangeProgress, change, TakenBack } from '../operations/change.ts';
import { runtimeSocket } from '../web/balancer-files.ts';
import type { Step } from '../web/plan.ts';
import { shapeOf } from '../web/shape.ts';
import type { WorkerStep } from '../workers/plan.ts';
import { workersShapeOf } from '../workers/shape.ts';
import { watchWorker } from '../workers/watch.ts';
import { type Release, ReleaseCatalog } from './catalog.ts';
import { copyIntoRelease, removeRelease, requireRelease } from './folder.ts';
import { watchServers } from './watch.ts';

/** So many that serve no more are kept to go back to. */
const KEPT_RELEASES = 5;

/** How long a new server is watched before the next one is replaced. */
export const WATCH_MS = 2_000;

export interface ReleaseOptions {
  message?: string;
  /** Default: {@link WATCH_MS}; 0 to leave the watching out. */
  watchMs?: number;
}

export interface ReleaseProgress extends ChangeProgress {
  /** One of the steps before the servers: building, copying, migrating. */
  preparing?: (what: string) => void;
  /** What the build or the migration command prints. */
  output?: (line: string) => void;
}

export class BuildFailed extends BanyanError {
  constructor(command: string, reason: string, output: string[]) {
    const quoted = output.map(line => `\n  │ ${line}`).join('');
    super('BUILD_FAILED', {
      what: `The build ${reason}${quoted ? `. Its last words:${quoted}\n` : ''}`,
      where: command,
      remedy: 'Nothing was changed; the old release serves. Correct what it says and release again',
    });
  }
}

export class NoReleaseToRollBackTo extends BanyanError {
  constructor(wanted: number | undefined, known: number[]) {
    super('NO_RELEASE_TO_ROLL_BACK_TO', {
      what:
        wanted === undefined
          ? 'There is no release before the one that serves'
          : `There is no release ${wanted}`,
      where: 'banyan rollback',
      remedy: known.length
        ? `There are: ${known.join(', ')}; 0 is the application's folder as it is`
        : 'Make one with `banyan release`',
    });
  }
}

/**
 * @returns the number of the new release
 * @throws BuildFailed, MigrationFailed, …, TakenBack; after each the old release serves
 */
export async function release(
  controller: Controller,
  { message, watchMs = WATCH_MS }: ReleaseOptions,
  progress: ReleaseProgress = {},
): Promise<number> {
  const { paths, topology, catalog, present, presentWorkers } = controller;
  const releases = new ReleaseCatalog(catalog);
  // Only the release changes: as many servers as now, whatever the configuration says.
  const shape = shapeOf(topology, present, present.servers);
  const workers = workersShapeOf(topology, presentWorkers, presentWorkers.servers);
  await build(controller, progress);

  const commit = await commitOf(paths.app);
  const number = await releases.add({
    web: shape.web,
    workers: workers.workers,
    ...(commit ? { commit } : {}),
    ...(message ? { message } : {}),
  });
  try {
    progress.preparing?.(`copying the application into release ${number}`);
    const folder = await copyIntoRelease(paths, number);
    await migrateFrom(controller, folder, progress);
    const summary = `release ${present.release} → ${number}`;
    const afterStep = watching(controller, watchMs);
    await change(
      controller,
      { kind: 'release', summary, after: { ...shape, release: number }, workers, afterStep },
      progress,
    );
  } catch (error) {
    const reason =
      error instanceof TakenBack ? (error.cause as Error).message : (error as Error).message;
    await releases.noteFailure(number, reason.split('\n', 1)[0]!);
    await removeRelease(paths, number);
    throw error;
  }
  await prune(controller, releases, number);
  return number;
}

/**
 * @param wanted the number of a release; the one before the present when left out
 * @throws NoReleaseToRollBackTo, ReleaseGone, TakenBack
 */
export async function rollback(
  controller: Controller,
  wanted: number | undefined,
  progress: ReleaseProgress = {},
): Promise<number> {
  const { paths, catalog, present, presentWorkers, topology } = controller;
  const good = (await new ReleaseCatalog(catalog).all()).filter(({ failed }) => !failed);
  const target = wanted ?? good.find(({ number }) => number < present.release)?.number;
  const found = good.find(({ number }) => number === target);
  if (target === undefined || (target !== 0 && !found)) {
    throw new NoReleaseToRollBackTo(
      wanted,
      good.map(({ number }) => number),
    );
  }
  requireRelease(paths, target);
  const shape = shapeOf(topology, present, present.servers);
  const workers = workersShapeOf(topology, presentWorkers, presentWorkers.servers);
  await change(
    controller,
    {
      kind: 'rollback',
      summary: `release ${present.release} → ${target}`,
      after: { ...shape, release: target, web: webOf(found, shape.web) },
      workers: { ...workers, workers: workersOf(found, workers.workers) },
    },
    progress,
  );
  return target;
}

/** The command and the environment go back with the code; how many servers run does not. */
function webOf<Web extends Release['web']>(found: Release | undefined, web: Web): Web {
  if (!found) return web;
  const { command, env, ready, startTimeoutMs, drainTimeoutMs } = found.web;
  return { ...web, command, env, ready, startTimeoutMs, drainTimeoutMs };
}

function workersOf<Workers extends Release['workers'] & {}>(
  found: Release | undefined,
  workers: Workers,
): Workers {
  if (!found?.workers) return workers;
  return { ...found.workers, servers: workers.servers } as Workers;
}

async function build(
  { paths, topology, deployment, databaseUrl, circumstances }: Controller,
  progress: ReleaseProgress,
): Promise<void> {
  const { build: command } = topology.web;
  if (!command) return;
  progress.preparing?.(`building: ${command}`);
  const env = applicationEnv(deployment, topology.web, databaseUrl, circumstances.environment);
  const { reason, output } = await runUserCommand(
    paths.app,
    command,
    // What a build needs to know is not what a server is told.
    { ...env, NODE_ENV: circumstances.environment.NODE_ENV },
    progress.output ?? (() => {}),
  );
  if (reason) throw new BuildFailed(command, reason, output);
}

async function migrateFrom(
  { topology, deployment, machine, databaseUrl, circumstances }: Controller,
  folder: string,
  progress: ReleaseProgress,
): Promise<void> {
  const { migrations, migrate } = topology.database;
  if (!migrations && !migrate) return;
  progress.preparing?.(`migrating: ${migrate ?? migrations}`);
  const env = applicationEnv(deployment, topology.web, databaseUrl, circumstances.environment);
  const urls = await shardUrls(deployment, topology.database.url);
  const done = await runMigrations(folder, topology.database, urls, env, line =>
    progress.output?.(line),
  );
  if (done) progress.output?.(done);
  if (topology.database.url) return;
  const declared = await declareOnline(deployment, urls, topology.database);
  if (declared) progress.output?.(declared);
  const copies = await applyCopies(machine, deployment, circumstances.environment);
  if (copies) progress.output?.(copies);
}

/** After each new server has joined: looks at what it answers. After each new worker: whether it goes on running. */
function watching(controller: Controller, watchMs: number) {
  const joined = new Set<string>();
  return async (step: Step | WorkerStep): Promise<void> => {
    if (watchMs === 0) return;
    if (step.do === 'start-worker') return watchWorker(controller.machine, step.name, watchMs);
    if (step.do !== 'join') return;
    joined.add(step.name);
    const balancers = (await controller.machine.states()).filter(({ tier }) => tier === 'balancer');
    const sockets = balancers.map(({ name }) => runtimeSocket(controller.deployment, name));
    await watchServers(sockets, joined, watchMs);
  };
}

/** Old releases make room; the present one and the few before it stay. */
async function prune(
  { paths }: Controller,
  releases: ReleaseCatalog,
  present: number,
): Promise<void> {
  const old = (await releases.all()).filter(({ number }) => number < present);
  const kept = new Set(
    old
      .filter(({ failed }) => !failed)
      .slice(0, KEPT_RELEASES)
      .map(({ number }) => number),
  );
  for (const { number, failed } of old) {
    if (kept.has(number) || failed) continue;
    await removeRelease(paths, number);
    await releases.forget(number);
  }
}

async function commitOf(folder: string): Promise<string | undefined> {
  try {
    const git = promisify(execFile);
    const { stdout } = await git('git', ['-C', folder, 'rev-parse', '--short', 'HEAD']);
    const { stdout: changes } = await git('git', ['-C', folder, 'status', '--porcelain', '.']);
    return `${stdout.trim()}${changes.trim() ? ' with changes' : ''}`;
  } catch {
    return undefined;
  }
}
