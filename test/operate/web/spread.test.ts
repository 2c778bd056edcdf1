/** Which server gets a request, how long it waits, and what becomes of it when a server dies under it. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { HaproxyRuntime } from '../../../src/engines/haproxy-runtime.ts';
import type { WebTier } from '../../../src/topology/topology.ts';
import { ask } from '../../support/ask.ts';
import { balancedSite, configure } from '../../support/balanced-app.ts';
import { CpuQuota } from '../../support/cpu-quota.ts';
import type { Site } from '../../support/deployment.ts';
import { until } from '../../support/until.ts';

let site: Site;
beforeAll(async () => {
  site = await balancedSite({ web: { servers: 2 } });
  await site.up();
});
afterAll(() => site.remove());

const applied = async (web: WebTier, algorithm: 'roundrobin' | 'leastconn' = 'roundrobin') => {
  await configure(site, { web: { servers: 2, ...web }, balancer: { algorithm } });
  await site.ok('apply', '--yes');
};

/** How many of `count` requests each server got; `clients` ask at a time, one after the other each. */
async function spread(path: string, count: number, clients: number): Promise<Map<string, number>> {
  const got = new Map<string, number>();
  let left = count;
  const client = async () => {
    while (left-- > 0) {
      const { status, text } = await ask(site.address + path);
      expect(status).toBe(200);
      got.set(text, (got.get(text) ?? 0) + 1);
    }
  };
  await Promise.all(Array.from({ length: clients }, client));
  return got;
}

/** Each answers, and HAProxy has seen that: what it says alone may be of before one died. */
async function everyServerIsUp(): Promise<void> {
  const runtime = new HaproxyRuntime(site.paths.socketFor('balancer-1'));
  await until(
    async () => {
      const units = (await site.status()).units.filter(({ tier }) => tier === 'web');
      const replies = await Promise.all(
        units.map(({ address }) => ask(`${address}/who`).catch(() => undefined)),
      );
      if (units.length !== 2 || !replies.every(reply => reply?.status === 200)) return false;
      const { servers } = await runtime.statistics();
      return servers.length === 2 && servers.every(({ status }) => status === 'UP');
    },
    { what: 'both servers are up' },
  );
}

test('busy servers: requests wait at the balancer, all are answered', async () => {
  await applied({ maxConcurrency: 1 });
  const replies = await Promise.all(Array.from({ length: 100 }, () => ask(`${site.address}/slow`)));
  expect(replies.map(({ status }) => status)).toEqual(Array(100).fill(200));
  const seen = replies.map(({ text }) => JSON.parse(text) as { unit: string; together: number });
  // No server ever worked on more than it may.
  expect(Math.max(...seen.map(({ together }) => together))).toBe(1);
  expect(new Set(seen.map(({ unit }) => unit)).size).toBe(2);
});

test('leastconn: whoever has the fewest requests in flight gets the next', async () => {
  await applied({}, 'leastconn');
  const leaving = new AbortController();
  try {
    const held = await fetch(`${site.address}/hold`, { signal: leaving.signal });
    const { value } = await held.body!.getReader().read();
    const busy = new TextDecoder().decode(value).trim();
    const got = await spread('/who', 40, 1);
    expect(got.size).toBe(1);
    expect(got.has(busy)).toBe(false);
  } finally {
    leaving.abort();
  }
});

describe('weights', () => {
  afterEach(() => applied({}));

  test('[100, 50] share two to one, within 5 %', async () => {
    await applied({ weights: [100, 50] });
    const counts = [...(await spread('/who', 900, 8)).values()].sort((a, b) => b - a);
    expect(counts).toHaveLength(2);
    expect(Math.abs(counts[0]! / 600 - 1)).toBeLessThan(0.05);
    expect(Math.abs(counts[1]! / 300 - 1)).toBeLessThan(0.05);
  });
});

// Only root may set a quota.
describe.runIf(process.getuid?.() === 0)('a server of half the processor', () => {
  // The slices are small enough that the rest of this machine cannot disturb their proportion.
  let full: CpuQuota;
  let half: CpuQuota;
  beforeAll(async () => {
    await applied({}, 'leastconn');
    full = CpuQuota.of(0.15);
    half = CpuQuota.of(0.075);
    full.add(await site.pidOf('web-1'));
    half.add(await site.pidOf('web-2'));
  });
  afterAll(() => {
    full?.release();
    half?.release();
  });

  test('gets about half of the requests, with leastconn', async () => {
    // Each costs three milliseconds of processor, so the quota decides how many a server can do.
    const got = await spread('/compute?us=3000', 240, 8);
    const ratio = (got.get('web-2') ?? 0) / (got.get('web-1') ?? 1);
    expect(ratio, JSON.stringify([...got])).toBeGreaterThan(0.38);
    expect(ratio, JSON.stringify([...got])).toBeLessThan(0.62);
  });
});

describe('a server dies under a request', () => {
  const hits = async (key: string) => {
    const { rows } = await site
      .pool()
      .query<{ unit: string }>('select unit from hits where key = $1', [key]);
    return rows.map(({ unit }) => unit);
  };
  beforeEach(everyServerIsUp);
  afterEach(everyServerIsUp);

  test('GET and PUT are sent to another', async () => {
    for (const method of ['GET', 'PUT', 'DELETE']) {
      const answer = await ask(`${site.address}/die?key=${method}`, {
        method,
        ...(method === 'PUT' ? { body: 'something' } : {}),
      });
      expect(answer.status, method).toBe(200);
      const [died, answered, ...more] = await hits(method);
      expect(answered).toBe(answer.text);
      expect(died).not.toBe(answered);
      expect(more).toEqual([]);
      await everyServerIsUp();
    }
  });

  test('a PUT longer than what HAProxy keeps is not: it fails, and is done once', async () => {
    const body = 'long '.repeat(20_000);
    const answer = await ask(`${site.address}/die?key=long-put`, { method: 'PUT', body });
    expect(answer.status).toBe(502);
    expect(await hits('long-put')).toHaveLength(1);
  });

  test('a POST is never sent twice: the client learns that its outcome is unknown', async () => {
    for (const body of ['short', 'long '.repeat(20_000)]) {
      const key = `post-${body.length}`;
      const answer = await ask(`${site.address}/die?key=${key}`, { method: 'POST', body });
      expect(answer.status).toBe(502);
      expect(await hits(key)).toHaveLength(1);
      await everyServerIsUp();
    }
  });
});
