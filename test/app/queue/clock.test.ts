/** A schedule while the database's clock jumps an hour forwards and back: each of its times fires once, or is made up for. */
import type pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createPool } from '../../../src/app/database/pool.ts';
import { createQueue } from '../../../src/app/queue/create-queue.ts';
import { defineJob } from '../../../src/app/queue/definitions.ts';
import type { Queue } from '../../../src/app/queue/types.ts';
import { log } from '../../../src/app/telemetry/log.ts';
import { TestPostgres } from '../../support/postgres.ts';
import { until } from '../../support/until.ts';

log.level = 'silent';

const HOUR_S = 3_600;
/** Before the full hour. */
const SHORT_S = 3;

let postgres: TestPostgres;
let pool: pg.Pool;
const queues: Queue[] = [];

beforeAll(async () => {
  postgres = await TestPostgres.start({ ownClock: true });
  pool = postgres.adopt(createPool({ connectionString: await postgres.database() }));
});
afterAll(async () => {
  await Promise.all(queues.map(queue => queue.close()));
  await postgres?.remove();
});

/** By the database's clock, in seconds. */
async function now(): Promise<number> {
  const { rows } = await pool.query<{ at: number }>(
    'select extract(epoch from clock_timestamp())::float8 as at',
  );
  return rows[0]!.at;
}

async function setTo(at: number): Promise<void> {
  await postgres.setClock(Math.round(at - Date.now() / 1_000));
  await until(async () => Math.abs((await now()) - at) < HOUR_S / 4, { what: 'the clock is set' });
}

/** They look every second: who would fire has. */
async function untilLooked(): Promise<void> {
  const from = await now();
  await until(async () => (await now()) > from + 3, { what: 'they have looked' });
}

test('an hour forwards and back: none is lost, none fires twice', async () => {
  const job = defineJob({ name: 'hourly' });
  const runs: string[] = [];
  // Two who say so, as two workers.
  for (let n = 0; n < 2; n++) {
    const queue = createQueue({ pool, lease: 1_500 });
    queues.push(queue);
    queue.work(job, ({ id }) => {
      runs.push(id);
    });
    queue.schedule('hourly', job, { cron: '0 * * * *' });
    await queue.ready();
  }
  const fired = async () => {
    const { rows } = await pool.query<{ at: number; message: string }>(
      'select extract(epoch from at)::float8 as at, message from banyan_queue.firing order by at',
    );
    return rows;
  };
  const untilFired = (at: number) =>
    until(async () => (await fired()).some(row => row.at === at), { what: `${at} has fired` });

  const first = (Math.floor((await now()) / HOUR_S) + 1) * HOUR_S;
  await setTo(first - SHORT_S);
  await untilFired(first);

  // Ahead, over the next full hour: it is made up for.
  await setTo(first + HOUR_S + 600);
  await untilFired(first + HOUR_S);

  // Back, to before both of them: they come again by the clock, and have fired.
  await setTo(first - SHORT_S);
  await until(async () => (await now()) > first + 1, { what: 'the hour comes again' });
  await untilLooked();
  await setTo(first + HOUR_S - SHORT_S);
  await until(async () => (await now()) > first + HOUR_S + 1, { what: 'the next comes again' });
  await untilLooked();
  expect((await fired()).map(({ at }) => at)).toEqual([first, first + HOUR_S]);

  // The first that has not fired fires.
  await setTo(first + 2 * HOUR_S - SHORT_S);
  await untilFired(first + 2 * HOUR_S);
  await until(() => runs.length >= 3, { what: 'three were handled' });
  const all = await fired();
  expect(all.map(({ at }) => at)).toEqual([first, first + HOUR_S, first + 2 * HOUR_S]);
  expect(runs.toSorted()).toEqual(all.map(({ message }) => message).toSorted());
}, 120_000);
