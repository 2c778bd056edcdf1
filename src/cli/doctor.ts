/** `banyan doctor`: shows what was found, and how to mend it. */
import pc from 'picocolors';
import { DeploymentPaths } from '../operate/deployment.ts';
import { examine, type Finding } from '../operate/doctor/examine.ts';
import { type CommonOptions, columns, EXIT, printJson } from './output.ts';

const MARKS = {
  ok: pc.green('✔'),
  hint: pc.cyan('·'),
  warning: pc.yellow('!'),
  failed: pc.red('✖'),
};

export async function doctor(options: CommonOptions): Promise<void> {
  const findings = await examine(new DeploymentPaths(options.dir));
  const failed = findings.filter(({ verdict }) => verdict === 'failed');
  if (options.json) printJson({ healthy: failed.length === 0, findings });
  else process.stdout.write(`${render(findings)}\n`);
  if (failed.length > 0) process.exitCode = EXIT.failed;
}

function render(findings: Finding[]): string {
  const rows = findings.map(({ check, verdict, detail }) => [
    `${MARKS[verdict]} ${pc.bold(check)}`,
    detail,
  ]);
  const lines = columns(rows).split('\n');
  return findings
    .flatMap(({ remedy }, index) => [
      lines[index]!,
      ...(remedy ? [`    ${pc.dim('to do')}  ${remedy}`] : []),
    ])
    .join('\n');
}
