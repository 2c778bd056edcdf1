/** `banyan doctor` looks for RabbitMQ where the topology asks for one that Banyan runs, and only there. */
import { expect, test } from 'vitest';
import { examine, type Finding } from '../../../src/operate/doctor/examine.ts';
import type { Topology } from '../../../src/topology/topology.ts';
import { configure } from '../../support/balanced-app.ts';
import { siteOf } from '../../support/deployment.ts';
import { WORKED_APP } from '../../support/worked-app.ts';

/** In a folder of its own: a configuration that was read is not read again. */
async function found(topology: Topology): Promise<Finding[]> {
  await using site = await siteOf(WORKED_APP);
  await configure(site, topology);
  return (await examine(site.paths)).filter(({ check }) => check === 'RabbitMQ');
}

test('it is looked for when its nodes are to be run, and not when the queue is elsewhere', async () => {
  expect(await found({ queue: { engine: 'rabbitmq', servers: 3 } })).toEqual([
    { check: 'RabbitMQ', verdict: 'ok', detail: expect.stringMatching(/rabbitmq-server$/) },
  ]);
  expect(await found({ queue: { url: 'amqp://someone:word@127.0.0.1:9' } })).toEqual([]);
  expect(await found({})).toEqual([]);
});
