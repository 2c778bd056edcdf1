/**
 * What Banyan's pool costs over the bare `pg.Pool`: point reads by primary key on the same server, from the
 * same process, in turn.
 *
 *     node --conditions=banyan-source bench/pool.ts [--rounds 6] [--seconds 3]
 *
 * Rounds alternate, and so does who begins, so that a machine that gets warmer or busier meets both.
 */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { parseArgs } from 'node:util';
import type pg from 'pg';
import { createPool } from '../src/app/database/pool.ts';
import { publishRuntimeMap } from '../src/map/map-file.ts';
import { temporaryFolder } from '../test/support/deployment.ts';
import { TestPostgres } from '../test/support/postgres.ts';
import { middle, perSecond } from './support/measure.ts';

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
const server = await TestPostgres.start();
try {
  const url = await server.database();
  const bare = await server.pool({ connectionString: url, max: CONNECTIONS });
  await bare.query('create table items (id int primary key, name text)');
  await bare.query(`insert into items select i, 'item ' || i from generate_series(1, ${ROWS}) i`);
  await bare.query('vacuum analyze items');

  const mapFile = path.join(folder, 'map.json');
  const { host, port } = server;
  await publishRuntimeMap(mapFile, {
    deployment: 'bench',
    dataCentre: 'local',
    database: {
      name: new URL(url).pathname.slice(1),
      shards: [{ id: '0', members: [{ host, port, dataCentre: 'local' }] }],
    },
    assets: { baseUrl: '' },
  });
  const ours = server.adopt(createPool({ connectionString: url, mapFile, max: CONNECTIONS }));

  const pools: [string, pg.Pool][] = [
    ['pg.Pool', bare],
    ['createPool', ours],
  ];
  for (const [, pool] of pools) await perSecond(() => readOne(pool), 1, CONCURRENCY);
  const rates: Record<string, number[]> = { 'pg.Pool': [], createPool: [] };
  for (let round = 0; round < Number(values.rounds); round++) {
    for (const [name, pool] of round % 2 ? pools.toReversed() : pools) {
      rates[name]!.push(await perSecond(() => readOne(pool), Number(values.seconds), CONCURRENCY));
    }
  }
  for (const [name, list] of Object.entries(rates)) {
    const [least, most] = [Math.min(...list), Math.max(...list)].map(Math.round);
    console.log(`${name.padEnd(11)} ${Math.round(middle(list))} reads/s (${least} to ${most})`);
  }
  const ratio = middle(rates.createPool!) / middle(rates['pg.Pool']!);
  console.log(`ratio       ${ratio.toFixed(3)}; to reach: 0.97`);
} finally {
  // Pools follow the map: they end before it goes.
  await server.remove();
  await rm(folder, { recursive: true, force: true });
}

/** A point read that is right. */
async function readOne(pool: pg.Pool): Promise<void> {
  const id = 1 + Math.floor(Math.random() * ROWS);
  const { rows } = await pool.query('select id, name from items where id = $1', [id]);
  if (rows[0]?.id !== id) throw new Error('a wrong row');
}
