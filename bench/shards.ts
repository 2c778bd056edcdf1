/**
 * What sharding costs and what it brings.
 *
 *     node --conditions=banyan-source bench/shards.ts [--rounds 10] [--seconds 1] [--slice 0.1] [--only route]
 *
 * - route: point reads and writes by the shard key, through the sharded pool (4 shards) and through the bare `pg.Pool`, on
 *   the same server, in turn; with what one costs this process.
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

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '10' },
    seconds: { type: 'string', default: '1' },
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
const CONCURRENCY = 20;

const SCHEMA = `
  create table items (author bigint not null, id bigint not null, body text, at timestamptz not null default now(),
    primary key (author, id));
  create index on items (at); create index on items (body); create index on items (id)`;
const TABLES = { 'public.items': { kind: 'sharded', key: 'author' } } as const;

log.level = 'silent';
const folder = temporaryFolder();
const clusters: Cluster[] = [];
const pools: pg.Pool[] = [];
const slices: CpuQuota[] = [];
let databases = 0;

const parts: Record<string, () => Promise<void>> = { route, spread, scatter, plan };
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

async function route(): Promise<void> {
  const server = await serverOf(0);
  const name = newName();
  const url = await makeDatabase(server, name);
  const bare = adopt(new pg.Pool({ connectionString: url, max: CONNECTIONS }));
  await fill(bare, ROWS);
  // All four are the one database: what is measured is the way there.
  const ours = await sharded(Array.from({ length: 4 }, () => url));
  const read = (pool: pg.Pool) => {
    const id = Math.floor(Math.random() * ROWS);
    return pool.query('select body from items where author = $1 and id = $2', [id % AUTHORS, id]);
  };
  const write = (pool: pg.Pool) => {
    const id = Math.floor(Math.random() * ROWS);
    const text = 'update items set at = now() where author = $1 and id = $2';
    return pool.query(text, [id % AUTHORS, id]);
  };
  for (const [name, work] of Object.entries({ 'point reads': read, 'point writes': write })) {
    const rates: Record<string, [pg.Pool, number[], number[]]> = {
      bare: [bare, [], []],
      sharded: [ours, [], []],
    };
    for (const [pool] of Object.values(rates)) await perSecond(() => work(pool), SECONDS);
    for (let round = 0; round < ROUNDS; round++) {
      const order = Object.values(rates);
      for (const [pool, rate, cost] of round % 2 ? order.toReversed() : order) {
        const before = process.cpuUsage();
        rate.push(await perSecond(() => work(pool), SECONDS));
        const { user, system } = process.cpuUsage(before);
        cost.push((user + system) / (rate.at(-1)! * SECONDS));
      }
    }
    const ratio = middle(rates.sharded![1].map((rate, i) => rate / rates.bare![1][i]!));
    const cost = (who: string) => `${middle(rates[who]![2]).toFixed(1)} µs`;
    console.log(
      `${name}: ${ratio.toFixed(3)} of the bare pool (${Math.round(middle(rates.bare![1]))}/s, ${cost('bare')}; ours ${cost('sharded')}); to reach: 0.95`,
    );
  }
}

async function spread(): Promise<void> {
  const counts = [1, 2, 4];
  const servers = await Promise.all(Array.from({ length: 4 }, (_, i) => serverOf(i)));
  const byCount = new Map<number, { pool: Pool; rates: number[] }>();
  for (const count of counts) {
    const name = newName();
    const urls = await Promise.all(servers.slice(0, count).map(each => makeDatabase(each, name)));
    byCount.set(count, { pool: await sharded(urls), rates: [] });
  }
  for (const cluster of clusters.slice(0, 4)) {
    const slice = CpuQuota.of(Number(values.slice));
    slices.push(slice);
    for (const pid of await cluster.primary.processes()) slice.add(pid);
  }
  let id = 0;
  for (let round = 0; round < ROUNDS; round++) {
    for (const count of round % 2 ? counts.toReversed() : counts) {
      const { pool, rates } = byCount.get(count)!;
      const work = () =>
        pool.query('insert into items (author, id, body) values ($1, $2, $3)', [
          Math.floor(Math.random() * AUTHORS),
          id++,
          `the body of item ${id}`,
        ]);
      rates.push(await perSecond(work, SECONDS * 2, CONCURRENCY * 2));
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
  return adopt(createPool({ connectionString: urls[0]!, mapFile, max: connections }));
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

async function perSecond(
  work: () => Promise<unknown>,
  seconds: number,
  concurrency = CONCURRENCY,
): Promise<number> {
  const begun = performance.now();
  const end = begun + seconds * 1_000;
  let count = 0;
  await Promise.all(
    Array.from({ length: concurrency }, async () => {
      while (performance.now() < end) {
        await work();
        count++;
      }
    }),
  );
  return count / ((performance.now() - begun) / 1_000);
}

function middle(list: number[]): number {
  return list.toSorted((a, b) => a - b)[Math.floor(list.length / 2)]!;
}
