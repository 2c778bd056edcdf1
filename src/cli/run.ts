/** `banyan run`: a command of the user's, with the environment that the web server has. */
import { spawn } from 'node:child_process';
import { constants } from 'node:os';
import { commandPath } from '../engines/web-server.ts';
import { BanyanError } from '../errors.ts';
import { applicationEnv } from '../operate/application-env.ts';
import { reachDatabase } from '../operate/connect.ts';
import { DeploymentPaths } from '../operate/deployment.ts';
import { loadTopology } from '../operate/load-topology.ts';
import type { CommonOptions } from './output.ts';

export class CommandNotStarted extends BanyanError {
  constructor(command: string, cause: Error) {
    super('COMMAND_NOT_STARTED', {
      what: `The command could not be started: ${cause.message}`,
      where: command,
      remedy: 'Check its name; programs of the application’s packages need no path',
      cause,
    });
  }
}

export async function run(words: string[], options: CommonOptions): Promise<void> {
  const paths = new DeploymentPaths(options.dir);
  const { topology } = await loadTopology(paths.app);
  const { deployment, url } = await reachDatabase(paths, topology);
  const env = applicationEnv(deployment, topology.web, url);
  const [command = '', ...args] = words;
  const child = spawn(command, args, {
    cwd: paths.app,
    env: { ...env, BANYAN_UNIT: 'run', PATH: commandPath(paths.app, env.PATH) },
    stdio: 'inherit',
  });
  // The terminal sends Ctrl-C to the command as well: it decides what that means.
  process.on('SIGINT', () => {});
  process.on('SIGTERM', () => child.kill('SIGTERM'));
  process.exitCode = await new Promise<number>((resolve, reject) => {
    child.once('error', error => reject(new CommandNotStarted(command, error)));
    child.once('exit', (code, signal) => resolve(code ?? 128 + constants.signals[signal!]));
  });
}
