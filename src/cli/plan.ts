/** `banyan plan` and `banyan apply`: from what runs to what banyan.config.ts says. */
import pc from 'picocolors';
import { type Controller, withController } from '../operate/controller.ts';
import { DeploymentPaths } from '../operate/deployment.ts';
import { change, planChange } from '../operate/operations/change.ts';
import { explain } from '../operate/web/explain.ts';
import type { Step } from '../operate/web/plan.ts';
import { desiredWeb, shapeOf, type WebShape } from '../operate/web/shape.ts';
import { agrees } from './ask.ts';
import { type CommonOptions, columns, EXIT, printJson } from './output.ts';
import { operationProgress } from './progress.ts';

export interface ApplyOptions extends CommonOptions {
  yes?: boolean;
}

export async function plan(options: CommonOptions): Promise<void> {
  await withController(new DeploymentPaths(options.dir), async controller => {
    const after = shapeOf(controller.topology, controller.present);
    const steps = await planChange(controller, after);
    const notes = notesOf(controller);
    if (options.json) printJson({ ...planAsJson(steps), notes });
    else
      process.stdout.write(`${renderPlan(summaryOf(controller.present, after), steps, notes)}\n`);
  });
}

export async function apply(options: ApplyOptions): Promise<void> {
  await withController(new DeploymentPaths(options.dir), async controller => {
    const after = shapeOf(controller.topology, controller.present);
    const summary = summaryOf(controller.present, after);
    const steps = await planChange(controller, after);
    if (!options.json) {
      process.stdout.write(`${renderPlan(summary, steps, notesOf(controller))}\n`);
      if (steps.length > 0 && !options.yes && !(await agrees('Do this?', 'banyan apply --yes'))) {
        process.stdout.write('Nothing was changed.\n');
        process.exitCode = EXIT.failed;
        return;
      }
    }
    await carryOut(controller, { kind: 'apply', summary, after }, options.json ?? false);
  });
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
  return changes.join(', ') || 'settings of the web tier';
}

function renderPlan(summary: string, steps: Step[], notes: string[]): string {
  const remarks = notes.map(note => `  ${pc.yellow('!')} ${note}`);
  if (steps.length === 0) {
    return [`${pc.green('✔')} what runs is what banyan.config.ts says`, ...remarks].join('\n');
  }
  const marks = { '+': pc.green('+'), '-': pc.red('-'), '~': pc.yellow('~') };
  const rows = steps.map((step, index) => {
    const { mark, what, traffic } = explain(step);
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

function planAsJson(steps: Step[]) {
  return { steps: steps.map(step => ({ ...step, ...explain(step) })) };
}

/** What the configuration says and no running deployment can take on. */
function notesOf({ topology, circumstances, present }: Controller): string[] {
  const notes: string[] = [];
  const { port } = topology.web;
  if (port !== 0 && port !== circumstances.publicPort) {
    notes.push(
      `the public port stays ${circumstances.publicPort} until the next \`banyan down\` and \`up\`; banyan.config.ts says ${port}`,
    );
  }
  const { url, maxConnections } = topology.database;
  if (!url && maxConnections !== present.maxConnections) {
    notes.push('`database.maxConnections` takes effect with the next `banyan down` and `up`');
  }
  return notes;
}
