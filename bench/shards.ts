/**
 * What sharding brings, and what statements over several shards cost; those of one shard: `sharded-pool.ts`.
 *
 *     node --conditions=banyan-source bench/shards.ts [--rounds 10] [--seconds 3] [--slice 0.1] [--only spread]
 *
 * - spread: writes with 1, 2 and 4 shards, each a server that is held to the same slice of the processor (takes root).
 * - scatter: the ten newest rows of all, from 4 and 16 shards and from one server that holds them all.
 * - plan: 10,000 different statements: time and memory to plan them.
 */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { parseArgs } from 'node:util';
import pg from 'pg';
import { createPool, type Pool } from '../src/app/database/pool.ts';
import { openParser } from '../src/app/database/route/parser.ts';
import { evenRanges } from '../src/app/database/shards/ranges.ts';
import { log } from '../src/app/telemetry/log.ts';
import { publishRuntimeMap } from '../src/map/map-file.ts';
import { Cluster, type ClusterMember } from '../test/support/cluster.ts';
import { CpuQuota } from '../test/support/cpu-quota.ts';
import { temporaryFolder } from '../test/support/deployment.ts';
import { middle, perSecond } from './support/measure.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '10' },
    seconds: { type: 'string', default: '3' },
    slice: { type: 'string', default: '0.1' },
    only: { type: 'string' },
  },
});
const ROUNDS = Number(values.rounds);
const SECONDS = Number(values.seconds);
const AUTHORS = 1_000;
const ROWS = 20_000;
const CONNECTIONS = 10;
const PASSWORD = 'bench';
/** Callers at a time for each shard: enough that none of them ever waits for work, or its slice would not be used up. */
const CALLERS = 150;

/** Cleaning up the rows of one round must not cost another its slice. */
const SCHEMA = `
  create table items (author bigint not null, id bigint not null, body text, at timestamptz not null default now(),
    primary key (author, id)) with (autovacuum_enabled = off);
  create index on items (at); create index on items (body); create index on items (id)`;
const TABLES = { 'public.items': { kind: 'sharded', key: 'author' } } as const;

log.level = 'silent';
const folder = temporaryFolder();
const clusters: Cluster[] = [];
const pools: pg.Pool[] = [];
const slices: CpuQuota[] = [];
let databases = 0;

const parts: Record<string, () => Promise<void>> = { spread, scatter, plan };
try {
  for (const [name, part] of Object.entries(parts)) {
    if (!values.only || values.only === name) await part();
    await Promise.all(pools.splice(0).map(pool => pool.end()));
  }
} finally {
  await Promise.all(pools.map(pool => pool.end()));
  for (const slice of slices) slice.release();
  await Promise.all(clusters.map(cluster => cluster.remove()));
  await rm(folder, { recursive: true, force: true });
}

async function spread(): Promise<void> {
  const counts = [1, 2, 4];
  const servers = await Promise.all(Array.from({ length: 4 }, (_, i) => serverOf(i)));
  const byCount = new Map<number, { work: () => Promise<unknown>; rates: number[] }>();
  let id = 0;
  for (const count of counts) {
    const name = newName();
    const urls = await Promise.all(servers.slice(0, count).map(each => makeDatabase(each, name)));
    const pool = await sharded(urls);
    const work = () =>
      pool.query('insert into items (author, id, body) values ($1, $2, $3)', [
        Math.floor(Math.random() * AUTHORS),
        id++,
        `the body of item ${id}`,
      ]);
    byCount.set(count, { work, rates: [] });
    // Connections are dear in a slice, and are made here.
    await perSecond(work, SECONDS, CALLERS * count);
  }
  for (const cluster of clusters.slice(0, 4)) {
    const slice = CpuQuota.of(Number(values.slice));
    slices.push(slice);
    for (const pid of await cluster.primary.processes()) slice.add(pid);
  }
  for (let round = 0; round < ROUNDS; round++) {
    for (const count of round % 2 ? counts.toReversed() : counts) {
      const { work, rates } = byCount.get(count)!;
      rates.push(await perSecond(work, SECONDS * 2, CALLERS * count));
    }
  }
  for (const slice of slices.splice(0)) slice.release();
  const one = middle(byCount.get(1)!.rates);
  for (const [count, { rates }] of byCount) {
    const goal = count === 4 ? '; to reach: 3.8' : '';
    console.log(
      `writes, ${count} shard${count === 1 ? '' : 's'}: ${Math.round(middle(rates))}/s, ${(middle(rates) / one).toFixed(2)} times one${goal}`,
    );
  }
}

async function scatter(): Promise<void> {
  const server = await serverOf(0);
  const url = await makeDatabase(server, newName());
  const bare = adopt(new pg.Pool({ connectionString: url, max: CONNECTIONS }));
  await fill(bare, ROWS);
  const text = 'select author, id, at from items order by at desc, id limit 10';
  const times = new Map<string, number[]>([['one server', []]]);
  const contestants: [string, pg.Pool][] = [['one server', bare]];
  for (const count of [4, 16]) {
    const shards = newName();
    const urls = [];
    for (let i = 0; i < count; i++) urls.push(await makeDatabase(await serverOf(i), shards));
    const pool = await sharded(urls, 2);
    await fill(pool, ROWS);
    contestants.push([`${count} shards`, pool]);
    times.set(`${count} shards`, []);
  }
  for (let round = 0; round < ROUNDS * 20; round++) {
    for (const [name, pool] of contestants) {
      const begun = performance.now();
      const { rows } = await pool.query(text);
      if (rows.length !== 10) throw new Error(`${name} gave ${rows.length} rows`);
      times.get(name)!.push(performance.now() - begun);
    }
  }
  for (const [name, list] of times) {
    console.log(`the ten newest of ${ROWS} rows, ${name}: ${middle(list).toFixed(2)} ms`);
  }
}

async function plan(): Promise<void> {
  const STATEMENTS = 10_000;
  const server = await serverOf(0);
  const url = await makeDatabase(server, newName());
  const pool = await sharded([url, url]);
  await openParser();
  await pool.query('select from items where author = 1');
  globalThis.gc?.();
  const before = process.memoryUsage().rss;
  const begun = process.cpuUsage();
  for (let i = 0; i < STATEMENTS; i++) {
    await pool.query(
      `select body as body_${i} from items where author = $1 and id > ${i} order by id limit 5`,
      [i],
    );
  }
  const { user, system } = process.cpuUsage(begun);
  globalThis.gc?.();
  const mb = (process.memoryUsage().rss - before) / 1024 / 1024;
  console.log(
    `${STATEMENTS} different statements: ${((user + system) / STATEMENTS).toFixed(0)} µs each of this process, ${mb.toFixed(0)} MB more`,
  );
}

async function serverOf(index: number): Promise<ClusterMember> {
  while (clusters.length <= index) {
    const cluster = await Cluster.start({ standbys: 0 });
    // A map has one password for all.
    await cluster.primary.ask(`create role bench superuser login password '${PASSWORD}'`);
    clusters.push(cluster);
  }
  return clusters[index]!.primary;
}

function newName(): string {
  return `bench_${databases++}`;
}

async function makeDatabase(server: ClusterMember, name: string): Promise<string> {
  await server.ask(`create database ${name}`);
  await server.ask(SCHEMA, name);
  const url = new URL(server.url(name));
  Object.assign(url, { username: 'bench', password: PASSWORD });
  return url.href;
}

/** A pool over databases of one name as shards. */
async function sharded(urls: string[], connections = CONNECTIONS): Promise<Pool> {
  const mapFile = path.join(folder, `map-${databases}.json`);
  const ranges = evenRanges(urls.length);
  await publishRuntimeMap(mapFile, {
    deployment: 'bench',
    dataCentre: 'local',
    database: {
      name: new URL(urls[0]!).pathname.slice(1),
      shards: urls.map((url, i) => {
        const { hostname, port } = new URL(url);
        return {
          id: String(i),
          range: ranges[i]!,
          members: [{ host: hostname, port: Number(port), dataCentre: 'local' }],
        };
      }),
      tables: TABLES,
    },
    assets: { baseUrl: '' },
  });
  const connectionString = urls[0]!;
  // While others have their turn none is to be closed: to make one takes a slice for a second.
  return adopt(
    createPool({ connectionString, mapFile, max: connections, idleTimeoutMillis: 600_000 }),
  );
}

function adopt<P extends pg.Pool>(pool: P): P {
  pool.on('error', () => {});
  pools.push(pool);
  return pool;
}

async function fill(pool: pg.Pool, rows: number): Promise<void> {
  const BATCH = 500;
  for (let from = 0; from < rows; from += BATCH) {
    const batch = Array.from({ length: Math.min(BATCH, rows - from) }, (_, i) => from + i);
    const tuples = batch.map(
      id => `(${id % AUTHORS}, ${id}, 'item ${id}', now() - interval '${id} s')`,
    );
    await pool.query(`insert into items (author, id, body, at) values ${tuples.join(', ')}`);
  }
}
