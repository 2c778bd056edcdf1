/**
 * Operations that change what runs: `apply`, `scale`, `release`, `rollback`, `resume`, `undo`.
 *
 * Each is the same story: nobody else may; note in the journal what was and what shall be; go there step
 * by step; note that it is done. When a step fails, go back to what was. When the controller is
 * killed, the journal says that it was cut off, and `resume` or `undo` plans anew from what runs.
 */
import { BanyanError } from '../../errors.ts';
import type { CacheShape } from '../cache/shape.ts';
import type { Controller } from '../controller.ts';
import type { DatabaseShape } from '../database/shape.ts';
import type { QueueShape } from '../queue/shape.ts';
import type { WebShape } from '../web/shape.ts';
import type { WorkersShape } from '../workers/shape.ts';
import {
  convergeTo,
  type Goal,
  type Plan,
  type Progress,
  planFor,
  precheck,
  stepsOf,
  wholeGoal,
  writeReached,
} from './goal.ts';
import { type Operation, OperationCutOff } from './journal.ts';

export interface Change {
  /** `scale`, `apply`, `release`, … */
  kind: string;
  /** For people: `web servers 1 → 4`. */
  summary: string;
  /** What the web tier shall be. */
  after: WebShape;
  /** What the database tier shall be. Default: as it is. */
  database?: DatabaseShape;
  /** What the cache tier shall be. Default: as it is. */
  cache?: CacheShape;
  /** Where the queue's messages shall be. Default: where they are. */
  queue?: QueueShape;
  /** What the workers shall be. Default: as they are, of the web servers' release. */
  workers?: WorkersShape;
  /** What the database tier was, if that says more than is known without: who was the primary. */
  databaseBefore?: DatabaseShape;
  /** Looks after each step whether the change is good so far; throws to have it taken back. */
  afterStep?: Progress['afterStep'];
}

export interface ChangeProgress extends Progress {
  /** A step failed, and what was done is taken back. */
  takingBack?: (error: unknown) => void;
}

/** The change was taken back; what was before still runs. */
export class TakenBack extends BanyanError {
  constructor(summary: string, cause: unknown) {
    const error = cause instanceof BanyanError ? cause : undefined;
    super('TAKEN_BACK', {
      what: `It did not work, and was taken back; what ran before still runs. ${error?.what ?? String(cause)}`,
      where: summary,
      ...(error?.remedy ? { remedy: error.remedy } : {}),
      cause,
    });
  }
}

/** Neither forth nor back. */
export class StuckBetween extends BanyanError {
  constructor(id: number, cause: unknown, backCause: unknown) {
    super('STUCK_BETWEEN', {
      what: `It did not work (${(cause as Error).message}), and taking it back did not either (${(backCause as Error).message})`,
      where: `operation ${id}`,
      remedy: 'See `banyan status`; when the cause is mended, `banyan resume` or `banyan undo`',
      cause,
    });
  }
}

export class NothingToResume extends BanyanError {
  constructor(command: string) {
    super('NOTHING_TO_RESUME', {
      what: 'No operation was cut off, and none failed',
      where: command,
      remedy: '`banyan operations` shows the last ones',
    });
  }
}

export class UndoneByRestore extends BanyanError {
  constructor(summary: string) {
    super('UNDONE_BY_RESTORE', {
      what: `The last operation was the ${summary}, which is taken back by a command of its own`,
      where: 'banyan undo',
      remedy: '`banyan restore --undo`',
    });
  }
}

/** What a change would do. */
export function planChange(controller: Controller, wanted: Wanted): Promise<Plan> {
  return planFor(controller, goalOf(controller, wanted));
}

/** What is not named stays as it is. */
export type Wanted = Pick<Change, 'after' | 'database' | 'cache' | 'queue' | 'workers'>;

export function goalOf(
  controller: Controller,
  { after, database = controller.presentDatabase, ...others }: Wanted,
): Goal {
  return wholeGoal(controller, { web: after, database, ...others });
}

/**
 * @returns the number of the operation; undefined when there was nothing to do
 * @throws OperationUnderWay, OperationCutOff, TooManyServers, NoWorkerCommand, HaproxyMissing, CertificateUnusable, PortInUse,
 *   PatroniMissing, NoRoom, …, after which nothing was changed; TakenBack, StuckBetween
 */
export async function change(
  controller: Controller,
  { kind, summary, databaseBefore, afterStep, ...wanted }: Change,
  progress: ChangeProgress = {},
): Promise<number | undefined> {
  const { journal, present, databaseUrl } = controller;
  return journal.exclusively(databaseUrl, async () => {
    const cutOff = await journal.unfinished();
    if (cutOff) throw new OperationCutOff(cutOff);
    const goal = goalOf(controller, wanted);
    const plan = await planFor(controller, goal);
    await precheck(controller, goal, plan);
    if (stepsOf(plan) === 0) {
      await writeReached(controller, goal);
      return undefined;
    }
    const before = goalOf(controller, {
      after: present,
      ...(databaseBefore ? { database: databaseBefore } : {}),
    });
    const id = await journal.begin(kind, summary, before, goal);
    await goThere(controller, id, summary, before, goal, afterStep, progress);
    return id;
  });
}

/** Finishes the operation that was cut off. @throws NothingToResume, TakenBack, StuckBetween */
export async function resume(
  controller: Controller,
  progress: ChangeProgress = {},
): Promise<Operation<Goal>> {
  const { journal, present, databaseUrl } = controller;
  return journal.exclusively(databaseUrl, async () => {
    const operation = await journal.unfinished<Goal>();
    if (!operation) throw new NothingToResume('banyan resume');
    const { id, summary, before = goalOf(controller, { after: present }), after } = operation;
    await journal.takeOver(id);
    await goThere(controller, id, summary, before, after, undefined, progress);
    return operation;
  });
}

/** Takes back the operation that was cut off or, if none was, the last that was done. @throws NothingToResume */
export async function undo(
  controller: Controller,
  progress: ChangeProgress = {},
): Promise<Operation<Goal>> {
  const { journal, databaseUrl } = controller;
  return journal.exclusively(databaseUrl, async () => {
    const recent = await journal.last<Goal>(20);
    const operation =
      (await journal.unfinished<Goal>()) ?? recent.find(({ state }) => state === 'done');
    if (operation?.kind === 'restore') throw new UndoneByRestore(operation.summary);
    if (!operation?.before) throw new NothingToResume('banyan undo');
    await journal.takeOver(operation.id);
    await convergeTo(controller, operation.before, noting(controller, operation.id, progress));
    await writeReached(controller, operation.before);
    await journal.end(operation.id, 'undone');
    return operation;
  });
}

async function goThere(
  controller: Controller,
  id: number,
  summary: string,
  before: Goal,
  after: Goal,
  afterStep: Change['afterStep'],
  progress: ChangeProgress,
): Promise<void> {
  const { journal } = controller;
  try {
    await convergeTo(controller, after, {
      ...noting(controller, id, progress),
      ...(afterStep ? { afterStep } : {}),
    });
  } catch (error) {
    progress.takingBack?.(error);
    try {
      await convergeTo(controller, before, noting(controller, id, progress));
    } catch (backError) {
      // It stays unfinished in the journal, so that nothing else begins on top of it.
      throw new StuckBetween(id, error, backError);
    }
    await journal.end(id, 'undone', (error as Error).message);
    throw new TakenBack(summary, error);
  }
  await writeReached(controller, after);
  await journal.end(id, 'done');
}

function noting(controller: Controller, id: number, progress: ChangeProgress): Progress {
  return {
    ...(progress.begin ? { begin: progress.begin } : {}),
    ...(progress.note ? { note: progress.note } : {}),
    done: async (what, ms) => {
      await controller.journal.stepDone(id, { what, ms: Math.round(ms) });
      await progress.done?.(what, ms);
    },
  };
}
