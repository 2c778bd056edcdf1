/** `banyan scale web=4`, `workers=2`, `cache=1`: how many servers of a tier run. */
import { totalmem } from 'node:os';
import { BanyanError } from '../errors.ts';
import { cacheShapeOf, describeCache } from '../operate/cache/shape.ts';
import { withController } from '../operate/controller.ts';
import { DeploymentPaths } from '../operate/deployment.ts';
import { describeQueue, queueShapeOf } from '../operate/queue/shape.ts';
import { shapeOf } from '../operate/web/shape.ts';
import { workersShapeOf } from '../operate/workers/shape.ts';
import { cacheWithServers, plainCache, plainQueue } from '../topology/defaults.ts';
import type { CommonOptions } from './output.ts';
import { carryOut, summaryOf, workersSummary } from './plan.ts';

export class ScaleNotUnderstood extends BanyanError {
  constructor(text: string) {
    super('SCALE_NOT_UNDERSTOOD', {
      what: `It is not clear what should be scaled to what: ${text}`,
      where: 'banyan scale',
      remedy:
        'Write it as `banyan scale web=4` or `banyan scale workers=2`, a whole number, or `banyan scale cache=3`: 0, 1, or 3 to 16, since of two nobody could tell which is lost, or `banyan scale queue=3`: 0 (PostgreSQL), 1 or 3',
    });
  }
}

const MOST_SERVERS = 1_000;

const MOST_CACHES = 16;

/** @throws ScaleNotUnderstood, TooManyServers, TakenBack, … */
export async function scale(target: string, options: CommonOptions): Promise<void> {
  const [, tier, text] = /^(web|workers|cache|queue)=(\d+)$/.exec(target) ?? [];
  const servers = Number(text);
  if (tier === 'web' && servers >= 1 && servers <= MOST_SERVERS) return scaleWeb(servers, options);
  if (tier === 'workers' && servers <= MOST_SERVERS) return scaleWorkers(servers, options);
  if (tier === 'cache' && servers !== 2 && servers <= MOST_CACHES) {
    return scaleCache(servers, options);
  }
  if (tier === 'queue' && (servers === 0 || servers === 1 || servers === 3)) {
    return scaleQueue(servers, options);
  }
  throw new ScaleNotUnderstood(target);
}

async function scaleWeb(servers: number, options: CommonOptions): Promise<void> {
  await withController(new DeploymentPaths(options.dir), async controller => {
    const { present, topology } = controller;
    const after = shapeOf(topology, present, servers);
    const summary = summaryOf(present, after);
    await carryOut(controller, { kind: 'scale', summary, after }, options.json ?? false);
    const { min, max } = topology.web.servers;
    if (!options.json && (servers < min || servers > max)) {
      mention(min === max ? String(min) : `${min} to ${max}`);
    }
  });
}

async function scaleWorkers(servers: number, options: CommonOptions): Promise<void> {
  await withController(new DeploymentPaths(options.dir), async controller => {
    const { present, presentWorkers, topology } = controller;
    const workers = workersShapeOf(topology, presentWorkers, servers);
    const summary = workersSummary(presentWorkers, workers) ?? `workers: ${servers}`;
    // As the servers are: what else the configuration says of them is none of this.
    const after = present;
    await carryOut(controller, { kind: 'scale', summary, after, workers }, options.json ?? false);
    const { min, max } = topology.workers.servers;
    if (!options.json && (servers < min || servers > max)) {
      mention(min === max ? String(min) : `${min} to ${max}`);
    }
  });
}

async function scaleQueue(servers: 0 | 1 | 3, options: CommonOptions): Promise<void> {
  await withController(new DeploymentPaths(options.dir), async controller => {
    const { present, presentQueue, topology } = controller;
    const machineMemoryMb = Math.floor(totalmem() / 1024 / 1024);
    const { url: _url, ...tier } = topology.queue ?? plainQueue(machineMemoryMb);
    const queue = queueShapeOf(servers === 0 ? undefined : { ...tier, servers });
    const summary = `queue: ${describeQueue(presentQueue)} → ${describeQueue(queue)}`;
    // As the servers are: what else the configuration says of them is none of this.
    const after = present;
    await carryOut(controller, { kind: 'scale', summary, after, queue }, options.json ?? false);
    const said = describeQueue(queueShapeOf(topology.queue));
    if (!options.json && said !== describeQueue(queue)) mention(said);
  });
}

async function scaleCache(servers: number, options: CommonOptions): Promise<void> {
  await withController(new DeploymentPaths(options.dir), async controller => {
    const { present, presentCache, topology } = controller;
    const machineMemoryMb = Math.floor(totalmem() / 1024 / 1024);
    const wanted = cacheWithServers(topology.cache ?? plainCache(machineMemoryMb), servers);
    const cache = cacheShapeOf(wanted);
    const summary = `cache: ${describeCache(presentCache)} → ${describeCache(cache)}`;
    // As the servers are: what else the configuration says of them is none of this.
    const after = present;
    await carryOut(controller, { kind: 'scale', summary, after, cache }, options.json ?? false);
    const said = describeCache(cacheShapeOf(topology.cache));
    if (!options.json && said !== describeCache(cache)) mention(said);
  });
}

function mention(said: string): void {
  process.stdout.write(
    `  banyan.config.ts says ${said}: the next \`banyan apply\` or \`up\` goes back to that\n`,
  );
}
