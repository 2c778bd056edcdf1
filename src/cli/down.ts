/** `banyan down`: stops the deployment; its data stays. */
import pc from 'picocolors';
import { DeploymentPaths } from '../operate/deployment.ts';
import { down as stopDeployment } from '../operate/down.ts';
import { type CommonOptions, printJson } from './output.ts';

const WORDS = {
  stopped: 'stopped; the data stays in .banyan',
  leftovers: 'its supervisor had been killed; what it left running was stopped',
  'not running': 'it was not up; nothing to stop',
};

export async function down(options: CommonOptions): Promise<void> {
  const outcome = await stopDeployment(new DeploymentPaths(options.dir));
  if (options.json) printJson({ outcome });
  else process.stdout.write(`${pc.green('✔')} ${WORDS[outcome]}\n`);
}
