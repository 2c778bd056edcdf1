/**
 * The cache tier changes while the application serves: none, one Redis, a Redis Cluster, more of it, less, and back; and all of it
 * is lost at once. No request fails, nobody is given what he has replaced, and the database never sees more connections than
 * the pools have.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readRuntimeMap } from '../../../src/map/map-file.ts';
import { deployFiles, type Site } from '../../support/deployment.ts';
import { until } from '../../support/until.ts';

const TIMEOUT_MS = 560_000;
const ROWS = 40;
const POOL = 6;
const SERVER = `
import { createServer } from 'node:http';
import { createCache, createPool, lifecycle } from 'banyan';

const pool = createPool({ max: ${POOL} });
const cache = createCache({ pool });
const server = createServer(async (req, res) => {
  const [, id] = req.url.split('/');
  try {
    if (req.method === 'PUT') {
      const { rows } = await pool.query('update items set version = version + 1 where id = $1 returning version', [id]);
      res.end(rows[0].version);
    } else if (id === 'counts') {
      res.end(JSON.stringify(cache.counts));
    } else {
      const find = async () => (await pool.query('select version from items where id = $1', [id])).rows[0].version;
      res.end(await cache.get(['item', id], find));
    }
  } catch (error) {
    res.writeHead(500).end(String(error.stack));
  }
});
lifecycle(server, { pool });
server.listen(process.env.PORT, process.env.HOST);
`;

let site: Site;

beforeAll(async () => {
  site = await deployFiles({
    'package.json': '{"type":"module"}',
    'server.js': SERVER,
    'banyan.config.ts': 'export default { cache: true };',
    'migrations/1.sql': `create table items (id int primary key, version bigint not null);
      insert into items select id, 1 from generate_series(1, ${ROWS}) id;`,
  });
}, TIMEOUT_MS);

afterAll(() => site?.remove(), TIMEOUT_MS);

interface Traffic {
  requests: number;
  failures: string[];
  /** Of the users, each of whom writes rows of his own. */
  stale: string[];
  slowestMs: number;
}

/** Users who write and read all the time while `body` runs; each has rows that nobody else writes. */
async function underTraffic(body: (traffic: Traffic) => Promise<void>): Promise<Traffic> {
  const traffic: Traffic = { requests: 0, failures: [], stale: [], slowestMs: 0 };
  const users = 4;
  let isOver = false;
  const user = async (number: number) => {
    const written = new Map<number, { version: number; at: number }>();
    for (let n = 0; !isOver; n++) {
      const own = 1 + ((number + users * n) % ROWS);
      const isWrite = n % 5 === 0;
      const begun = performance.now();
      try {
        const response = await fetch(`${site.address}/${own}`, {
          method: isWrite ? 'PUT' : 'GET',
        });
        const text = await response.text();
        if (response.status !== 200) traffic.failures.push(`${response.status} ${text}`);
        else if (isWrite) written.set(own, { version: Number(text), at: performance.now() });
        else {
          const last = written.get(own);
          // Without a session the user is shown what has been told: within a moment of the commit.
          if (last && Number(text) < last.version && begun > last.at + 5_000) {
            traffic.stale.push(`row ${own}: ${text}, and ${last.version} was written`);
          }
        }
      } catch (error) {
        traffic.failures.push(String((error as Error).cause ?? error));
      }
      traffic.requests++;
      traffic.slowestMs = Math.max(traffic.slowestMs, performance.now() - begun);
      await delay(5);
    }
  };
  const running = Array.from({ length: users }, (_, number) => user(number));
  try {
    await body(traffic);
  } finally {
    isOver = true;
    await Promise.all(running);
  }
  return traffic;
}

async function more(traffic: Traffic, requests: number): Promise<void> {
  const before = traffic.requests;
  await until(() => traffic.requests >= before + requests, {
    what: 'traffic goes on',
    timeoutMs: 60_000,
  });
}

async function counts(): Promise<Record<string, number>> {
  return (await (await fetch(`${site.address}/counts`)).json()) as Record<string, number>;
}

test('none, one Redis, a cluster of three, of four, of three; undone; and none', {
  timeout: TIMEOUT_MS,
}, async () => {
  const traffic = await underTraffic(async running => {
    await more(running, 100);
    for (const servers of [1, 3, 4, 3]) {
      await site.ok('scale', `cache=${servers}`);
      await more(running, 100);
      const { redis } = readRuntimeMap(site.paths.map).cache!;
      expect(redis?.nodes).toHaveLength(servers === 1 ? 1 : servers * 2);
      const status = await site.status();
      expect(status.units.filter(({ tier }) => tier === 'cache')).toHaveLength(redis!.nodes.length);
      expect(status.units.every(({ phase }) => phase === 'ready')).toBe(true);
    }
    await site.ok('undo');
    expect(readRuntimeMap(site.paths.map).cache?.redis?.nodes).toHaveLength(8);
    await site.ok('scale', 'cache=0');
    await more(running, 300);
    expect(readRuntimeMap(site.paths.map).cache?.redis).toBeNull();
  });
  const { failures, stale } = traffic;
  expect({ failures, stale }).toEqual({ failures: [], stale: [] });
  expect((await site.status()).units.some(({ tier }) => tier === 'cache')).toBe(false);
});

test('every node of the cache is lost at once, under load', { timeout: TIMEOUT_MS }, async () => {
  await site.ok('scale', 'cache=3');
  let most = 0;
  const pool = site.pool({ max: 1 });
  const look = async () => {
    const { rows } = await pool.query<{ count: number }>(
      `select count(*)::int from pg_stat_activity
       where datname = current_database() and backend_type = 'client backend'
         and application_name not like 'banyan %' and pid <> pg_backend_pid()`,
    );
    most = Math.max(most, rows[0]!.count);
  };
  const traffic = await underTraffic(async running => {
    await more(running, 200);
    const units = (await site.status()).units.filter(({ tier }) => tier === 'cache');
    const pids = units.map(({ pid }) => pid!);
    // Frozen first: nobody answers, and nobody says so.
    for (const pid of pids) process.kill(pid, 'SIGSTOP');
    for (let n = 0; n < 5; n++) {
      await more(running, 100);
      await look();
    }
    for (const pid of pids) process.kill(pid, 'SIGKILL');
    for (let n = 0; n < 5; n++) {
      await more(running, 100);
      await look();
    }
    await until(
      async () => {
        const cache = (await site.status()).units.filter(({ tier }) => tier === 'cache');
        return cache.length === 6 && cache.every(({ phase }) => phase === 'ready');
      },
      { what: 'all nodes are back', timeoutMs: 60_000 },
    );
    // By itself the cache is used again.
    const before = await counts();
    await until(async () => (await counts()).localHits! > before.localHits! + 50, {
      what: 'the cache is used again',
      timeoutMs: 120_000,
    });
  });
  console.log({ most, requests: traffic.requests, slowestMs: Math.round(traffic.slowestMs) });
  const { failures, stale } = traffic;
  expect({ failures, stale }).toEqual({ failures: [], stale: [] });
  // The servers' pool, and what the pool keeps for itself.
  expect(most).toBeLessThanOrEqual(POOL + 2);
});
