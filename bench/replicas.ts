/**
 * What replicas add: reads per second with one, two and four of them, each server held to the same slice of the
 * processor, so that one machine stands for five. Takes root, for the slices.
 *
 *     node --conditions=banyan-source bench/replicas.ts [--rounds 5] [--seconds 4] [--slice 0.15]
 *
 * A read sums a hundred rows, so that what is measured is the servers and not this process, which sends them all.
 * Rounds alternate between the numbers of replicas.
 */
import { parseArgs } from 'node:util';
import type { Pool } from '../src/app/database/pool.ts';
import { log } from '../src/app/telemetry/log.ts';
import { Cluster } from '../test/support/cluster.ts';
import { CpuQuota } from '../test/support/cpu-quota.ts';
import { RoutedPools, serverOf } from '../test/support/routed.ts';
import { until } from '../test/support/until.ts';
import { middle, perSecond } from './support/measure.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '4' },
    slice: { type: 'string', default: '0.15' },
  },
});
const COUNTS = [1, 2, 4];
const MOST = Math.max(...COUNTS);
const AUTHORS = 200;
const CONCURRENCY = 200;
const CONNECTIONS = 8;
const TO_REACH = 3.8;

log.level = 'silent';
const cluster = await Cluster.start({ standbys: MOST });
const pools = new RoutedPools(cluster);
const slices: CpuQuota[] = [];
try {
  await cluster.primary.ask(`
    create table items (id int primary key, author int, price int);
    insert into items select i, i % ${AUTHORS}, i from generate_series(1, ${AUTHORS * 100}) i;
    create index on items (author)`);
  await cluster.primary.ask('vacuum analyze items');
  await pools.prepare();
  for (const member of cluster.members) {
    const slice = CpuQuota.of(Number(values.slice));
    slices.push(slice);
    for (const pid of await member.processes()) slice.add(pid);
  }

  const rates = new Map<number, number[]>(COUNTS.map(count => [count, []]));
  for (let round = 0; round < Number(values.rounds); round++) {
    for (const count of round % 2 ? COUNTS.toReversed() : COUNTS) {
      rates.get(count)!.push(await readsPerSecond(count));
    }
  }
  const one = middle(rates.get(1)!);
  for (const [count, list] of rates) {
    const ratio = (middle(list) / one).toFixed(2);
    const goal = count === MOST ? `; to reach: ${TO_REACH}` : '';
    console.log(
      `${count} replica${count === 1 ? ' ' : 's'}  ${Math.round(middle(list))} reads/s, ${ratio} times one${goal}`,
    );
  }
} finally {
  for (const slice of slices) slice.release();
  await cluster.remove();
}

async function readsPerSecond(replicas: number): Promise<number> {
  await pools.publish([cluster.primary, ...cluster.standbys.slice(0, replicas)]);
  const pool = await pools.reading({ max: CONNECTIONS });
  const seen = new Set<string>();
  await until(
    async () => {
      // Together: one at a time would all go to whichever is a little faster.
      const many = Array.from({ length: CONCURRENCY }, () => serverOf(pool));
      for (const name of await Promise.all(many)) seen.add(name);
      seen.delete(cluster.primary.name);
      return seen.size === replicas;
    },
    { what: 'all replicas are read from' },
  );
  await read(pool, 1);
  const rate = await read(pool, Number(values.seconds));
  await pool.end();
  return rate;
}

function read(pool: Pool, seconds: number): Promise<number> {
  const work = () => {
    const author = Math.floor(Math.random() * AUTHORS);
    return pool.query('select count(*), sum(price) from items where author = $1', [author]);
  };
  return perSecond(work, seconds, CONCURRENCY);
}
