/** Where the queue's checker works, and what can be done there to the servers: one PostgreSQL or a replicated one, with RabbitMQ or without. */

import { createPool } from '../../src/app/database/pool.ts';
import { QUEUE_URL_VARIABLE } from '../../src/app/environment.ts';
import { MAP_VARIABLE } from '../../src/map/map-file.ts';
import { existingDeployment } from '../../src/operate/deployment.ts';
import { queueUrl } from '../../src/operate/queue/context.ts';
import { deployFiles } from './deployment.ts';
import type { TestPostgres } from './postgres.ts';
import type { TestRabbitMq } from './rabbitmq.ts';
import { killPostgres, primaryOf, serversOf, untilWell } from './replicated.ts';
import { WORKED_APP } from './worked-app.ts';

export interface Fault {
  readonly name: string;
  /** How often, beside the others and the faults of processes, which are 1 in all. */
  readonly weight: number;
  /** @returns false when it would be one too many now */
  harm(random: () => number): Promise<boolean>;
}

export interface QueueGround {
  readonly url: string;
  /** The map that pools follow; undefined: the URL says it all. */
  readonly mapFile: string | undefined;
  /** Where queues find RabbitMQ. */
  readonly queueEnv: Record<string, string>;
  readonly faults: readonly Fault[];
  remove(): Promise<void>;
}

/** As its processes have it. */
export function poolOn(ground: Pick<QueueGround, 'url' | 'mapFile'>, holdTimeoutMs: number) {
  const { url, mapFile } = ground;
  const pool = createPool({
    connectionString: url,
    max: 8,
    holdTimeoutMs,
    ...(mapFile === undefined ? {} : { mapFile }),
  });
  pool.on('error', () => {});
  return pool;
}

export interface PlainOptions {
  /** With restarts of PostgreSQL. Default: true. */
  restarts?: boolean;
  /** A cluster of RabbitMQ beside it. */
  rabbit?: TestRabbitMq;
}

/** A new database in one PostgreSQL. Servers stay the caller's. */
export async function plainGround(
  postgres: TestPostgres,
  { restarts = true, rabbit }: PlainOptions = {},
): Promise<QueueGround> {
  const restart: Fault = {
    name: 'postgres',
    weight: 0.1,
    harm: async random => {
      await (random() < 0.5 ? postgres.kill() : postgres.stop());
      await postgres.start();
      return true;
    },
  };
  return {
    url: await postgres.database(),
    mapFile: undefined,
    queueEnv: rabbit?.env ?? {},
    faults: [...(restarts ? [restart] : []), ...(rabbit ? [nodeOf(rabbit)] : [])],
    remove: async () => {},
  };
}

/** One at a time. */
function nodeOf(rabbit: TestRabbitMq): Fault {
  const names = rabbit.nodes.map(({ name }) => name);
  return {
    name: 'rabbitmq',
    weight: 0.15,
    harm: async random => {
      for (const name of names) if (!(await rabbit.isReady(name))) return false;
      const name = names[Math.floor(random() * names.length)]!;
      process.kill(await rabbit.pidOf(name), 'SIGKILL');
      return true;
    },
  };
}

const REPLICAS = 2;
const NODES = 3;

/** A deployment with a replicated database, whose primary is killed: another takes over. */
export async function replicatedGround({ withRabbitMq = false } = {}): Promise<QueueGround> {
  const topology = {
    database: { memoryMb: 64, replicas: REPLICAS, etcd: 3 },
    ...(withRabbitMq ? { queue: { engine: 'rabbitmq', servers: NODES } } : {}),
  };
  // The checker has tables of its own.
  const { 'migrations/001-effects.sql': _tables, ...app } = WORKED_APP;
  const site = await deployFiles({
    ...app,
    'banyan.config.ts': `export default ${JSON.stringify(topology)};\n`,
  });
  await untilWell(site, REPLICAS + 1);
  const failover: Fault = {
    name: 'primary',
    weight: 0.1,
    harm: async () => {
      const servers = await serversOf(site);
      const isWell =
        servers.length === REPLICAS + 1 &&
        servers.every(
          ({ role, state }) => state === (role === 'primary' ? 'running' : 'streaming'),
        );
      if (!isWell) return false;
      killPostgres(site, await primaryOf(site));
      return true;
    },
  };
  const node: Fault = {
    name: 'rabbitmq',
    weight: 0.15,
    harm: async random => {
      const { units } = await site.status();
      const nodes = units.filter(({ name }) => name.startsWith('rabbitmq-'));
      if (nodes.length < NODES || nodes.some(({ phase }) => phase !== 'ready')) return false;
      process.kill(nodes[Math.floor(random() * nodes.length)]!.pid!, 'SIGKILL');
      return true;
    },
  };
  return {
    url: site.databaseUrl,
    mapFile: site.paths.map,
    queueEnv: withRabbitMq
      ? {
          [MAP_VARIABLE]: site.paths.map,
          [QUEUE_URL_VARIABLE]: queueUrl(existingDeployment(site.paths)!),
        }
      : {},
    faults: [failover, ...(withRabbitMq ? [node] : [])],
    remove: () => site.remove(),
  };
}
