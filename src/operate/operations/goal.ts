/** What a deployment should be, all tiers: what an operation leads to, and what the journal keeps. */

import { convergeCache, planCacheFor } from '../cache/carry-out.ts';
import { explainCache } from '../cache/explain.ts';
import type { CacheStep } from '../cache/plan.ts';
import { precheckCache } from '../cache/precheck.ts';
import { CACHE_SHAPE, type CacheShape } from '../cache/shape.ts';
import type { Controller } from '../controller.ts';
import { DatabaseTier } from '../database/carry-out.ts';
import { observeDatabase, recordOf } from '../database/context.ts';
import { explainDatabase } from '../database/explain.ts';
import { precheckDatabase } from '../database/precheck.ts';
import { DATABASE_SHAPE, type DatabaseShape } from '../database/shape.ts';
import { planShards, type ShardStep } from '../database/sharding/plan.ts';
import { convergeQueue, planQueueFor } from '../queue/carry-out.ts';
import { explainQueue } from '../queue/explain.ts';
import type { QueueStep } from '../queue/plan.ts';
import { precheckQueue } from '../queue/precheck.ts';
import { QUEUE_SHAPE, type QueueShape } from '../queue/shape.ts';
import { carryOutSteps, type StepProgress } from '../steps.ts';
import { converge as convergeWeb, planFor as planForWeb } from '../web/converge.ts';
import { type ExplainedStep, explain as explainWeb } from '../web/explain.ts';
import type { Step as WebStep } from '../web/plan.ts';
import { precheck as precheckWeb } from '../web/precheck.ts';
import { WEB_SHAPE, type WebShape } from '../web/shape.ts';
import { convergeWorkers, planWorkersFor } from '../workers/carry-out.ts';
import { explainWorkers } from '../workers/explain.ts';
import type { WorkerStep } from '../workers/plan.ts';
import { precheckWorkers } from '../workers/precheck.ts';
import { WORKERS_SHAPE, type WorkersShape } from '../workers/shape.ts';

export interface Goal {
  web: WebShape;
  database: DatabaseShape;
  /** Missing, in journals of old: as it is. */
  cache?: CacheShape;
  /** The same. */
  workers?: WorkersShape;
  /** The same. */
  queue?: QueueShape;
}

export interface Plan {
  database: ShardStep[];
  cache: CacheStep[];
  queue: QueueStep[];
  workers: WorkerStep[];
  web: WebStep[];
}

export interface Progress extends StepProgress {
  /** Called when a step was carried out, before it counts as done; throws to stop there. */
  afterStep?: (step: WebStep | WorkerStep) => Promise<unknown>;
}

/** How many steps a plan has, of all tiers. */
export function stepsOf(plan: Plan): number {
  return Object.values(plan).reduce((sum, steps) => sum + steps.length, 0);
}

/** What it does not name stays as it is. */
export function wholeGoal(
  { presentCache, presentQueue, presentWorkers }: Controller,
  { web, database, cache = presentCache, queue = presentQueue, workers = presentWorkers }: Goal,
): Required<Goal> {
  return { web, database, cache, queue, workers };
}

export async function planFor(controller: Controller, goal: Goal): Promise<Plan> {
  const wanted = wholeGoal(controller, goal);
  const [database, cache, queue, workers, web] = await Promise.all([
    planForDatabase(controller, wanted.database),
    planCacheFor(controller.cacheContext, wanted.cache),
    planQueueFor(controller.queueContext, wanted.queue),
    planWorkersFor(controller.workersContextFor(wanted.workers, wanted.web), wanted.workers),
    planForWeb(controller.contextFor(wanted.web), wanted.web),
  ]);
  return { database, cache, queue, workers, web };
}

async function planForDatabase(
  { databaseContext: context }: Controller,
  shape: DatabaseShape,
): Promise<ShardStep[]> {
  const { sharding } = recordOf(context.deployment);
  const states = context.isExternal ? [] : await context.machine.states();
  const observed = await Promise.all(
    Array.from({ length: sharding?.ranges.length ?? 1 }, (_, shard) =>
      observeDatabase({ ...context, shard }, states),
    ),
  );
  return planShards(observed, sharding, shape);
}

/** All steps in the order in which they are done, in words. */
export function explainPlan(
  plan: Plan,
  goal: Goal,
  present: WebShape,
): ((ShardStep | CacheStep | QueueStep | WorkerStep | WebStep) & ExplainedStep)[] {
  const explained = {
    database: plan.database.map(step => ({ ...step, ...explainShardStep(step) })),
    cache: plan.cache.map(step => ({ ...step, ...explainCache(step) })),
    queue: plan.queue.map(step => ({ ...step, ...explainQueue(step) })),
    workers: plan.workers.map(step => ({ ...step, ...explainWorkers(step) })),
    web: plan.web.map(step => ({ ...step, ...explainWeb(step) })),
  };
  return orderOf(goal, present).flatMap(tier => [...explained[tier]]);
}

function explainShardStep(step: ShardStep): ExplainedStep {
  const explained = explainDatabase(step);
  // Other steps name a server, which tells the shard.
  if (step.shard === undefined || 'name' in step) return explained;
  return { ...explained, what: `shard ${step.shard + 1}: ${explained.what}` };
}

/** What can be found out before anything is touched. */
export async function precheck(controller: Controller, goal: Goal, plan: Plan): Promise<void> {
  const { web, database, cache, queue, workers } = wholeGoal(controller, goal);
  await precheckWeb(controller.deployment, web, plan.web, workers.servers);
  precheckWorkers(controller.workersContextFor(workers, web), workers, plan.workers);
  await precheckDatabase(controller.databaseContext, database, plan.database);
  precheckQueue(queue);
  await precheckCache(controller.cacheContext, cache);
}

/** Goes there. @throws whatever a step throws; what served before then still serves */
export async function convergeTo(
  controller: Controller,
  goal: Goal,
  progress: Progress = {},
): Promise<void> {
  const { web, database, cache, queue, workers } = wholeGoal(controller, goal);
  const go: Record<Tier, () => Promise<unknown>> = {
    database: () => convergeDatabase(controller, database, progress),
    cache: () => convergeCache(controller.cacheContext, cache, progress),
    queue: () => convergeQueue(controller.queueContext, queue, progress),
    workers: () => convergeWorkers(controller.workersContextFor(workers, web), workers, progress),
    web: () => convergeWeb(controller.contextFor(web), web, progress),
  };
  for (const tier of orderOf(goal, controller.present)) await go[tier]();
}

type Tier = keyof Plan;

function orderOf({ web }: Goal, present: WebShape): Tier[] {
  // Servers give connections back before the database has fewer.
  if (web.maxConnections < present.maxConnections) {
    return ['web', 'workers', 'database', 'cache', 'queue'];
  }
  // Servers that ask for a store find one that is there; what they have asked for goes when they know of another.
  // And who does a job of a new kind is there before who publishes it: on the way back it leaves after it.
  return web.release < present.release
    ? ['database', 'cache', 'queue', 'web', 'workers']
    : ['database', 'cache', 'queue', 'workers', 'web'];
}

async function convergeDatabase(
  controller: Controller,
  shape: DatabaseShape,
  progress: Progress,
): Promise<void> {
  const steps = await planForDatabase(controller, shape);
  const note = progress.note ?? (() => {});
  const carryOut = (step: ShardStep) => {
    const context = { ...controller.databaseContext, shard: step.shard ?? 0 };
    return new DatabaseTier(context, shape, note).carryOut(step);
  };
  await carryOutSteps(steps, explainShardStep, carryOut, progress);
}

/** Notes what was reached. Wishes that are fulfilled (who is the primary) are none any more. */
export async function writeReached(
  { catalog }: Controller,
  { web, database, cache, queue, workers }: Goal,
): Promise<void> {
  if (queue) await catalog.write(QUEUE_SHAPE, queue);
  if (workers) await catalog.write(WORKERS_SHAPE, workers);
  if (cache) await catalog.write(CACHE_SHAPE, cache);
  await catalog.write(WEB_SHAPE, web);
  await catalog.write(DATABASE_SHAPE, withoutWishes(database));
}

function withoutWishes(shape: DatabaseShape): DatabaseShape {
  if (shape.kind !== 'cluster') return shape;
  const { primary: _primary, retired: _retired, startedAfter: _started, ...rest } = shape;
  return rest;
}
