/**
 * Nothing is read from the cache that it must not give any more, whoever writes and whatever is killed; and the checker that
 * says so finds it when the rule is switched off.
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { CACHE_URL_VARIABLE } from '../../../src/app/environment.ts';
import { readRuntimeMap } from '../../../src/map/map-file.ts';
import { cacheUrl } from '../../../src/operate/cache/context.ts';
import { existingDeployment } from '../../../src/operate/deployment.ts';
import { CacheChecker, type CheckerAccount } from '../../support/cache-checker.ts';
import { deployFiles, type Site } from '../../support/deployment.ts';
import { until } from '../../support/until.ts';

const TIMEOUT_MS = 240_000;
const SERVER = `
import { createServer } from 'node:http';
createServer((_, res) => res.end('ok')).listen(process.env.PORT, process.env.HOST);
`;

let site: Site;

beforeAll(async () => {
  site = await deployFiles({
    'package.json': '{"type":"module"}',
    'server.js': SERVER,
    'banyan.config.ts': 'export default { cache: { servers: 1, memoryMb: 32 } };',
    'migrations/1.sql': 'create table hot (id int primary key, version bigint not null);',
  });
  process.env[CACHE_URL_VARIABLE] = cacheUrl(existingDeployment(site.paths)!);
}, TIMEOUT_MS);

afterAll(async () => {
  delete process.env[CACHE_URL_VARIABLE];
  await site?.remove();
}, TIMEOUT_MS);

function checker(options: { careless?: boolean } = {}): Promise<CacheChecker> {
  return CacheChecker.start({
    mapFile: site.paths.map,
    cluster: readRuntimeMap(site.paths.map).database.shards[0]!.id,
    url: async () => site.databaseUrl,
    ...options,
  });
}

function expectNothingStale({ staleOwn, staleTold, wrongAtEnd, readFailures }: CheckerAccount) {
  expect({ staleOwn, staleTold, wrongAtEnd, readFailures }).toEqual({
    staleOwn: [],
    staleTold: [],
    wrongAtEnd: [],
    readFailures: {},
  });
}

test('through kills of Redis and of the invalidator', { timeout: TIMEOUT_MS }, async () => {
  const running = await checker();
  await running.more(5_000);
  for (const unit of ['cache-1', 'invalidator-1', 'cache-1', 'invalidator-1']) {
    const pid = await site.pidOf(unit);
    process.kill(pid, 'SIGKILL');
    await running.more(2_000);
    await until(async () => (await site.pidOf(unit)) !== pid, { what: `${unit} is back` });
    await running.more(2_000);
  }
  const account = await running.finish();
  console.log(account);
  expectNothingStale(account);
  expect(account.hits).toBeGreaterThan(1_000);
});

test('the Redis is frozen, and wakes up', { timeout: TIMEOUT_MS }, async () => {
  const running = await checker();
  await running.more(2_000);
  const pid = await site.pidOf('cache-1');
  process.kill(pid, 'SIGSTOP');
  try {
    await running.more(5_000);
  } finally {
    process.kill(pid, 'SIGCONT');
  }
  await running.more(5_000);
  expectNothingStale(await running.finish());
});

test('with the rule switched off the checker finds what is stale', {
  timeout: TIMEOUT_MS,
}, async () => {
  await site.ok('scale', 'cache=0');
  const running = await checker({ careless: true });
  await until(() => running.found > 0, { what: 'something stale is found', timeoutMs: 120_000 });
  const { staleOwn, staleTold } = await running.finish();
  expect(staleOwn.length + staleTold.length).toBeGreaterThan(0);
});
