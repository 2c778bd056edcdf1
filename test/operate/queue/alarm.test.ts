/** A RabbitMQ that takes no messages, with the real command: it says so wherever one looks, and nobody waits for it. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { configure } from '../../support/balanced-app.ts';
import { type Site, siteOf } from '../../support/deployment.ts';
import { until } from '../../support/until.ts';
import { WORKED_APP } from '../../support/worked-app.ts';

/** More than any disk of a test has: the alarm is there from the beginning. */
const FREE_DISK_MB = 10_000_000;

let site: Site;
beforeAll(async () => {
  site = await siteOf(WORKED_APP);
  await configure(site, {
    workers: { servers: 1 },
    queue: { engine: 'rabbitmq', freeDiskMb: FREE_DISK_MB },
  });
  await site.up();
}, 240_000);
afterAll(() => site.remove());

test('status, queue and metrics tell of the alarm; messages are published and done all the same', async () => {
  await until(async () => (await site.status()).queue?.[0]?.alarm === 'disk', {
    what: 'it is known that its disk is full',
    timeoutMs: 60_000,
  });
  const said = new RegExp(
    `rabbitmq-1: only \\d+ MB are free on its disk, and it wants ${FREE_DISK_MB}, so RabbitMQ takes no messages, and they go to PostgreSQL`,
  );
  expect((await site.ok('status')).output).toMatch(said);
  expect((await site.ok('queue')).output).toMatch(said);
  expect((await site.ok('metrics')).output).toMatch(/^banyan_rabbitmq_alarm\{[^}]*\} 1$/m);

  const numbers = Array.from({ length: 20 }, (_, n) => n);
  for (const n of numbers) {
    const answer = await fetch(site.address, { method: 'POST', body: JSON.stringify({ n }) });
    expect(answer.status).toBe(200);
  }
  const pool = site.pool({ max: 1 });
  await until(
    async () => {
      const { rows } = await pool.query('select n from effects order by n');
      return rows.length >= numbers.length ? rows.map(({ n }) => n) : undefined;
    },
    { what: 'all are done' },
  ).then(done => expect(done).toEqual(numbers));
}, 180_000);
