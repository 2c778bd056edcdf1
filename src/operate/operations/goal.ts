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
import { converge as convergeWeb, type Progress, planFor as planForWeb } from '../web/converge.ts';
import { type ExplainedStep, explain as explainWeb } from '../web/explain.ts';
import type { Step as WebStep } from '../web/plan.ts';
import { precheck as precheckWeb } from '../web/precheck.ts';
import { WEB_SHAPE, type WebShape } from '../web/shape.ts';

export interface Goal {
  web: WebShape;
  database: DatabaseShape;
  /** Missing, in journals of old: as it is. */
  cache?: CacheShape;
}

export interface Plan {
  database: ShardStep[];
  cache: CacheStep[];
  web: WebStep[];
}

export type { Progress };

export async function planFor(controller: Controller, goal: Goal): Promise<Plan> {
  const [database, cache, web] = await Promise.all([
    planForDatabase(controller, goal.database),
    planCacheFor(controller.cacheContext, goal.cache ?? controller.presentCache),
    planForWeb(controller.contextFor(goal.web), goal.web),
  ]);
  return { database, cache, web };
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
): ((ShardStep | CacheStep | WebStep) & ExplainedStep)[] {
  const database = plan.database.map(step => ({ ...step, ...explainShardStep(step) }));
  const cache = plan.cache.map(step => ({ ...step, ...explainCache(step) }));
  const web = plan.web.map(step => ({ ...step, ...explainWeb(step) }));
  return isWebFirst(goal, present)
    ? [...web, ...database, ...cache]
    : [...database, ...cache, ...web];
}

function explainShardStep(step: ShardStep): ExplainedStep {
  const explained = explainDatabase(step);
  // Other steps name a server, which tells the shard.
  if (step.shard === undefined || 'name' in step) return explained;
  return { ...explained, what: `shard ${step.shard + 1}: ${explained.what}` };
}

/** What can be found out before anything is touched. */
export async function precheck(controller: Controller, goal: Goal, plan: Plan): Promise<void> {
  await precheckWeb(controller.deployment, goal.web, plan.web);
  await precheckDatabase(controller.databaseContext, goal.database, plan.database);
  await precheckCache(controller.cacheContext, goal.cache ?? controller.presentCache);
}

/** Goes there. @throws whatever a step throws; what served before then still serves */
export async function convergeTo(
  controller: Controller,
  goal: Goal,
  progress: Progress = {},
): Promise<void> {
  const web = () => convergeWeb(controller.contextFor(goal.web), goal.web, progress);
  if (isWebFirst(goal, controller.present)) await web();
  await convergeDatabase(controller, goal.database, progress);
  // Servers that ask for a store find one that is there; what they have asked for goes when they know of another.
  await convergeCache(controller.cacheContext, goal.cache ?? controller.presentCache, progress);
  if (!isWebFirst(goal, controller.present)) await web();
}

/** Servers give connections back before the database has fewer. */
function isWebFirst({ web }: Goal, present: WebShape): boolean {
  return web.maxConnections < present.maxConnections;
}

async function convergeDatabase(
  controller: Controller,
  shape: DatabaseShape,
  progress: Progress,
): Promise<void> {
  const steps = await planForDatabase(controller, shape);
  const note = progress.note ?? (() => {});
  for (const [index, step] of steps.entries()) {
    const context = { ...controller.databaseContext, shard: step.shard ?? 0 };
    const tier = new DatabaseTier(context, shape, note);
    const { what } = explainShardStep(step);
    const begun = performance.now();
    progress.begin?.(what, index + 1, steps.length);
    await tier.carryOut(step);
    await progress.done?.(what, performance.now() - begun);
  }
}

/** Notes what was reached. Wishes that are fulfilled (who is the primary) are none any more. */
export async function writeReached(
  { catalog }: Controller,
  { web, database, cache }: Goal,
): Promise<void> {
  if (cache) await catalog.write(CACHE_SHAPE, cache);
  await catalog.write(WEB_SHAPE, web);
  await catalog.write(DATABASE_SHAPE, withoutWishes(database));
}

function withoutWishes(shape: DatabaseShape): DatabaseShape {
  if (shape.kind !== 'cluster') return shape;
  const { primary: _primary, retired: _retired, startedAfter: _started, ...rest } = shape;
  return rest;
}
