/**
 * What a pool over shards costs: point reads and writes of one shard's rows, through it and through the bare
 * `pg.Pool` on that shard's server, from the same process, in turn; and what a transaction over two shards costs
 * against one within a shard.
 *
 *     node --conditions=banyan-source bench/sharded-pool.ts [--rounds 20] [--seconds 0.5]
 *
 * Rounds are short and alternate, and so does who begins; the ratio is the middle one of the rounds' own.
 */
import { parseArgs } from 'node:util';
import pg from 'pg';
import { createPool } from '../src/app/database/pool.ts';
import { evenRanges, Ranges } from '../src/app/database/shards/ranges.ts';
import { log } from '../src/app/telemetry/log.ts';
import { HintedPools } from '../test/support/hinted-shards.ts';
import { ShardServers } from '../test/support/shard-servers.ts';
import { middle, perSecond } from './support/measure.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '20' },
    seconds: { type: 'string', default: '0.5' },
  },
});
const CONCURRENCY = 20;
const CONNECTIONS = 10;
const ranges = new Ranges(evenRanges(2));
const owned = (shard: number) =>
  Array.from({ length: 20_000 }, (_, i) => i).filter(id => ranges.shardOfKey('int8', id) === shard);
const KEYS = [owned(0), owned(1)] as const;
const any = (shard: 0 | 1) => KEYS[shard][Math.floor(Math.random() * KEYS[shard].length)]!;

log.level = 'silent';
const shards = await ShardServers.start(2, { servers: 2 });
const maps = HintedPools.of(shards);
await shards.everywhere(
  'create table items (id bigint primary key, name text, count int default 0)',
);
for (const [shard, pool] of shards.pools.entries()) {
  await pool.query("insert into items select id, 'item ' || id from unnest($1::bigint[]) id", [
    KEYS[shard],
  ]);
  await pool.query('vacuum analyze items');
}
await maps.publish({ tables: { 'public.items': { kind: 'sharded', key: 'id' } } });
const options = { connectionString: shards.urls[0]!, max: CONNECTIONS };
const ours = createPool({ ...options, mapFile: maps.mapFile });
const bare = new pg.Pool(options);

const read = (pool: pg.Pool) => async () => {
  const id = any(0);
  const { rows } = await pool.query('select id::int, name from items where id = $1', [id]);
  if (rows[0]?.id !== id) throw new Error('a wrong row');
};
const write = (pool: pg.Pool) => () =>
  pool.query('update items set count = count + 1 where id = $1', [any(0)]);
const transfer = (pool: pg.Pool, to: 0 | 1) => async () => {
  const client = await pool.connect();
  try {
    await client.query('begin');
    await client.query('update items set count = count - 1 where id = $1', [any(0)]);
    await client.query('update items set count = count + 1 where id = $1', [any(to)]);
    await client.query('commit');
  } catch (error) {
    await client.query('rollback');
    if (!['40P01'].includes((error as { code?: string }).code ?? '')) throw error;
  } finally {
    client.release();
  }
};

try {
  await compare('reads of one shard', read(bare), read(ours), '0.95');
  await compare('writes to one shard', write(bare), write(ours), '0.95');
  await compare('transactions of one shard', transfer(bare, 0), transfer(ours, 0), '-');
  await compare('transactions, one shard : two', transfer(ours, 0), transfer(ours, 1), '-');
} finally {
  await Promise.all([ours.end(), bare.end()]);
  await shards.remove();
}

async function compare(
  what: string,
  first: () => Promise<unknown>,
  second: () => Promise<unknown>,
  goal: string,
): Promise<void> {
  for (const one of [first, second]) await perSecond(one, 1, CONCURRENCY);
  const ratios: number[] = [];
  const rates: [number, number][] = [];
  for (let round = 0; round < Number(values.rounds); round++) {
    const seconds = Number(values.seconds);
    const swapped = round % 2 === 1;
    const one = await perSecond(swapped ? second : first, seconds, CONCURRENCY);
    const other = await perSecond(swapped ? first : second, seconds, CONCURRENCY);
    rates.push(swapped ? [other, one] : [one, other]);
    ratios.push(swapped ? one / other : other / one);
  }
  const [a, b] = [0, 1].map(i => Math.round(middle(rates.map(pair => pair[i]!))));
  console.log(
    `${what.padEnd(32)} ${a}/s : ${b}/s   ratio ${middle(ratios).toFixed(3)}   to reach ${goal}`,
  );
}
