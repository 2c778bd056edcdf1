/** `banyan restore`: shows what it would do and what is lost, asks, and does it. */
import pc from 'picocolors';
import { BanyanError } from '../errors.ts';
import { parseTarget } from '../operate/backup/moment.ts';
import { planRestore, type RestorePlan } from '../operate/backup/restore/plan.ts';
import {
  type Restored,
  restore as restoreTo,
  resumeRestore,
  undoRestore,
} from '../operate/backup/restore/restore.ts';
import { type Standpoint, withStandpoint } from '../operate/backup/restore/standpoint.ts';
import { DeploymentPaths } from '../operate/deployment.ts';
import { agrees } from './ask.ts';
import { type CommonOptions, columns, EXIT, printJson } from './output.ts';
import { operationProgress } from './progress.ts';

export interface RestoreOptions extends CommonOptions {
  to?: string;
  undo?: boolean;
  resume?: boolean;
  yes?: boolean;
  dryRun?: boolean;
}

class WhereTo extends BanyanError {
  constructor() {
    super('RESTORE_TO_WHAT', {
      what: 'Say to which moment the database is to be restored',
      where: 'banyan restore',
      remedy:
        "One of: --to latest; --to '10m ago'; --to 2026-11-25T19:07:23Z; --to the label of a backup (`banyan backups`); --undo takes the last restore back",
    });
  }
}

export async function restore(options: RestoreOptions): Promise<void> {
  const { to, undo, resume } = options;
  if ([to, undo, resume].filter(Boolean).length !== 1) throw new WhereTo();
  const target = to === undefined ? undefined : parseTarget(to, new Date());
  await withStandpoint(new DeploymentPaths(options.dir), 'banyan restore', async at => {
    if (resume) return tell(options, await resumeRestore(at, progressOf(options)));
    if (undo) {
      const question = 'Put the database back as it was before the last restore?';
      if (!(await agreed(options, question, 'banyan restore --undo --yes'))) return;
      return tell(options, await undoRestore(at, progressOf(options)));
    }
    await restoreWith(at, await planRestore(at, target!), options);
  });
}

async function restoreWith(at: Standpoint, plan: RestorePlan, options: RestoreOptions) {
  const { choice, summary, steps, notes } = plan;
  if (options.dryRun && options.json) {
    return printJson({ summary, backup: choice.backup.label, at: choice.at, steps, notes });
  }
  if (!options.json) process.stdout.write(`${render(plan)}\n`);
  if (options.dryRun) return;
  if (!(await agreed(options, 'Do this?', `banyan restore --to '${options.to}' --yes`))) return;
  tell(options, await restoreTo(at, plan, progressOf(options)));
}

/** A script that reads JSON is nobody to ask. */
async function agreed(options: RestoreOptions, question: string, unasked: string) {
  if (options.yes) return true;
  if (options.json) process.stderr.write(`Nothing was changed; do it with: ${unasked}\n`);
  else if (await agrees(question, unasked)) return true;
  else process.stdout.write('Nothing was changed.\n');
  process.exitCode = EXIT.failed;
  return false;
}

const progressOf = ({ json }: RestoreOptions) => operationProgress(json ?? false);

function tell({ json }: RestoreOptions, restored: Restored | undefined): void {
  if (json) {
    printJson(restored ?? { takenBack: true });
    return;
  }
  if (!restored) {
    process.stdout.write(`${pc.green('✔')} the database is the one that was before\n`);
    return;
  }
  const { summary, reachedAt, kept, isUp } = restored;
  const reached = reachedAt
    ? `its last commit is of ${pc.bold(reachedAt)}`
    : 'nothing was committed after its backup';
  process.stdout.write(
    [
      `${pc.green('✔')} ${summary}: ${reached}`,
      pc.dim(`  what was before is kept in ${kept}; taken back by: banyan restore --undo`),
      ...(isUp ? [] : [`  start it with: ${pc.bold('banyan up')}`]),
      '',
    ].join('\n'),
  );
}

function render({ summary, steps, notes }: RestorePlan): string {
  const rows = steps.map(({ what, traffic }, index) => [
    `  ${pc.dim(String(index + 1).padStart(2))} ${what}`,
    traffic === 'nothing' ? pc.dim(traffic) : pc.yellow(traffic),
  ]);
  return [
    pc.bold(summary),
    columns([[pc.dim('     step'), pc.dim('what traffic notices')], ...rows]),
    ...notes.map(note => `  ${pc.yellow('!')} ${note}`),
  ].join('\n');
}
