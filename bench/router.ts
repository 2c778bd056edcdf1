/**
 * What the router costs over the bare `pg.Pool`: point reads by primary key, through the router to its one
 * replica and straight to that same replica, from the same process, in turn; and through PgBouncer and pgpool-II
 * to that replica, where they are installed.
 *
 *     node --conditions=banyan-source bench/router.ts [--rounds 40] [--seconds 0.5]
 *
 * Rounds are short and alternate, and so does who begins; the ratio is the middle one of the rounds' own, so a
 * machine that others use meets both alike. Beside it: what a read costs this process, which is what bounds the
 * rate, in µs of the processor; that hardly changes with what else runs.
 */
import { rm } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import pg from 'pg';
import { log } from '../src/app/telemetry/log.ts';
import { Cluster } from '../test/support/cluster.ts';
import { temporaryFolder } from '../test/support/deployment.ts';
import { RoutedPools } from '../test/support/routed.ts';
import { middle, perSecond } from './support/measure.ts';
import { type Pooler, startPgBouncer, startPgpool } from './support/poolers.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '40' },
    seconds: { type: 'string', default: '0.5' },
  },
});
const ROWS = 10_000;
const CONCURRENCY = 20;
const CONNECTIONS = 10;

log.level = 'silent';
const cluster = await Cluster.start({ standbys: 1 });
const pools = new RoutedPools(cluster);
const folder = temporaryFolder();
const poolers: Pooler[] = [];
try {
  await cluster.primary.ask(`
    create table items (id int primary key, name text);
    insert into items select i, 'item ' || i from generate_series(1, ${ROWS}) i`);
  await cluster.primary.ask('vacuum analyze items');
  await pools.prepare();
  await pools.publish();
  const ours = await pools.reading({ max: CONNECTIONS });
  const bare = cluster.poolTo(cluster.standbys[0]!, 'postgres', CONNECTIONS);

  const contestants: [string, pg.Pool][] = [
    ['pg.Pool', bare],
    ['router', ours],
  ];
  const standby = cluster.standbys[0]!;
  for (const [name, pooler] of [
    ['PgBouncer', await startPgBouncer(`${folder}/pgbouncer`, standby, CONNECTIONS)],
    ['pgpool-II', await startPgpool(folder, cluster.primary, standby)],
  ] as const) {
    if (!pooler) {
      console.log(`${name} is not installed`);
      continue;
    }
    poolers.push(pooler);
    const pool = new pg.Pool({ connectionString: pooler.url, max: CONNECTIONS });
    contestants.push([name, cluster.adopt(pool)]);
  }
  for (const [, pool] of contestants) await perSecond(() => readOne(pool), 1, CONCURRENCY);
  const rates: Record<string, number[]> = {};
  const costs: Record<string, number[]> = {};
  for (const [name] of contestants) {
    rates[name] = [];
    costs[name] = [];
  }
  for (let round = 0; round < Number(values.rounds); round++) {
    for (const [name, pool] of round % 2 ? contestants.toReversed() : contestants) {
      const { user, system } = process.cpuUsage();
      const seconds = Number(values.seconds);
      const rate = await perSecond(() => readOne(pool), seconds, CONCURRENCY);
      const used = process.cpuUsage({ user, system });
      rates[name]!.push(rate);
      costs[name]!.push((used.user + used.system) / (rate * seconds));
    }
  }
  const [onPrimary] = await cluster.primary.ask<{ scans: number }>(
    `select idx_scan::int as scans from pg_stat_user_tables where relname = 'items'`,
  );
  console.log(`reads of the primary: ${onPrimary?.scans}`);
  for (const [name, list] of Object.entries(rates)) {
    const [least, most] = [Math.min(...list), Math.max(...list)].map(Math.round);
    const ratio = middle(list.map((rate, round) => rate / rates['pg.Pool']![round]!)).toFixed(3);
    console.log(
      `${name.padEnd(10)}${ratio}  ${Math.round(middle(list))} reads/s (${least} to ${most}), ${middle(costs[name]!).toFixed(1)} µs${name === 'router' ? '; to reach: 0.97' : ''}`,
    );
  }
} finally {
  // Pools follow the map: they end before it goes.
  await cluster.remove();
  await Promise.all(poolers.map(pooler => pooler.stop()));
  await rm(folder, { recursive: true, force: true });
}

/** A point read that is right. */
async function readOne(pool: pg.Pool): Promise<void> {
  const id = 1 + Math.floor(Math.random() * ROWS);
  const { rows } = await pool.query('select id, name from items where id = $1', [id]);
  if (rows[0]?.id !== id) throw new Error('a wrong row');
}
