/** `banyan plan` and `banyan apply`: from what runs to what banyan.config.ts says. */
import { isDeepStrictEqual } from 'node:util';
import pc from 'picocolors';
import { readSchema } from '../app/database/shards/declaration/schema.ts';
import { cacheNotes } from '../operate/cache/precheck.ts';
import { type CacheShape, cacheShapeOf, describeCache } from '../operate/cache/shape.ts';
import { type Controller, withController } from '../operate/controller.ts';
import { resolveCopies } from '../operate/database/copies/copies.ts';
import { withClient } from '../operate/database/provision.ts';
import {
  type DatabaseShape,
  databaseShapeOf,
  settingsRevision,
} from '../operate/database/shape.ts';
import { checkDeclaration, problemsInWords } from '../operate/database/sharding/check.ts';
import { DeploymentPaths } from '../operate/deployment.ts';
import { change, goalOf, planChange } from '../operate/operations/change.ts';
import { explainPlan } from '../operate/operations/goal.ts';
import { describeQueue, type QueueShape, queueShapeOf } from '../operate/queue/shape.ts';
import type { ExplainedStep } from '../operate/web/explain.ts';
import { desiredWeb, shapeOf, type WebShape } from '../operate/web/shape.ts';
import { type WorkersShape, workerRevision, workersShapeOf } from '../operate/workers/shape.ts';
import { agrees } from './ask.ts';
import { type CommonOptions, columns, EXIT, printJson } from './output.ts';
import { operationProgress } from './progress.ts';

export interface ApplyOptions extends CommonOptions {
  yes?: boolean;
}

export async function plan(options: CommonOptions): Promise<void> {
  await withController(new DeploymentPaths(options.dir), async controller => {
    const wanted = wantedBy(controller);
    const steps = await planChange(controller, wanted);
    const explained = explainPlan(steps, goalOf(controller, wanted), controller.present);
    const notes = await allNotes(controller);
    if (options.json) printJson({ steps: explained, notes });
    else process.stdout.write(`${renderPlan(wanted.summary, explained, notes)}\n`);
  });
}

export async function apply(options: ApplyOptions): Promise<void> {
  await withController(new DeploymentPaths(options.dir), async controller => {
    const wanted = wantedBy(controller);
    if (!options.json) {
      const plan = await planChange(controller, wanted);
      const steps = explainPlan(plan, goalOf(controller, wanted), controller.present);
      const notes = await allNotes(controller);
      process.stdout.write(`${renderPlan(wanted.summary, steps, notes)}\n`);
      if (steps.length > 0 && !options.yes && !(await agrees('Do this?', 'banyan apply --yes'))) {
        process.stdout.write('Nothing was changed.\n');
        process.exitCode = EXIT.failed;
        return;
      }
    }
    await carryOut(controller, { kind: 'apply', ...wanted }, options.json ?? false);
  });
}

/** What the configuration asks for. */
function wantedBy({
  topology,
  present,
  presentDatabase,
  presentCache,
  presentQueue,
  presentWorkers,
}: Controller) {
  const asked = databaseShapeOf(topology);
  // A database of one's own and one that somebody else runs do not turn into each other while they serve.
  const isFixed = (asked.kind === 'external') !== (presentDatabase.kind === 'external');
  const database = isFixed ? presentDatabase : asked;
  const after = shapeOf(
    topology,
    present,
    undefined,
    database.kind === 'cluster' ? database.settings.maxConnections : undefined,
  );
  const cache = cacheShapeOf(topology.cache);
  const queue = queueShapeOf(topology.queue);
  const workers = workersShapeOf(topology, presentWorkers);
  const changes = [
    databaseSummary(presentDatabase, database),
    cacheSummary(presentCache, cache),
    queueSummary(presentQueue, queue),
    workersSummary(presentWorkers, workers),
    webSummary(present, after),
  ].filter(text => text !== undefined);
  const summary = changes.join(', ') || 'settings of the web tier';
  return { after, database, cache, queue, workers, summary };
}

export function queueSummary(before: QueueShape, after: QueueShape): string | undefined {
  const [was, shall] = [describeQueue(before), describeQueue(after)];
  return was === shall ? undefined : `queue: ${was} → ${shall}`;
}

export function workersSummary(before: WorkersShape, after: WorkersShape): string | undefined {
  if (before.servers !== after.servers) return `workers ${before.servers} → ${after.servers}`;
  const autoscaled = ({ workers: { servers } }: WorkersShape) => servers.min < servers.max;
  const same =
    workerRevision(before) === workerRevision(after) && autoscaled(before) === autoscaled(after);
  return same || after.servers + before.servers === 0 ? undefined : 'settings of the workers';
}

function cacheSummary(before: CacheShape, after: CacheShape): string | undefined {
  const [was, shall] = [describeCache(before), describeCache(after)];
  if (was !== shall) return `cache: ${was} → ${shall}`;
  return isDeepStrictEqual(before, after) ? undefined : 'settings of the cache';
}

function databaseSummary(before: DatabaseShape, after: DatabaseShape): string | undefined {
  const replicas = (shape: DatabaseShape) => (shape.kind === 'cluster' ? shape.replicas : 0);
  if (replicas(before) !== replicas(after)) {
    return `replicas of the database ${replicas(before)} → ${replicas(after)}`;
  }
  if (before.kind === 'external' || after.kind === 'external') return undefined;
  if (!isDeepStrictEqual(before.declaration, after.declaration)) {
    return 'how tables are spread over the shards';
  }
  if (before.kind !== 'cluster' || after.kind !== 'cluster') return undefined;
  return settingsRevision(before.settings) === settingsRevision(after.settings)
    ? undefined
    : 'settings of the database';
}

/** Runs a change, shows it, and says how it is taken back. */
export async function carryOut(
  controller: Controller,
  what: Parameters<typeof change>[1],
  json: boolean,
): Promise<void> {
  const begun = performance.now();
  const id = await change(controller, what, operationProgress(json));
  if (json)
    printJson({
      operation: id ?? null,
      summary: what.summary,
      ms: Math.round(performance.now() - begun),
    });
  else if (id === undefined) process.stdout.write(`${pc.green('✔')} nothing to do\n`);
  else {
    process.stdout.write(
      `${pc.green('✔')} ${what.summary} ${pc.dim(`· operation ${id}; taken back by: banyan undo`)}\n`,
    );
  }
}

/** What changes, in a few words. */
export function summaryOf(before: WebShape, after: WebShape): string {
  return webSummary(before, after) ?? 'settings of the web tier';
}

function webSummary(before: WebShape, after: WebShape): string | undefined {
  const changes: string[] = [];
  if (before.servers !== after.servers) {
    changes.push(`web servers ${before.servers} → ${after.servers}`);
  }
  if (before.release !== after.release) {
    changes.push(`release ${before.release} → ${after.release}`);
  }
  const balancers = (shape: WebShape) => shape.balancer?.addresses.length ?? 0;
  if (balancers(before) !== balancers(after)) {
    changes.push(`balancers ${balancers(before)} → ${balancers(after)}`);
  }
  // A change of their number or release would hide that settings change with it.
  const [old, wanted] = [desiredWeb(before), desiredWeb(after)];
  if (before.balancer && after.balancer && old.balancerRevision !== wanted.balancerRevision) {
    changes.push('settings of the balancer');
  }
  if (old.revision !== wanted.revision) changes.push('settings of the servers');
  return changes.join(', ') || undefined;
}

function renderPlan(summary: string, steps: ExplainedStep[], notes: string[]): string {
  const remarks = notes.map(note => `  ${pc.yellow('!')} ${note}`);
  if (steps.length === 0) {
    return [`${pc.green('✔')} what runs is what banyan.config.ts says`, ...remarks].join('\n');
  }
  const marks = { '+': pc.green('+'), '-': pc.red('-'), '~': pc.yellow('~') };
  const rows = steps.map((step, index) => {
    const { mark, what, traffic } = step;
    const notices = traffic === 'nothing' ? pc.dim('nothing') : traffic;
    return [`  ${pc.dim(String(index + 1).padStart(2))} ${marks[mark]} ${what}`, notices];
  });
  return [
    pc.bold(summary),
    columns([[pc.dim('     step'), pc.dim('what traffic notices')], ...rows]),
    pc.dim(
      '  No request fails. A step that fails is taken back with those before it; later: banyan undo',
    ),
    ...remarks,
  ].join('\n');
}

/** What of the declaration does not fit the tables that are there. */
async function declarationNotes({ topology, databaseUrl }: Controller): Promise<string[]> {
  const { shards, tables, unique, denormalize, url } = topology.database;
  const places = shards > 1 && Object.keys(tables).length > 0;
  const copies = Object.keys(denormalize).length > 0;
  if (url || (!places && !copies)) return [];
  const schema = await withClient(databaseUrl, readSchema);
  return problemsInWords([
    ...(places ? checkDeclaration({ tables, unique }, schema) : []),
    ...resolveCopies({ tables, unique, denormalize }, schema).problems,
  ]);
}

/** What there is to say beside the steps. */
async function allNotes(controller: Controller): Promise<string[]> {
  const { cacheContext, topology } = controller;
  return [
    ...notesOf(controller),
    ...(await declarationNotes(controller)),
    ...(await cacheNotes(cacheContext, topology.cache)),
  ];
}

/** What the configuration says and no running deployment can take on. */
function notesOf({ topology, circumstances, present, presentDatabase }: Controller): string[] {
  const notes: string[] = [];
  const { port } = topology.web;
  if (port !== 0 && port !== circumstances.publicPort) {
    notes.push(
      `the public port stays ${circumstances.publicPort} until the next \`banyan down\` and \`up\`; banyan.config.ts says ${port}`,
    );
  }
  const { url, maxConnections } = topology.database;
  if (!url && presentDatabase.kind === 'embedded' && maxConnections !== present.maxConnections) {
    notes.push('`database.maxConnections` takes effect with the next `banyan down` and `up`');
  }
  return notes;
}
