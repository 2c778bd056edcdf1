/** `banyan operations`, `resume`, `undo`: what was changed, and what was cut off. */
import pc from 'picocolors';
import { type Controller, withController } from '../operate/controller.ts';
import { DeploymentPaths } from '../operate/deployment.ts';
import { resume as resumeOperation, undo as undoOperation } from '../operate/operations/change.ts';
import type { Operation, OperationState } from '../operate/operations/journal.ts';
import { ago, type CommonOptions, columns, duration, printJson } from './output.ts';
import { operationProgress } from './progress.ts';

export interface OperationsOptions extends CommonOptions {
  lines: number;
}

export async function operations(options: OperationsOptions): Promise<void> {
  await withController(
    new DeploymentPaths(options.dir),
    async ({ journal }) => {
      const last = await journal.last(options.lines);
      if (options.json) printJson(last);
      else process.stdout.write(`${last.length ? render(last) : 'No operation yet.'}\n`);
    },
    { withoutConfig: true },
  );
}

export async function resume(options: CommonOptions): Promise<void> {
  await run(options, resumeOperation, 'finished');
}

export async function undo(options: CommonOptions): Promise<void> {
  await run(options, undoOperation, 'taken back');
}

async function run(
  options: CommonOptions,
  carryOut: typeof resumeOperation | typeof undoOperation,
  done: string,
): Promise<void> {
  const json = options.json ?? false;
  await withController(
    new DeploymentPaths(options.dir),
    async (controller: Controller) => {
      const { id, summary } = await carryOut(controller, operationProgress(json));
      if (json) printJson({ operation: id, summary, outcome: done });
      else process.stdout.write(`${pc.green('✔')} operation ${id} (${summary}) ${done}\n`);
    },
    { withoutConfig: true },
  );
}

const MARKS: Record<OperationState, string> = {
  running: pc.yellow('…'),
  done: pc.green('✔'),
  failed: pc.red('✖'),
  undone: pc.yellow('↩'),
};

function render(operations: Operation[]): string {
  return columns(
    operations.map(({ id, kind, summary, state, steps, startedAt, endedAt, error }) => [
      `${MARKS[state]} ${id}`,
      kind,
      summary,
      `${ago(startedAt.toISOString())} ago`,
      endedAt
        ? `took ${duration(endedAt.getTime() - startedAt.getTime())}`
        : `${steps.length} steps done`,
      state === 'done'
        ? ''
        : `${state === 'running' ? 'under way, or cut off' : state}${error ? `: ${error.split('\n', 1)[0]}` : ''}`,
    ]),
  );
}
