/**
 * Jobs per second and the time from publish to start: ours on PostgreSQL, graphile-worker, pg-boss. One PostgreSQL, a database for
 * each, the same settings (synchronous_commit on, fsync on), pools of the same size; each with what its documentation recommends
 * for throughput. They take turns, round by round, and the ratios are of the middle rounds.
 *
 *     node --conditions=banyan-source bench/queue.ts [--rounds 3] [--jobs 20000] [--single 2000] [--idle 100]
 */
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { Logger, makeWorkerUtils, run } from 'graphile-worker';
import pg from 'pg';
import { PgBoss } from 'pg-boss';
import { createPool } from '../src/app/database/pool.ts';
import { createQueue } from '../src/app/queue/create-queue.ts';
import { defineJob } from '../src/app/queue/definitions.ts';
import { TestPostgres } from '../test/support/postgres.ts';
import { middle } from './support/measure.ts';

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
const CONCURRENCY = 24;
const AHEAD = 500;
/** Callers at a time that publish. */
const PUBLISHERS = 10;
const payload = (n: number) => ({
  n,
  text: 'a message of about a hundred bytes, as jobs have them: ids and a few words',
});

interface Contender {
  readonly name: string;
  publish(from: number, count: number): Promise<unknown>;
  /** @returns how to stop */
  work(handler: (n: number) => void): Promise<() => Promise<unknown>>;
  close(): Promise<unknown>;
}

async function ours(url: string): Promise<Contender> {
  const pool = createPool({ connectionString: url, max: CONNECTIONS });
  const job = defineJob({ name: 'bench' });
  const publisher = createQueue({ pool });
  return {
    name: 'banyan',
    publish: (from, count) =>
      count === 1
        ? publisher.publish(job, payload(from))
        : publisher.publishAll(
            job,
            Array.from({ length: count }, (_, i) => ({ payload: payload(from + i) })),
          ),
    work: async handler => {
      const queue = createQueue({ pool });
      queue.work(job, each => handler((each.payload as { n: number }).n), {
        concurrency: CONCURRENCY,
      });
      await queue.ready();
      return () => queue.close();
    },
    close: async () => {
      await publisher.close();
      await pool.end();
    },
  };
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
            Array.from({ length: count }, (_, i) => ({
              identifier: 'bench',
              payload: payload(from + i),
            })),
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
            Array.from({ length: count }, (_, i) => ({ data: payload(from + i) })),
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

async function publishAll(contender: Contender, count: number, batch: number): Promise<void> {
  let next = 0;
  const callers = batch === 1 ? PUBLISHERS : Math.min(PUBLISHERS, Math.ceil(count / batch));
  await Promise.all(
    Array.from({ length: callers }, async () => {
      while (next < count) {
        const from = next;
        next += batch;
        await contender.publish(from, Math.min(batch, count - from));
      }
    }),
  );
}

const perSecondSince = (count: number, begun: number) =>
  count / ((performance.now() - begun) / 1_000);

/** @returns per second: published with no worker there; then handled, from the first to the last */
async function apart(
  contender: Contender,
  count: number,
  batch: number,
): Promise<[number, number]> {
  const begun = performance.now();
  await publishAll(contender, count, batch);
  const published = perSecondSince(count, begun);
  const all = Promise.withResolvers<void>();
  let left = count;
  let first = 0;
  const stop = await contender.work(() => {
    first ||= performance.now();
    if (--left === 0) all.resolve();
  });
  await all.promise;
  const handled = perSecondSince(count - 1, first);
  await stop();
  return [published, handled];
}

/** @returns per second, published to a worker that is there, until the last is handled */
async function together(contender: Contender, count: number, batch: number): Promise<number> {
  const all = Promise.withResolvers<void>();
  let left = count;
  const stop = await contender.work(() => {
    if (--left === 0) all.resolve();
  });
  const begun = performance.now();
  await Promise.all([publishAll(contender, count, batch), all.promise]);
  const flow = perSecondSince(count, begun);
  await stop();
  return flow;
}

/** Published one at a time to a worker that has nothing to do. @returns milliseconds, sorted */
async function latency(contender: Contender, count: number): Promise<number[]> {
  let started = () => {};
  const stop = await contender.work(() => started());
  const times: number[] = [];
  for (let i = 0; i < count; i++) {
    await delay(20);
    const { promise, resolve } = Promise.withResolvers<void>();
    started = resolve;
    const begun = performance.now();
    await contender.publish(i, 1);
    await promise;
    times.push(performance.now() - begun);
  }
  await stop();
  return times.sort((a, b) => a - b);
}

const postgres = await TestPostgres.start();
const contenders: Contender[] = [];
try {
  for (const make of [ours, graphile, boss]) contenders.push(await make(await postgres.database()));
  const found = new Map<string, Map<string, number[]>>();
  const note = (what: string, name: string, value: number) => {
    const row = found.get(what) ?? new Map<string, number[]>();
    row.set(name, [...(row.get(name) ?? []), value]);
    console.error(what, name, Math.round(value * 100) / 100);
    found.set(what, row);
  };
  for (let round = 0; round < rounds; round++) {
    for (const [batch, count] of [
      [1, single],
      [100, jobs],
      [10_000, jobs],
    ] as const) {
      for (const contender of contenders) {
        const [published, handled] = await apart(contender, count, batch);
        note(`published/s in batches of ${batch}`, contender.name, published);
        // Of few, others have fetched all before they begin with the first.
        if (batch > 1)
          note(
            `handled/s of ${count} that were there, published by ${batch}`,
            contender.name,
            handled,
          );
        const flow = await together(contender, count, batch);
        note(`end to end/s in batches of ${batch}, worker running`, contender.name, flow);
      }
    }
    for (const contender of contenders) {
      const times = await latency(contender, idle);
      note('publish to start, idle, p50 ms', contender.name, times[Math.floor(times.length / 2)]!);
      note(
        'publish to start, idle, p99 ms',
        contender.name,
        times[Math.floor(times.length * 0.99)]!,
      );
    }
  }
  for (const [what, row] of found) {
    const own = middle(row.get('banyan')!);
    const parts = [...row].map(([name, list]) => {
      const value = middle(list);
      const ratio = what.endsWith(' ms') ? value / own : own / value;
      const shown = what.endsWith(' ms')
        ? value.toFixed(2)
        : Math.round(value).toLocaleString('en');
      return name === 'banyan'
        ? `banyan ${shown}`
        : `${name} ${shown} (ours is ${ratio.toFixed(1)} times as good)`;
    });
    console.log(`${what}: ${parts.join(', ')}`);
  }
} finally {
  await Promise.allSettled(contenders.map(contender => contender.close()));
  await postgres.remove();
}
process.exit(0);
