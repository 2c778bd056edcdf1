/** `banyan doctor` looks for RabbitMQ where the topology asks for one that Banyan runs, and only there. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { examine } from '../../../src/operate/doctor/examine.ts';
import { configure } from '../../support/balanced-app.ts';
import { type Site, siteOf } from '../../support/deployment.ts';
import { WORKED_APP } from '../../support/worked-app.ts';

let site: Site;
beforeAll(async () => {
  site = await siteOf(WORKED_APP);
});
afterAll(() => site.remove());

const found = async () => (await examine(site.paths)).filter(({ check }) => check === 'RabbitMQ');

test('it is looked for when its nodes are to be run, and not when the queue is elsewhere', async () => {
  await configure(site, { queue: { engine: 'rabbitmq', servers: 3 } });
  expect(await found()).toEqual([
    { check: 'RabbitMQ', verdict: 'ok', detail: expect.stringMatching(/rabbitmq-server$/) },
  ]);
  await configure(site, { queue: { url: 'amqp://someone:word@127.0.0.1:9' } });
  expect(await found()).toEqual([]);
  await configure(site, {});
  expect(await found()).toEqual([]);
});
