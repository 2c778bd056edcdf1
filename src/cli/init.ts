/** `banyan init`: shows what it would write, asks, and writes. */
import pc from 'picocolors';
import { type PlannedFile, planInit, writeInit } from '../operate/init.ts';
import { agrees } from './ask.ts';
import { type CommonOptions, EXIT, printJson } from './output.ts';
import { version } from './version.ts';

export interface InitOptions extends CommonOptions {
  yes?: boolean;
  dryRun?: boolean;
}

export async function init(options: InitOptions): Promise<void> {
  const plan = await planInit(options.dir, version);
  if (!options.json) for (const file of plan.files) process.stdout.write(`${show(file)}\n`);

  const agreed = options.dryRun ? false : options.yes || (await ask(options));
  if (agreed) await writeInit(options.dir, plan);
  if (options.json) return printJson({ written: agreed, ...plan });
  if (agreed) {
    process.stdout.write(`${pc.green('✔')} written\n`);
    for (const note of plan.notes) process.stdout.write(`  ${note}\n`);
  } else {
    process.stdout.write('Nothing was written.\n');
    if (!options.dryRun) process.exitCode = EXIT.failed;
  }
}

/** A script that reads JSON is nobody to ask, also on a terminal. */
async function ask({ json }: InitOptions): Promise<boolean> {
  const unasked = 'banyan init --yes';
  if (!json) return agrees('Write this?', unasked);
  process.stderr.write(`Nothing was written; do it with: ${unasked}\n`);
  return false;
}

/** A new file whole; of a changed one the lines that are new. */
function show({ name, before, after }: PlannedFile): string {
  const old = new Set(before?.split('\n'));
  const lines = after.split('\n').slice(0, after.endsWith('\n') ? -1 : undefined);
  const shown = before === undefined ? lines : lines.filter(line => !old.has(line));
  const title = before === undefined ? `new file ${name}` : `${name}, these lines added`;
  return [pc.bold(title), ...shown.map(line => pc.green(`  + ${line}`)), ''].join('\n');
}
