/**
 * A replicated database, one replica of which is held back on purpose, and a Redis Cluster: whatever is killed, nothing is read
 * that must not be read any more; a primary that is lost costs the cache nothing.
 */
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { CACHE_URL_VARIABLE } from '../../../src/app/environment.ts';
import { readRuntimeMap } from '../../../src/map/map-file.ts';
import { cacheUrl } from '../../../src/operate/cache/context.ts';
import type { InvalidatorStatus } from '../../../src/operate/cache/invalidator/protocol.ts';
import { invalidatorStatus } from '../../../src/operate/cache/status.ts';
import { readDatabaseRecord } from '../../../src/operate/database/record.ts';
import { superuserUrl } from '../../../src/operate/database/running.ts';
import { existingDeployment } from '../../../src/operate/deployment.ts';
import { CacheChecker, type CheckerAccount } from '../../support/cache-checker.ts';
import { deployFiles, type Site } from '../../support/deployment.ts';
import { postgresPid, primaryOf, serversOf, untilWell } from '../../support/replicated.ts';
import { until } from '../../support/until.ts';

const TIMEOUT_MS = 400_000;
const SERVERS = 3;
/** Far more than a load and its fill take. */
const HELD_BACK = '700ms';
const SERVER = `
import { createServer } from 'node:http';
createServer((_, res) => res.end('ok')).listen(process.env.PORT, process.env.HOST);
`;

let site: Site;

beforeAll(async () => {
  site = await deployFiles({
    'package.json': '{"type":"module"}',
    'server.js': SERVER,
    'banyan.config.ts': `export default {
      database: { memoryMb: 64, replicas: ${SERVERS - 1} },
      cache: { servers: 3, memoryMb: 16, invalidators: 2 },
    };`,
    'migrations/1.sql': 'create table hot (id int primary key, version bigint not null);',
  });
  process.env[CACHE_URL_VARIABLE] = cacheUrl(existingDeployment(site.paths)!);
  await untilWell(site, SERVERS);
}, TIMEOUT_MS);

afterAll(async () => {
  delete process.env[CACHE_URL_VARIABLE];
  await site?.remove();
}, TIMEOUT_MS);

async function checker(): Promise<CacheChecker> {
  return CacheChecker.start({
    mapFile: site.paths.map,
    cluster: readRuntimeMap(site.paths.map).database.shards[0]!.id,
    url: async () => {
      await site.refresh();
      return site.databaseUrl;
    },
  });
}

function expectNothingStale(account: CheckerAccount) {
  const { staleOwn, staleTold, wrongAtEnd } = account;
  expect({ staleOwn, staleTold, wrongAtEnd }).toEqual({
    staleOwn: [],
    staleTold: [],
    wrongAtEnd: [],
  });
  expect(account.hits).toBeGreaterThan(0);
}

/** A replica shows what was some time ago. */
async function holdBack(name: string): Promise<void> {
  const node = readDatabaseRecord(site.paths)!.cluster!.nodes.find(each => each.name === name)!;
  const client = new pg.Client(superuserUrl(existingDeployment(site.paths)!, node, 'postgres'));
  await client.connect();
  await client.query(`alter system set recovery_min_apply_delay = '${HELD_BACK}'`);
  await client.query('select pg_reload_conf()');
  await client.end();
}

async function serving(): Promise<InvalidatorStatus> {
  return until(async () => {
    for (const name of ['invalidator-1', 'invalidator-2']) {
      const status = await invalidatorStatus(site.paths.socketFor(name)).catch(() => undefined);
      if (status?.serves) return status;
    }
    return undefined;
  });
}

test('a replica is held back', { timeout: TIMEOUT_MS }, async () => {
  const replica = (await serversOf(site)).find(({ role }) => role === 'replica')!;
  await holdBack(replica.name);
  const running = await checker();
  await running.more(8_000, 200_000);
  const account = await running.finish();
  expectNothingStale(account);
  expect(account.readFailures).toEqual({});
});

test('a master of the Redis Cluster is killed, another is frozen until its replica takes over', {
  timeout: TIMEOUT_MS,
}, async () => {
  const running = await checker();
  await running.more(2_000, 200_000);
  const masters = (await site.status()).cache!.redis.filter(({ role }) => role === 'master');
  expect(masters).toHaveLength(3);
  process.kill(await site.pidOf(masters[0]!.name), 'SIGKILL');
  await running.more(2_000, 200_000);
  const frozen = await site.pidOf(masters[1]!.name);
  process.kill(frozen, 'SIGSTOP');
  try {
    await until(
      async () => {
        const redis = (await site.status()).cache!.redis;
        const others = redis.filter(({ name }) => name !== masters[1]!.name);
        return others.filter(({ role }) => role === 'master').length >= 3;
      },
      { what: 'a replica takes over', timeoutMs: 60_000 },
    );
    await running.more(2_000, 200_000);
  } finally {
    process.kill(frozen, 'SIGCONT');
  }
  await running.more(2_000, 200_000);
  const account = await running.finish();
  expectNothingStale(account);
  expect(account.readFailures).toEqual({});
  // Roles have changed, and the plan has nothing against it, when all are well again.
  await until(async () => (await site.ok('plan')).stdout.includes('what runs is what'), {
    what: 'nothing is left to do',
    timeoutMs: 60_000,
  });
});

test('the primary is killed: nothing of the log is missed, and nothing is forgotten', {
  timeout: TIMEOUT_MS,
}, async () => {
  const running = await checker();
  await running.more(2_000, 200_000);
  const { gaps } = (await serving()).clusters[0]!;
  const primary = await primaryOf(site);
  process.kill(postgresPid(site, primary), 'SIGKILL');
  await until(async () => (await primaryOf(site)) !== primary, {
    what: 'another is the primary',
    timeoutMs: 60_000,
  });
  await running.more(4_000, 200_000);
  const account = await running.finish();
  expectNothingStale(account);
  const after = (await serving()).clusters[0]!;
  console.log(account, after);
  expect(after.state).toBe('reading');
  expect(after.gaps).toBe(gaps);
  await untilWell(site, SERVERS);
});

test('the invalidator is killed', { timeout: TIMEOUT_MS }, async () => {
  const running = await checker();
  await running.more(2_000, 200_000);
  for (let n = 0; n < 3; n++) {
    process.kill(await site.pidOf((await serving()).name), 'SIGKILL');
    await running.more(2_000, 200_000);
  }
  expectNothingStale(await running.finish());
});
