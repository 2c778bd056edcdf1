/** `banyan scale web=4`: how many web servers run. */
import { BanyanError } from '../errors.ts';
import { withController } from '../operate/controller.ts';
import { DeploymentPaths } from '../operate/deployment.ts';
import { shapeOf } from '../operate/web/shape.ts';
import type { CommonOptions } from './output.ts';
import { carryOut, summaryOf } from './plan.ts';

export class ScaleNotUnderstood extends BanyanError {
  constructor(text: string) {
    super('SCALE_NOT_UNDERSTOOD', {
      what: `It is not clear what should be scaled to what: ${text}`,
      where: 'banyan scale',
      remedy: 'Write it as `banyan scale web=4`: a tier and a whole number of at least 1',
    });
  }
}

const MOST_SERVERS = 1_000;

/** @throws ScaleNotUnderstood, TooManyServers, TakenBack, … */
export async function scale(target: string, options: CommonOptions): Promise<void> {
  const match = /^web=(\d+)$/.exec(target);
  const servers = Number(match?.[1]);
  if (!match || servers < 1 || servers > MOST_SERVERS) throw new ScaleNotUnderstood(target);
  await withController(new DeploymentPaths(options.dir), async controller => {
    const { present, topology } = controller;
    const after = shapeOf(topology, present, servers);
    const summary = summaryOf(present, after);
    await carryOut(controller, { kind: 'scale', summary, after }, options.json ?? false);
    const { min, max } = topology.web.servers;
    if (!options.json && (servers < min || servers > max)) {
      const said = min === max ? String(min) : `${min} to ${max}`;
      process.stdout.write(
        `  banyan.config.ts says ${said}: the next \`banyan apply\` or \`up\` goes back to that\n`,
      );
    }
  });
}
