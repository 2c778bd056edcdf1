/** A RabbitMQ that Banyan does not run: the topology names it, messages go over it, and it is left alone otherwise. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { configure } from '../../support/balanced-app.ts';
import { type Site, siteOf } from '../../support/deployment.ts';
import { TestRabbitMq } from '../../support/rabbitmq.ts';
import { until } from '../../support/until.ts';
import { WORKED_APP } from '../../support/worked-app.ts';

let site: Site;
let rabbit: TestRabbitMq;
beforeAll(async () => {
  rabbit = await TestRabbitMq.start(1);
  site = await siteOf(WORKED_APP);
  await configure(site, { workers: { servers: 1 }, queue: { url: rabbit.url } });
  await site.up();
}, 240_000);
afterAll(async () => {
  await site?.remove();
  await rabbit?.remove();
});

let next = 0;
async function publish(): Promise<number> {
  const n = next++;
  const answer = await fetch(site.address, { method: 'POST', body: JSON.stringify({ n }) });
  expect(answer.status).toBe(200);
  return n;
}

async function done(): Promise<number[]> {
  const { rows } = await site.pool({ max: 1 }).query('select n from effects order by n');
  return rows.map(({ n }) => n);
}

test('messages go over it, none of its nodes is a unit, and they come back to PostgreSQL with one command', async () => {
  const { units } = await site.status();
  expect(units.filter(({ tier }) => tier === 'queue')).toEqual([]);
  await until(async () => (await rabbit.control().copies()).has('banyan.effect/work'), {
    what: 'the worker has made its queue there',
  });
  await publish();
  await until(async () => (await done()).length === 1);

  // With no worker there what is published waits, in RabbitMQ and not in PostgreSQL.
  await site.ok('scale', 'workers=0');
  const before = next;
  // Whoever finds no connection within a second publishes to PostgreSQL, which on a busy machine may happen once.
  await until(
    async () => {
      await publish();
      return (await rabbit.control().messages()) >= 5;
    },
    { what: 'messages wait in RabbitMQ' },
  );
  const [stats] = JSON.parse((await site.ok('queue', '--json')).stdout);
  expect(stats).toMatchObject({ topic: 'effect', depth: next - before });

  await site.ok('scale', 'workers=1');
  await until(async () => (await done()).length === next, { what: 'all are done' });
  await until(async () => (await rabbit.control().messages()) === 0);
  await configure(site, { workers: { servers: 1 } });
  await site.ok('apply', '--yes');
  await publish();
  await until(async () => (await done()).length === next);
  expect(await done()).toEqual(Array.from({ length: next }, (_, n) => n));
  expect(await rabbit.control().messages()).toBe(0);
}, 240_000);

test('while one cannot be reached publishers and workers go on with PostgreSQL', async () => {
  await configure(site, {
    workers: { servers: 1 },
    queue: { url: 'amqp://someone:secret-word@127.0.0.1:9' },
  });
  const { output } = await site.ok('apply', '--yes');
  expect(output).not.toContain('secret-word');
  const n = await publish();
  await until(async () => (await done()).includes(n));
}, 240_000);
