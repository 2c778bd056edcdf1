/** Status and queue as metrics: what is told, how Prometheus reads it, and how its questions are answered. */
import type { Server } from 'node:http';
import { afterEach, expect, test } from 'vitest';
import type { SubscriptionStats } from '../../../src/app/queue/engine.ts';
import { PortInUse } from '../../../src/machines/free-port.ts';
import { expose } from '../../../src/operate/metrics/exposition.ts';
import { metricsOf } from '../../../src/operate/metrics/metrics.ts';
import { serveMetrics } from '../../../src/operate/metrics/serve.ts';
import type { Status } from '../../../src/operate/status.ts';

const STATUS: Status = {
  deployment: 'shop',
  folder: '/shop',
  address: 'http://127.0.0.1:3000',
  supervisor: 1,
  since: '2026-01-01T00:00:00Z',
  epoch: 7,
  database: '',
  units: [
    { name: 'web-1', tier: 'web', phase: 'ready', labels: {}, restarts: 2 },
    { name: 'web-2', tier: 'web', phase: 'starting', labels: {}, restarts: 0 },
  ],
  cache: {
    kind: 'memory',
    redis: [],
    invalidators: [
      {
        name: 'invalidator-1',
        serves: true,
        listeners: 2,
        storeTrouble: undefined,
        counts: { localHits: 90, loads: 10 },
        hotKeys: [{ key: 'a "b"\n\\c', calls: 41 }],
        clusters: [
          {
            cluster: '1',
            state: 'reading',
            applied: '0/1',
            lagBytes: 0,
            lagMs: 0,
            lagP50Ms: 4,
            lagP99Ms: undefined,
            tables: 3,
            gaps: 1,
            lastGap: undefined,
            failure: undefined,
          },
        ],
      },
    ],
  },
};
const QUEUE: SubscriptionStats[] = [
  {
    topic: 'mail',
    subscription: 'work',
    depth: 5,
    delayed: 1,
    leased: 2,
    oldestMs: 1_500,
    completed: 100,
    failed: 3,
    died: 1,
    deadLetters: 1,
    workers: 2,
  },
];

const servers: Server[] = [];
afterEach(() => {
  for (const server of servers.splice(0)) server.close();
});

test('what is known is told in base units, what is not is left out', async () => {
  const text = await expose(metricsOf(STATUS, QUEUE));
  const lines = text.split('\n');
  expect(lines).toEqual(
    expect.arrayContaining([
      'banyan_unit_ready{unit="web-1",tier="web"} 1',
      'banyan_unit_ready{unit="web-2",tier="web"} 0',
      'banyan_unit_restarts_total{unit="web-1",tier="web"} 2',
      'banyan_map_epoch 7',
      'banyan_cache_answers_total{kind="localHits"} 90',
      'banyan_cache_hot_key_calls{key="a \\"b\\"\\n\\\\c"} 41',
      'banyan_cache_lag_seconds{cluster="1",quantile="0.5"} 0.004',
      '# TYPE banyan_queue_depth gauge',
      'banyan_queue_depth{topic="mail",subscription="work"} 5',
      'banyan_queue_oldest_seconds{topic="mail",subscription="work"} 1.5',
      '# TYPE banyan_queue_completed_total counter',
      'banyan_queue_completed_total{topic="mail",subscription="work"} 100',
      'banyan_queue_dead_letters{topic="mail",subscription="work"} 1',
    ]),
  );
  expect(text).not.toContain('quantile="0.99"');
  expect(text).not.toContain('banyan_web_');
  expect(text).not.toContain('NaN');
});

test('a queue that cannot be asked has no figures', async () => {
  expect(await expose(metricsOf(STATUS, undefined))).not.toContain('banyan_queue');
});

test('Prometheus is answered, also when there is nothing to tell', async () => {
  let read = async () => 'banyan_map_epoch 7\n';
  const { server, port } = await serveMetrics('127.0.0.1', 0, () => read());
  servers.push(server);
  const url = `http://127.0.0.1:${port}`;
  const answer = await fetch(`${url}/metrics`);
  expect(answer.headers.get('content-type')).toMatch(/^text\/plain; version=0\.0\.4/);
  expect(await answer.text()).toBe('banyan_map_epoch 7\n');
  expect((await fetch(`${url}/`)).status).toBe(404);
  expect((await fetch(`${url}/metrics`, { method: 'POST' })).status).toBe(405);
  read = async () => {
    throw new Error('not up');
  };
  const refused = await fetch(`${url}/metrics`);
  expect(refused.status).toBe(503);
  expect(await refused.text()).toBe('not up\n');
  await expect(serveMetrics('127.0.0.1', port, read)).rejects.toThrow(PortInUse);
});
