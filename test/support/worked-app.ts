/**
 * An application that publishes what it is sent, and whose workers write down that they did it: what the tests of workers and of
 * the queue's engines need.
 */
const JOBS = `
  import { defineJob } from 'banyan';
  export const effect = defineJob({ name: 'effect', retry: { maxAttempts: 2, first: 10 } });
`;

const SERVER = `
  import { createServer } from 'node:http';
  import { createPool, createQueue, lifecycle } from 'banyan';
  import { effect } from './jobs.ts';
  const pool = createPool({ max: 2 });
  const queue = createQueue({ pool });
  const server = createServer(async (req, res) => {
    if (req.method !== 'POST') return res.end('here');
    let text = '';
    for await (const chunk of req) text += chunk;
    res.end(await queue.publish(effect, JSON.parse(text)));
  });
  lifecycle(server, { pool });
  server.listen(Number(process.env.PORT), process.env.HOST);
`;

const WORKER = `
  import { setTimeout as delay } from 'node:timers/promises';
  import { createPool, createQueue } from 'banyan';
  import { effect } from './jobs.ts';
  const pool = createPool({ max: 4 });
  const queue = createQueue({ pool });
  const by = process.env.BANYAN_UNIT + '@' + process.env.BANYAN_RELEASE;
  queue.work(effect, async job => {
    const { n, ms = 0, poison } = job.payload;
    if (poison) throw new Error('no good');
    // Longer than the drain: it is handed back.
    await delay(ms, undefined, { signal: job.signal });
    await job.transaction(tx => tx.query('insert into effects (n, by) values ($1, $2)', [n, by]));
  }, { concurrency: 2 });
  await queue.ready();
`;

/** Files, by their paths. A payload is `{ n, ms?, poison? }`. */
export const WORKED_APP = {
  'package.json': JSON.stringify({ name: 'worked', type: 'module' }),
  'migrations/001-effects.sql': 'create table effects (n int not null, by text not null);',
  'jobs.ts': JOBS,
  'server.ts': SERVER,
  'worker.ts': WORKER,
};
