/** `banyan switchover`, `failover`, `restart`, `replace`: who of the database servers does what. */
import pc from 'picocolors';
import { withController } from '../operate/controller.ts';
import {
  failOver,
  replaceGoal,
  restartGoal,
  switchOverGoal,
} from '../operate/database/requests.ts';
import { DeploymentPaths } from '../operate/deployment.ts';
import { type CommonOptions, printJson } from './output.ts';
import { carryOut } from './plan.ts';

export async function switchover(options: CommonOptions & { to?: string }): Promise<void> {
  await withController(new DeploymentPaths(options.dir), async controller =>
    carryOut(controller, await switchOverGoal(controller, options.to), options.json ?? false),
  );
}

export async function failover(name: string, options: CommonOptions): Promise<void> {
  await withController(new DeploymentPaths(options.dir), async controller => {
    await failOver(controller, name);
    if (options.json) printJson({ primary: name });
    else process.stdout.write(`${pc.green('✔')} ${name} is the primary\n`);
  });
}

export async function restart(options: CommonOptions): Promise<void> {
  await withController(new DeploymentPaths(options.dir), async controller =>
    carryOut(controller, await restartGoal(controller), options.json ?? false),
  );
}

export async function replace(name: string, options: CommonOptions): Promise<void> {
  await withController(new DeploymentPaths(options.dir), async controller =>
    carryOut(controller, await replaceGoal(controller, name), options.json ?? false),
  );
}
