/**
 * Tries to read something from the cache that it must not give any more.
 *
 * A few rows, each with a version that only rises. Many write them: through the application's pool in sessions, over plain
 * connections that know nothing of the cache (as `psql` does), and several in one transaction. Readers in several processes'
 * caches (each with a pool, a memory, and a feed of its own) ask for them all the time. Two things are never to be seen:
 *
 * - `staleOwn`: a value older than the session's own last acknowledged write.
 * - `staleTold`: a value that was replaced by a write up to whose LSN the reading process's feed had come before it asked.
 *
 * At the end, when all is quiet and told, every process gives what is in the database (`wrongAtEnd`).
 */
import { randomUUID } from 'node:crypto';
import { setImmediate as breathe, setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import type { Cache } from '../../src/app/cache/cache.ts';
import { createCache } from '../../src/app/cache/create-cache.ts';
import { InvalidationMemory, type Judgement } from '../../src/app/cache/memory.ts';
import { createPool, type Pool } from '../../src/app/database/pool.ts';
import { parseLsn } from '../../src/app/database/timelines.ts';
import { withRequestContext } from '../../src/app/telemetry/request-context.ts';
import { until } from './until.ts';

export interface CheckerOptions {
  mapFile: string;
  /** The owner's URL to the primary, as it is now. */
  url: () => Promise<string>;
  /** The shard's id. */
  cluster: string;
  /** Caches, as so many web servers have. Default: 3. */
  processes?: number;
  /** Default: 8. */
  rows?: number;
  /** Sessions of each process that write and read. Default: 2. */
  sessions?: number;
  /** Readers of each process. Default: 4. */
  readers?: number;
  /** Connections that know nothing of the cache. Default: 2. */
  outsiders?: number;
  /** **The rule is switched off**: whatever a loader gives is kept. The checker then has to find it out. */
  careless?: boolean;
  /** Between two writes of a writer, in milliseconds. Default: 2. */
  pauseMs?: number;
}

export interface CheckerAccount {
  reads: number;
  writes: number;
  /** What was not kept since the rule said so. */
  refused: number;
  hits: number;
  staleOwn: string[];
  staleTold: string[];
  wrongAtEnd: string[];
  /** Reads and writes that failed, by their message. */
  readFailures: Record<string, number>;
  writeFailures: Record<string, number>;
}

interface Written {
  id: number;
  version: number;
  /** The transaction ends at or before it. */
  lsn: bigint;
}

/** More of them say nothing new. */
const MOST_EXAMPLES = 10;

/** It believes that everything holds. */
class CarelessMemory extends InvalidationMemory {
  override judge(): Judgement {
    return { kind: 'holds' };
  }
}

class CheckedProcess {
  readonly name: string;
  readonly pool: Pool;
  readonly cache: Cache;
  readonly memory: InvalidationMemory;
  /** The least version that its reads have to give from now on, by row. */
  readonly floor = new Map<number, number>();
  /** Writes up to which its feed has not come. */
  pending: Written[] = [];

  constructor(name: string, { mapFile, careless }: CheckerOptions, url: string) {
    this.name = name;
    this.pool = createPool({ connectionString: url, mapFile, max: 6 });
    this.pool.on('error', () => {});
    this.memory = careless ? new CarelessMemory() : new InvalidationMemory();
    this.cache = createCache({ pool: this.pool, mapFile }, { memory: this.memory });
  }

  /** Up to where its feed has come is what it has to know. */
  advance(cluster: string): void {
    const upto = this.memory.uptoOf(cluster);
    if (upto === undefined) return;
    this.pending = this.pending.filter(({ id, version, lsn }) => {
      if (lsn > upto) return true;
      this.floor.set(id, Math.max(this.floor.get(id) ?? 0, version));
      return false;
    });
  }
}

export class CacheChecker {
  readonly #options: CheckerOptions;
  readonly #processes: CheckedProcess[] = [];
  readonly #account: CheckerAccount = {
    reads: 0,
    writes: 0,
    refused: 0,
    hits: 0,
    staleOwn: [],
    staleTold: [],
    wrongAtEnd: [],
    readFailures: {},
    writeFailures: {},
  };
  readonly #running: Promise<void>[] = [];
  #stopped = false;
  #url = '';

  private constructor(options: CheckerOptions) {
    this.#options = options;
  }

  static async start(options: CheckerOptions): Promise<CacheChecker> {
    const checker = new CacheChecker(options);
    await checker.#start();
    return checker;
  }

  get reads(): number {
    return this.#account.reads;
  }

  get writes(): number {
    return this.#account.writes;
  }

  get found(): number {
    return this.#account.staleOwn.length + this.#account.staleTold.length;
  }

  /** Waits for so many more reads, and some more writes: what happens meanwhile is looked at. */
  async more(reads: number, timeoutMs = 120_000): Promise<void> {
    const { reads: before, writes } = this.#account;
    await until(() => this.#account.reads >= before + reads && this.#account.writes > writes + 5, {
      what: `${reads} more reads`,
      timeoutMs,
    });
  }

  /** Ends it: writers first; then all is told, and every process gives what is there. */
  async finish(): Promise<CheckerAccount> {
    this.#stopped = true;
    await Promise.all(this.#running);
    try {
      await this.#checkAtEnd();
    } finally {
      for (const { cache, pool } of this.#processes) {
        const { refusedFills, localHits, sharedHits } = cache.counts;
        this.#account.refused += refusedFills;
        this.#account.hits += localHits + sharedHits;
        await cache.close();
        await pool.end();
      }
    }
    return this.#account;
  }

  async #start(): Promise<void> {
    const { processes = 3, rows = 8, sessions = 2, readers = 4, outsiders = 2 } = this.#options;
    this.#url = await this.#options.url();
    await this.#once(async client => {
      await client.query(
        'create table if not exists hot (id int primary key, version bigint not null)',
      );
      await client.query(
        `insert into hot select id, 1 from generate_series(1, ${rows}) id on conflict do nothing`,
      );
    });
    for (let number = 1; number <= processes; number++) {
      this.#processes.push(new CheckedProcess(`process-${number}`, this.#options, this.#url));
    }
    for (const { cache, memory } of this.#processes) {
      await until(() => 'public.hot' in (memory.coveragesOf(this.#options.cluster) ?? {}), {
        what: 'the table is covered',
        timeoutMs: 60_000,
      });
      await cache.ready();
    }
    for (const each of this.#processes) {
      for (let n = 0; n < sessions; n++) this.#running.push(this.#session(each));
      for (let n = 0; n < readers; n++) this.#running.push(this.#reader(each));
    }
    for (let n = 0; n < outsiders; n++) this.#running.push(this.#outsider(n));
  }

  get #rows(): number {
    return this.#options.rows ?? 8;
  }

  #anyRow(): number {
    return 1 + Math.floor(Math.random() * this.#rows);
  }

  /** One request after another, each of which writes and reads what it wrote. */
  async #session(process: CheckedProcess): Promise<void> {
    while (!this.#stopped) {
      await withRequestContext({ requestId: randomUUID() }, async () => {
        const own = new Map<number, number>();
        const ids = Math.random() < 0.3 ? [this.#anyRow(), this.#anyRow()] : [this.#anyRow()];
        try {
          const written = await write(process.pool, [...new Set(ids)]);
          for (const { id, version } of written) own.set(id, version);
          this.#note(written, await lsnOf(process.pool));
        } catch (error) {
          count(this.#account.writeFailures, error);
        }
        for (let n = 0; n < 6; n++) await this.#read(process, this.#anyRow(), own);
        for (const id of own.keys()) await this.#read(process, id, own);
      });
      await delay(this.#options.pauseMs ?? 2);
    }
  }

  /** Requests that have written nothing: they may be shown any state, but none that was replaced and told. */
  async #reader(process: CheckedProcess): Promise<void> {
    for (let n = 0; !this.#stopped; n++) {
      await withRequestContext({ requestId: 'a reader' }, () =>
        this.#read(process, this.#anyRow(), undefined),
      );
      // A hit comes at once: others want to run too.
      if (n % 8 === 0) await breathe();
    }
  }

  async #read(
    process: CheckedProcess,
    id: number,
    own: ReadonlyMap<number, number> | undefined,
  ): Promise<void> {
    process.advance(this.#options.cluster);
    const least = process.floor.get(id) ?? 0;
    let version: number;
    try {
      version = await process.cache.get(['hot', id], () => load(process.pool, id));
    } catch (error) {
      count(this.#account.readFailures, error);
      return;
    }
    this.#account.reads++;
    const written = own?.get(id) ?? 0;
    const where = `${process.name}, row ${id}: ${version}`;
    if (version < written) this.#found('staleOwn', `${where}, and the session wrote ${written}`);
    if (version < least) this.#found('staleTold', `${where}, and ${least} had been told`);
  }

  #found(kind: 'staleOwn' | 'staleTold' | 'wrongAtEnd', text: string): void {
    if (this.#account[kind].length < MOST_EXAMPLES) this.#account[kind].push(text);
  }

  /** As `psql` would: half of the time several rows in one transaction. */
  async #outsider(number: number): Promise<void> {
    while (!this.#stopped) {
      try {
        await this.#once(async client => {
          for (let n = 0; n < 200 && !this.#stopped; n++) {
            const several = (n + number) % 2 === 0;
            const ids = several
              ? [...new Set([this.#anyRow(), this.#anyRow(), this.#anyRow()])].sort((a, b) => a - b)
              : [this.#anyRow()];
            if (several) await client.query('begin');
            const written: Omit<Written, 'lsn'>[] = [];
            // One statement each, so that the transaction is open for a while.
            for (const id of ids) written.push(...(await write(client, [id])));
            if (several) await client.query('commit');
            this.#note(written, await lsnOf(client));
            await delay(this.#options.pauseMs ?? 2);
          }
        });
      } catch (error) {
        count(this.#account.writeFailures, error);
        await delay(100);
        this.#url = await this.#options.url().catch(() => this.#url);
      }
    }
  }

  #note(written: readonly Omit<Written, 'lsn'>[], lsn: bigint): void {
    this.#account.writes += written.length;
    for (const process of this.#processes) {
      for (const each of written) process.pending.push({ ...each, lsn });
    }
  }

  async #checkAtEnd(): Promise<void> {
    this.#url = await this.#options.url();
    const { rows, lsn } = await until(
      () =>
        this.#once(async client => ({
          rows: (await client.query<{ id: number; version: string }>('select id, version from hot'))
            .rows,
          lsn: await lsnOf(client),
        })),
      { what: 'the database answers', timeoutMs: 60_000 },
    );
    for (const process of this.#processes) {
      await until(() => (process.memory.uptoOf(this.#options.cluster) ?? 0n) >= lsn, {
        what: `${process.name} has heard of everything`,
        timeoutMs: 60_000,
      });
      for (const { id, version } of rows) {
        const given = await withRequestContext({ requestId: 'the end' }, () =>
          process.cache.get(['hot', id], () => load(process.pool, id)),
        );
        if (given < Number(version)) {
          this.#found('wrongAtEnd', `${process.name}, row ${id}: ${given}, and it is ${version}`);
        }
      }
    }
  }

  async #once<T>(body: (client: pg.Client) => Promise<T>): Promise<T> {
    const client = new pg.Client({
      connectionString: this.#url,
      connectionTimeoutMillis: 5_000,
      query_timeout: 20_000,
    });
    client.on('error', () => {});
    await client.connect();
    try {
      return await body(client);
    } finally {
      await client.end().catch(() => {});
    }
  }
}

/** As a page's loader does, it asks for more than one thing, so that there is time between the read and the fill. */
async function load(pool: Pool, id: number): Promise<number> {
  const { rows } = await pool.query<{ version: string }>('select version from hot where id = $1', [
    id,
  ]);
  await pool.query('select id from hot where id = $1', [id]);
  return Number(rows[0]!.version);
}

async function write(
  client: Pick<pg.ClientBase, 'query'> | Pool,
  ids: readonly number[],
): Promise<Omit<Written, 'lsn'>[]> {
  const { rows } = await client.query<{ id: number; version: string }>(
    `update hot set version = version + 1
     where id in (select id from hot where id = any ($1) order by id for update)
     returning id, version`,
    [ids],
  );
  return rows.map(({ id, version }) => ({ id, version: Number(version) }));
}

/** Of the primary: `pg_current_wal_insert_lsn` is refused by the others. */
async function lsnOf(client: Pick<pg.ClientBase, 'query'> | Pool): Promise<bigint> {
  const { rows } = await client.query<{ lsn: string }>(
    '/* of the primary */ select pg_current_wal_insert_lsn()::text as lsn',
  );
  return parseLsn(rows[0]!.lsn);
}

function count(into: Record<string, number>, error: unknown): void {
  const text = (error as Error).message;
  into[text] = (into[text] ?? 0) + 1;
}
