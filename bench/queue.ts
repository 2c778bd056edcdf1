/**
 * Jobs per second and the time from publish to start: ours on PostgreSQL, graphile-worker, pg-boss. One PostgreSQL, a database for
 * each, the same settings (synchronous_commit on, fsync on), pools of the same size; each with what its documentation recommends
 * for throughput.
 *
 *     node --conditions=banyan-source bench/queue.ts [--rounds 3] [--jobs 20000] [--single 2000] [--idle 100]
 */
import { parseArgs } from 'node:util';
import { Logger, makeWorkerUtils, run } from 'graphile-worker';
import pg from 'pg';
import { PgBoss } from 'pg-boss';
import { createPool } from '../src/app/database/pool.ts';
import { createQueue } from '../src/app/queue/create-queue.ts';
import { TestPostgres } from '../test/support/postgres.ts';
import {
  CONCURRENCY,
  type Contender,
  compare,
  numbers,
  ownQueue,
  payload,
} from './support/queues.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    jobs: { type: 'string', default: '20000' },
    single: { type: 'string', default: '2000' },
    idle: { type: 'string', default: '100' },
  },
});
const [rounds, jobs, single, idle] = [values.rounds, values.jobs, values.single, values.idle].map(
  Number,
) as [number, number, number, number];

const CONNECTIONS = 10;
const AHEAD = 500;

async function ours(url: string): Promise<Contender> {
  const pool = createPool({ connectionString: url, max: CONNECTIONS });
  return ownQueue(
    'banyan',
    () => createQueue({ pool }),
    CONCURRENCY,
    () => pool.end(),
  );
}

async function graphile(url: string): Promise<Contender> {
  const logger = new Logger(() => () => {});
  const pgPool = new pg.Pool({ connectionString: url, max: CONNECTIONS });
  const utils = await makeWorkerUtils({ pgPool, logger });
  await utils.migrate();
  return {
    name: 'graphile-worker',
    publish: (from, count) =>
      count === 1
        ? utils.addJob('bench', payload(from))
        : utils.addJobs(
            numbers(from, count).map(n => ({ identifier: 'bench', payload: payload(n) })),
          ),
    work: async handler => {
      const runner = await run({
        pgPool,
        logger,
        noHandleSignals: true,
        taskList: { bench: given => handler((given as { n: number }).n) },
        preset: {
          worker: {
            concurrentJobs: CONCURRENCY,
            localQueue: { size: AHEAD },
            completeJobBatchDelay: 0,
            failJobBatchDelay: 0,
          },
        },
      });
      return () => runner.stop();
    },
    close: async () => {
      await utils.release();
      await pgPool.end();
    },
  };
}

async function boss(url: string): Promise<Contender> {
  const pgBoss = new PgBoss({ connectionString: url, max: CONNECTIONS, useListenNotify: true });
  pgBoss.on('error', () => {});
  await pgBoss.start();
  await pgBoss.createQueue('bench', { notify: true });
  return {
    name: 'pg-boss',
    publish: (from, count) =>
      count === 1
        ? pgBoss.send('bench', payload(from))
        : pgBoss.insert(
            'bench',
            numbers(from, count).map(n => ({ data: payload(n) })),
          ),
    work: async handler => {
      const options = { batchSize: AHEAD, pollingIntervalSeconds: 0.5, burstWhenBatchFull: true };
      await pgBoss.work<{ n: number }>('bench', options, async given => {
        for (const { data } of given) handler(data.n);
      });
      return () => pgBoss.offWork('bench', { wait: true });
    },
    close: () => pgBoss.stop({ graceful: false }),
  };
}

const postgres = await TestPostgres.start();
const contenders: Contender[] = [];
try {
  for (const make of [ours, graphile, boss]) contenders.push(await make(await postgres.database()));
  const amounts = { rounds, jobs, single, idle };
  for (const line of await compare(contenders, amounts)) console.log(line);
} finally {
  await Promise.allSettled(contenders.map(contender => contender.close()));
  await postgres.remove();
}
process.exit(0);
