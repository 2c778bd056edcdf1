/**
 * The long run of the checker (test/support/cache-checker.ts): a million reads against a deployment of its own, with a
 * replicated database, one replica of which is held back, and a Redis Cluster, while servers are killed in turn.
 *
 *     node --conditions=banyan-source scripts/cache-checker.ts [--reads 1000000] [--kill-every 30] [--careless]
 *
 * Prints what was found, and how long it took from commits until the caches were told. Ends with 1 if anything was stale.
 */
import { parseArgs } from 'node:util';
import pg from 'pg';
import { CACHE_URL_VARIABLE } from '../src/app/environment.ts';
import { readRuntimeMap } from '../src/map/map-file.ts';
import { cacheUrl } from '../src/operate/cache/context.ts';
import { invalidatorStatus } from '../src/operate/cache/status.ts';
import { readDatabaseRecord } from '../src/operate/database/record.ts';
import { superuserUrl } from '../src/operate/database/running.ts';
import { existingDeployment } from '../src/operate/deployment.ts';
import { CacheChecker } from '../test/support/cache-checker.ts';
import { deployFiles } from '../test/support/deployment.ts';
import { postgresPid, primaryOf, serversOf, untilWell } from '../test/support/replicated.ts';

const { values } = parseArgs({
  options: {
    reads: { type: 'string', default: '1000000' },
    'kill-every': { type: 'string', default: '30' },
    rows: { type: 'string', default: '16' },
    pause: { type: 'string', default: '25' },
    careless: { type: 'boolean', default: false },
  },
});
const SERVERS = 3;

const site = await deployFiles({
  'package.json': '{"type":"module"}',
  'server.js': `import { createServer } from 'node:http';
    createServer((_, res) => res.end('ok')).listen(process.env.PORT, process.env.HOST);`,
  'banyan.config.ts': `export default {
    database: { memoryMb: 64, replicas: ${SERVERS - 1} },
    cache: { servers: 3, memoryMb: 16, invalidators: 2 },
  };`,
  'migrations/1.sql': 'create table hot (id int primary key, version bigint not null);',
});
try {
  const deployment = existingDeployment(site.paths)!;
  process.env[CACHE_URL_VARIABLE] = cacheUrl(deployment);
  await untilWell(site, SERVERS);
  const replica = (await serversOf(site)).find(({ role }) => role === 'replica')!;
  const node = readDatabaseRecord(site.paths)!.cluster!.nodes.find(
    ({ name }) => name === replica.name,
  )!;
  const client = new pg.Client(superuserUrl(deployment, node, 'postgres'));
  await client.connect();
  await client.query(`alter system set recovery_min_apply_delay = '500ms'`);
  await client.query('select pg_reload_conf()');
  await client.end();

  const checker = await CacheChecker.start({
    mapFile: site.paths.map,
    cluster: readRuntimeMap(site.paths.map).database.shards[0]!.id,
    url: async () => {
      await site.refresh();
      return site.databaseUrl;
    },
    rows: Number(values.rows),
    pauseMs: Number(values.pause),
    careless: values.careless,
  });
  const begun = performance.now();
  const kills: string[] = [];
  const victims = [
    async () => {
      const redis = (await site.status()).cache?.redis ?? [];
      const masters = redis.filter(({ role }) => role === 'master');
      const { name } = masters[Math.floor(Math.random() * masters.length)]!;
      process.kill(await site.pidOf(name), 'SIGKILL');
      return name;
    },
    async () => {
      process.kill(await site.pidOf('invalidator-1'), 'SIGKILL');
      return 'invalidator-1';
    },
    async () => {
      const primary = await primaryOf(site);
      process.kill(postgresPid(site, primary), 'SIGKILL');
      return primary;
    },
  ];
  let next = performance.now() + Number(values['kill-every']) * 1_000;
  let told = performance.now();
  while (checker.reads < Number(values.reads) && !(values.careless && checker.found > 0)) {
    await new Promise(resolve => setTimeout(resolve, 250));
    if (performance.now() > told + 10_000) {
      told = performance.now();
      const rate = Math.round(checker.reads / ((performance.now() - begun) / 1_000));
      console.log(
        `${checker.reads} reads, ${checker.writes} writes, ${checker.found} stale, ${rate} reads/s`,
      );
    }
    if (performance.now() < next) continue;
    next = performance.now() + Number(values['kill-every']) * 1_000;
    const victim = victims[kills.length % victims.length]!;
    kills.push(await victim().catch(error => `nobody (${(error as Error).message})`));
    console.log(`killed ${kills.at(-1)}`);
  }
  const statuses = await Promise.all(
    ['invalidator-1', 'invalidator-2'].map(name =>
      invalidatorStatus(site.paths.socketFor(name)).catch(() => undefined),
    ),
  );
  const lag = statuses.find(status => status?.serves)?.clusters[0];
  const account = await checker.finish();
  const { lagP50Ms, lagP99Ms, gaps } = lag ?? {};
  console.log({ seconds: Math.round((performance.now() - begun) / 1_000), kills, ...account });
  console.log({ fromCommitToCacheMs: { p50: lagP50Ms, p99: lagP99Ms }, gapsOfTheLast: gaps });
  const found = account.staleOwn.length + account.staleTold.length + account.wrongAtEnd.length;
  process.exitCode = found > 0 ? 1 : 0;
} finally {
  await site.remove();
}
