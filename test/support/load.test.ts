/** The load generator sends what it says and counts what became of it. */
import { createServer, type RequestListener, type Server } from 'node:http';
import { afterEach, expect, test } from 'vitest';
import { latenciesOf, load } from './load.ts';

let server: Server | undefined;
afterEach(() => {
  server?.closeAllConnections();
  server?.close();
});

async function serve(listener: RequestListener): Promise<string> {
  server = createServer(listener);
  await new Promise<void>(resolve => server!.listen(0, '127.0.0.1', resolve));
  return `http://127.0.0.1:${(server.address() as { port: number }).port}`;
}

test('every arrival is accounted for: answered, failed or shed', async () => {
  let seen = 0;
  const origin = await serve((_req, res) => {
    seen++;
    res.writeHead(seen % 5 === 0 ? 500 : 200).end();
  });
  let turn = 0;
  const report = await load({
    origin,
    rate: 400,
    durationMs: 500,
    next: () => (turn++ % 2 ? { name: 'odd', path: '/odd' } : { name: 'even', path: '/even' }),
  });
  const failed = Object.values(report.failures).reduce((sum, count) => sum + count, 0);
  expect(report.answered + failed).toBe(report.arrivals);
  expect(seen).toBe(report.arrivals);
  expect(report.failures['HTTP 500']).toBe(Math.floor(seen / 5));
  // A Poisson process of 200 expected arrivals stays within six standard deviations.
  expect(report.arrivals).toBeGreaterThan(115);
  expect(report.arrivals).toBeLessThan(285);
  const { odd, even } = report.byName;
  expect(odd!.count + even!.count).toBe(report.answered);
});

test('a server that stalls is charged for everyone who had to wait', async () => {
  const held: (() => void)[] = [];
  let stalled = true;
  const origin = await serve((_req, res) => {
    if (stalled) held.push(() => res.end());
    else res.end();
  });
  setTimeout(() => {
    stalled = false;
    for (const release of held) release();
  }, 400);
  const report = await load({
    origin,
    rate: 200,
    durationMs: 500,
    connections: 1,
    next: () => ({ name: 'all', path: '/' }),
  });
  // One connection: a generator that waits for its answer would have counted one slow request.
  expect(report.all.p50).toBeGreaterThan(100);
});

test('what cannot be sent is shed, and said', async () => {
  const origin = await serve(() => {});
  const report = await load({
    origin,
    rate: 500,
    durationMs: 200,
    maxInFlight: 10,
    timeoutMs: 400,
    next: () => ({ name: 'all', path: '/' }),
  });
  expect(report.answered).toBe(0);
  expect(report.failures.shed).toBe(report.arrivals - 10);
});

test('percentiles are those of the nearest rank', () => {
  const hundred = Array.from({ length: 100 }, (_, index) => 100 - index);
  expect(latenciesOf(hundred)).toEqual({
    count: 100,
    p50: 50,
    p90: 90,
    p99: 99,
    p999: 100,
    max: 100,
  });
  expect(latenciesOf([7])).toMatchObject({ p50: 7, max: 7 });
});
