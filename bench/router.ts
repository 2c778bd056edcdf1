/**
 * What the router costs: point reads by primary key from a replica, through `createPool` over a primary and that
 * replica, against the bare `pg.Pool` straight to it; from the same process, in turn.
 *
 *     node --conditions=banyan-source bench/router.ts [--rounds 6] [--seconds 3]
 */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { parseArgs } from 'node:util';
import pg from 'pg';
import { createPool } from '../src/app/database/pool.ts';
import { publishRuntimeMap } from '../src/map/map-file.ts';
import { temporaryFolder } from '../test/support/deployment.ts';
import { StandbyPair } from '../test/support/standby.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '6' },
    seconds: { type: 'string', default: '3' },
  },
});
const ROWS = 10_000;
const CONCURRENCY = 20;
const CONNECTIONS = 10;

const folder = temporaryFolder();
const pair = await StandbyPair.start();
const { primary, standby } = pair;
const pools: pg.Pool[] = [];
try {
  await primary.query('create table items (id int primary key, name text)');
  await primary.query(
    `insert into items select i, 'item ' || i from generate_series(1, ${ROWS}) i`,
  );
  await primary.query('vacuum analyze items');
  await pair.caughtUp();

  const { host = '127.0.0.1', user, password } = primary.options;
  const members = [primary, standby].map(pool => ({
    host,
    port: pool.options.port!,
    dataCentre: 'local',
  }));
  const mapFile = path.join(folder, 'map.json');
  await publishRuntimeMap(mapFile, {
    deployment: 'bench',
    dataCentre: 'local',
    database: { name: 'postgres', shards: [{ id: '0', members }] },
    assets: { baseUrl: '' },
  });
  const url = (port: number) => `postgres://${user}:${password}@${host}:${port}/postgres`;
  const bare = new pg.Pool({ connectionString: url(members[1]!.port), max: CONNECTIONS });
  const ours = createPool({ connectionString: url(members[0]!.port), mapFile, max: CONNECTIONS });
  pools.push(bare, ours);

  const contestants: [string, pg.Pool][] = [
    ['pg.Pool', bare],
    ['createPool', ours],
  ];
  for (const [, pool] of contestants) await readsPerSecond(pool, 1);
  const { rows } = await ours.query('select id from items where id = 1');
  if (rows.length !== 1) throw new Error('no row');
  const rates: Record<string, number[]> = { 'pg.Pool': [], createPool: [] };
  for (let round = 0; round < Number(values.rounds); round++) {
    for (const [name, pool] of round % 2 ? contestants.toReversed() : contestants) {
      rates[name]!.push(await readsPerSecond(pool, Number(values.seconds)));
    }
  }
  const middle = (list: number[]) => list.toSorted((a, b) => a - b)[Math.floor(list.length / 2)]!;
  for (const [name, list] of Object.entries(rates)) {
    const [least, most] = [Math.min(...list), Math.max(...list)].map(Math.round);
    console.log(`${name.padEnd(11)} ${Math.round(middle(list))} reads/s (${least} to ${most})`);
  }
  const { rows: seen } = await primary.query<{ reads: string }>(
    `select idx_scan::text as reads from pg_stat_user_tables where relname = 'items'`,
  );
  console.log(
    `index scans of the primary: ${seen[0]?.reads} (reads that the replica did not answer)`,
  );
  const ratio = middle(rates.createPool!) / middle(rates['pg.Pool']!);
  console.log(`ratio       ${ratio.toFixed(3)}; to reach: 0.97`);
} finally {
  await Promise.all(pools.map(pool => pool.end()));
  await pair.remove();
  await rm(folder, { recursive: true, force: true });
}

async function readsPerSecond(pool: pg.Pool, seconds: number): Promise<number> {
  const begun = performance.now();
  const until = begun + seconds * 1_000;
  let count = 0;
  await Promise.all(
    Array.from({ length: CONCURRENCY }, async () => {
      while (performance.now() < until) {
        const id = 1 + Math.floor(Math.random() * ROWS);
        const { rows } = await pool.query('select id, name from items where id = $1', [id]);
        if (rows[0]?.id !== id) throw new Error('a wrong row');
        count++;
      }
    }),
  );
  return count / ((performance.now() - begun) / 1_000);
}
