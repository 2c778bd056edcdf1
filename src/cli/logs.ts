/** `banyan logs`: what the units wrote, now or before. */
import pc from 'picocolors';
import { BanyanError } from '../errors.ts';
import type { LogLine } from '../machines/unit-log.ts';
import { ControlClient, NotRunning } from '../operate/control/client.ts';
import { DeploymentPaths } from '../operate/deployment.ts';
import { listUnits, readLogFiles } from '../operate/log-files.ts';
import { LogView } from './log-view.ts';
import type { CommonOptions } from './output.ts';

export interface LogsOptions extends CommonOptions {
  follow?: boolean;
  lines: number;
}

export class NoSuchUnit extends BanyanError {
  constructor(unit: string, units: string[]) {
    super('NO_SUCH_UNIT', {
      what: `There is no log of a unit called ${unit}`,
      where: 'banyan logs',
      remedy: units.length
        ? `Units with a log: ${units.join(', ')}`
        : 'Nothing has run here yet: banyan up',
    });
  }
}

export async function logs(unit: string | undefined, options: LogsOptions): Promise<void> {
  const paths = new DeploymentPaths(options.dir);
  const units = listUnits(paths.logs);
  if (unit && !units.includes(unit)) throw new NoSuchUnit(unit, units);

  const view = new LogView();
  const show = (line: LogLine) =>
    process.stdout.write(`${options.json ? JSON.stringify(line) : view.render(line)}\n`);
  const leaving = new AbortController();
  process.stdout.on('error', () => leaving.abort());
  process.once('SIGINT', () => leaving.abort());

  // The past comes from the files, which reach back further than this supervisor's memory.
  for (const line of await readLogFiles(paths.logs, options.lines, unit)) show(line);
  if (!options.follow) return;
  try {
    const client = new ControlClient(paths.socket, paths.app);
    const present = client.logs(
      { lines: 0, follow: true, ...(unit ? { unit } : {}) },
      leaving.signal,
    );
    for await (const line of present) show(line);
    if (!leaving.signal.aborted) process.stderr.write(`${pc.dim('the deployment was stopped')}\n`);
  } catch (error) {
    if (!(error instanceof NotRunning)) throw error;
    process.stderr.write(`${pc.dim('the deployment is not up; this is what its files hold')}\n`);
  }
}
