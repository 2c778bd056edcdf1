/** Brings the web tier from what runs to a shape: observes, plans, carries out, tells. */
import { carryOutSteps, type StepProgress } from '../steps.ts';
import { WebTier } from './carry-out.ts';
import type { WebContext } from './context.ts';
import { explain } from './explain.ts';
import { planWeb, type Step } from './plan.ts';
import { desiredWeb, type WebShape } from './shape.ts';

export interface Progress extends StepProgress {
  /** Called when a step was carried out, before it counts as done; throws to stop there. */
  afterStep?: (step: Step) => Promise<unknown>;
}

/** What would be done, without doing it. */
export async function planFor(context: WebContext, shape: WebShape): Promise<Step[]> {
  const desired = desiredWeb(shape);
  const { now } = await WebTier.observe(context, shape, desired);
  return planWeb(now, desired);
}

/**
 * @throws whatever a step throws; what served before then still serves
 */
export async function converge(
  context: WebContext,
  shape: WebShape,
  progress: Progress = {},
): Promise<Step[]> {
  const desired = desiredWeb(shape);
  const { tier, now } = await WebTier.observe(context, shape, desired);
  await tier.tidy();
  const steps = planWeb(now, desired);
  const carryOut = async (step: Step) => {
    await tier.carryOut(step);
    await progress.afterStep?.(step);
  };
  await carryOutSteps(steps, explain, carryOut, progress);
  return steps;
}
