/**
 * The application's pool: `pg.Pool`'s interface over the database that the runtime map names.
 *
 * Holds true here:
 * - It *is* a `pg.Pool`, so Drizzle (which asks `instanceof`), Kysely and plain `pg` code work on it.
 * - Host and port come from the map, credentials and options from `DATABASE_URL`. When the map
 *   moves the database, idle connections to the old place are closed and new ones go to the new;
 *   connections in use finish what they do and are closed on release.
 * - With one server it is that and no more. With several (a primary and replicas) the pool itself is the one of
 *   the primary, and a `Router` decides where each statement runs; the map may go from one to several and back.
 * - A connection that breaks is logged, never thrown, also while the application holds it between two
 *   queries: a restart of PostgreSQL must not take the application with it.
 */
import pg from 'pg';
import { watchRuntimeMap } from '../../map/map-file.ts';
import type { Member, RuntimeMap } from '../../map/runtime-map.ts';
import { log } from '../telemetry/log.ts';
import { stalenessOf } from './consistency/staleness.ts';
import { Holding, type HoldLimits, isAway } from './holding.ts';
import {
  breakConnections,
  internalsOf,
  leaveConnections,
  resize,
  serveWaiting,
} from './pool-internals.ts';
import { RoutedClient } from './routed-client.ts';
import { type PrimaryPool, Router } from './router.ts';
import type { QueryConfig } from './statement.ts';
import { isSubmittable } from './submittable.ts';
import { type TransactionOptions, transaction } from './transaction.ts';

/** `pg.Pool`, following the runtime map. Made by {@link createPool}. */
export interface Pool extends pg.Pool {
  /** See {@link transaction}: `fn` may run several times. */
  transaction<T>(
    fn: (client: pg.PoolClient) => Promise<T>,
    options?: TransactionOptions,
  ): Promise<T>;
  /** Whether statements to the primary wait at the moment, since it is away or the map says to hold. */
  readonly isHolding: boolean;
}

/** More would fill the memory of a server that may be one of many. */
const HELD_REQUESTS = 1_000;
const PROBE_TIMEOUT_MS = 2_000;

const pulseQueue = internalsOf(pg.Pool.prototype)._pulseQueue;

/** pg-pool's own default. */
const DEFAULT_MAX = 10;

type ConnectCallback = (
  error: Error | undefined,
  client: pg.PoolClient | undefined,
  done: (release?: Error | boolean) => void,
) => void;

/** How long a request may be held, in milliseconds: with one server, and with replicas. */
export interface HoldTimes {
  single: number;
  replicated: number;
}

export interface ReadLimits {
  maxReplicaLagMs: number;
  staleness: number | undefined;
}

export class BanyanPool extends pg.Pool implements Pool, PrimaryPool {
  readonly #holdTimes: HoldTimes;
  readonly #limits: HoldLimits;
  readonly #holding: Holding;
  readonly #reads: ReadLimits;
  /** Undefined while there is one server. */
  #router: Router | undefined;
  /** Credentials and options, to be completed with a member's place. */
  #url = '';
  #primary: Member | undefined;
  #stopWatching: (() => void) | undefined;

  constructor(hold: HoldTimes, reads: ReadLimits, config: pg.PoolConfig) {
    super(config);
    this.#reads = reads;
    this.#holdTimes = hold;
    this.#limits = { timeoutMs: hold.single, most: HELD_REQUESTS };
    this.#holding = new Holding(this.#limits, () => this.#probe());
    listenForBreaks(this);
    // pg-pool's are accessors too, which its types do not say.
    Object.defineProperties(this, {
      totalCount: { get: () => this.#sum(pool => internalsOf(pool)._clients.length) },
      idleCount: { get: () => this.#sum(pool => internalsOf(pool)._idle.length) },
      waitingCount: { get: () => this.#sum(pool => internalsOf(pool)._pendingQueue.length) },
    });
  }

  get isHolding(): boolean {
    return this.#holding.isHolding;
  }

  /** @param wanted connections that the application asked for; undefined when it left that open */
  follow(mapFile: string, url: string, map: RuntimeMap, wanted: number | undefined): void {
    this.#url = url;
    this.#primary = firstOf(map);
    this.#obey(map);
    this.#stopWatching = watchRuntimeMap(
      mapFile,
      map,
      next => {
        const max = shareOf(next, wanted);
        for (const pool of [this, ...(this.#router?.replicaPools() ?? [])]) resize(pool, max);
        this.#obey(next);
      },
      error => log.warn({ err: error }, 'the runtime map cannot be read; the last one stays'),
    );
  }

  #obey(map: RuntimeMap): void {
    const { members } = map.database.shards[0]!;
    const { single, replicated } = this.#holdTimes;
    this.#limits.timeoutMs = members.length > 1 ? replicated : single;
    if (members.length > 1) this.#routeTo(members, map.dataCentre);
    else {
      this.#router?.close();
      this.#router = undefined;
      this.usePrimary(members[0]!, false);
    }
    // Last, so that what was held goes where the new map says.
    this.#plan(map);
  }

  #routeTo(members: readonly Member[], dataCentre: string): void {
    const isNew = !this.#router;
    this.#router ??= new Router(this, { ...this.#reads, dataCentre });
    this.#router.follow(members, dataCentre);
    // The only server that there was has all the rows, and the new ones come from it.
    if (isNew && this.#primary && this.totalCount > 0) this.#router.monitor.assume(this.#primary);
  }

  /** `pool.query` comes by here as well; while all is well this costs one call more than pg-pool's own. */
  override connect(): Promise<pg.PoolClient>;
  override connect(callback: ConnectCallback): void;
  override connect(callback?: ConnectCallback): Promise<pg.PoolClient> | undefined {
    if (this.#router && !this.ending) return this.#connectRouted(this.#router, callback);
    if (!callback) return this.#holding.connect(() => super.connect());
    this.#connectHeld(callback, performance.now());
    return undefined;
  }

  #connectRouted(
    router: Router,
    callback: ConnectCallback | undefined,
  ): Promise<pg.PoolClient> | undefined {
    const client = new RoutedClient(router, this.options) as unknown as pg.PoolClient;
    if (!callback) return Promise.resolve(client);
    process.nextTick(callback, undefined, client, client.release);
    return undefined;
  }

  #connectHeld(callback: ConnectCallback, came: number): void {
    const deliver = () => {
      this.#holding
        .connect(() => super.connect(), came)
        .then(
          client => callback(undefined, client, client.release),
          error => callback(error, undefined, () => {}),
        );
    };
    if (this.#holding.isHolding) deliver();
    else {
      super.connect((error, client, done) => {
        if (error && isAway(error)) deliver();
        else callback(error, client, done);
      });
    }
  }

  connectPrimary(
    callback: (error: Error | undefined, client: pg.PoolClient | undefined) => void,
    came: number,
  ): void {
    this.#connectHeld((error, client) => {
      if (error && isAway(error)) this.#router?.monitor.suspect();
      callback(error, client);
    }, came);
  }

  // biome-ignore lint/suspicious/noExplicitAny: pg's own overloads, which this stands in for
  override query(config: any, values?: any, callback?: any): any {
    const router = this.#router;
    if (!router || this.ending || typeof config === 'function' || isSubmittable(config)) {
      return super.query(config, values, callback);
    }
    const listener = typeof values === 'function' ? values : callback;
    const parameters = typeof values === 'function' ? undefined : values;
    if (typeof listener === 'function') {
      this.#run(router, config, parameters, listener);
      return undefined;
    }
    return new Promise((resolve, reject) => {
      this.#run(router, config, parameters, (error, result) =>
        error ? reject(error) : resolve(result),
      );
    });
  }

  #run(
    router: Router,
    config: QueryConfig,
    values: unknown[] | undefined,
    done: (error: Error | undefined, result?: unknown) => void,
  ): void {
    let staleness: number | undefined;
    try {
      staleness = stalenessOf(config, router.staleness);
    } catch (error) {
      process.nextTick(done, error as Error);
      return;
    }
    router.run(router.statement(config, values, done, staleness));
  }

  transaction<T>(
    fn: (client: pg.PoolClient) => Promise<T>,
    options?: TransactionOptions,
  ): Promise<T> {
    return transaction(this, fn, options);
  }

  noticeAway(): void {
    this.#holding.noticeAway();
  }

  usePrimary(address: Member, isDeposed: boolean): void {
    const current = this.#primary;
    this.#primary = address;
    if (current?.host === address.host && current.port === address.port) return;
    this.options.connectionString = at(this.#url, address);
    if (isDeposed) breakConnections(this);
    else leaveConnections(this);
  }

  poolTo(address: Member): pg.Pool {
    const pool = new pg.Pool({ ...this.options, connectionString: at(this.#url, address) });
    listenForBreaks(pool);
    for (const event of ['connect', 'acquire', 'remove', 'release'] as const) {
      pool.on(event as 'connect', (...args) => this.emit(event as 'connect', ...args));
    }
    return pool;
  }

  configFor(address: Member): pg.ClientConfig {
    return { ...this.options, connectionString: at(this.#url, address) };
  }

  /** Whether a session can be had, over a connection beside the pool's: those may all be in use. */
  async #probe(): Promise<void> {
    await this.#router?.monitor.served();
    const client = new pg.Client({ ...this.options, connectionTimeoutMillis: PROBE_TIMEOUT_MS });
    client.on('error', () => {});
    try {
      await client.connect();
    } finally {
      await client.end().catch(() => {});
    }
  }

  /** While the map says to hold, nobody gets a connection: also who waits for one that is in use. */
  #plan({ database: { shards } }: RuntimeMap): void {
    const begins = this.#holding.plan(shards[0]?.hold, () => {
      this.#router?.monitor.resume();
      serveWaiting(this);
    });
    if (!begins) return;
    this.#router?.monitor.pause();
    leaveConnections(this);
  }

  /** pg-pool's own: gives one of those who wait a connection. Its types do not know it. */
  _pulseQueue(): void {
    if (this.#holding?.isPlanned && !this.ending) return;
    pulseQueue.call(this);
  }

  #sum(count: (pool: pg.Pool) => number): number {
    return [this, ...(this.#router?.replicaPools() ?? [])].reduce(
      (total, pool) => total + count(pool),
      0,
    );
  }

  override end(): Promise<void>;
  override end(callback: () => void): void;
  override end(callback?: () => void): Promise<void> | void {
    this.#stopWatching?.();
    this.#holding.stop();
    this.#router?.close();
    return callback ? super.end(callback) : super.end();
  }
}

/**
 * pg-pool listens for errors while a client is idle. One that breaks in the application's hands, between two
 * queries of a transaction, would otherwise end the process: the next query on it rejects, which is all that
 * the application needs.
 */
function listenForBreaks(pool: pg.Pool): void {
  pool.on('error', error => log.warn({ err: error }, 'an idle database connection broke'));
  pool.on('connect', client => client.on('error', () => {}));
}

/** What this server may hold, so that all of them together never take the database's last connection. */
export function shareOf(map: RuntimeMap, wanted: number | undefined): number {
  const share = map.database.connectionsPerServer;
  if (share === undefined) return wanted ?? DEFAULT_MAX;
  return Math.min(share, wanted ?? share);
}

/** With several members, any of them: who is the primary is asked. */
export function firstOf(map: RuntimeMap): Member {
  const member = map.database.shards[0]?.members[0];
  if (!member) throw new Error('a runtime map has at least one shard with one member');
  return member;
}

/** The same database at a member's place. */
export function at(connectionString: string, { host, port }: Member): string {
  const url = new URL(connectionString);
  url.hostname = host.includes(':') ? `[${host}]` : host;
  url.port = String(port);
  return url.href;
}
