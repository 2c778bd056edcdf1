/**
 * The application's pool: `pg.Pool`'s interface over the database that the runtime map names.
 *
 * Holds true here:
 * - It *is* a `pg.Pool`, so Drizzle (which asks `instanceof`), Kysely and plain `pg` code work on it: the pool of
 *   connections to the primary. Beside it are pools to the replicas, which the router has.
 * - With one member there is no router: nothing is parsed, nobody is watched.
 * - Host and port come from the map, credentials and options from `DATABASE_URL`. When the map
 *   moves the database, idle connections to the old place are closed and new ones go to the new;
 *   connections in use finish what they do and are closed on release.
 * - A connection that breaks is logged, never thrown, also while the application holds it between two
 *   queries: a restart of PostgreSQL must not take the application with it.
 */
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { watchRuntimeMap } from '../../map/map-file.ts';
import type { Member, RuntimeMap, Shard } from '../../map/runtime-map.ts';
import { log } from '../telemetry/log.ts';
import type { ScopePositions } from './consistency/scope.ts';
import { SingleConsistency } from './consistency/single.ts';
import { type Staleness, stalenessOf } from './consistency/staleness.ts';
import { EventRelay } from './event-relay.ts';
import { Holding, type HoldLimits, isAway } from './holding.ts';
import { keyOf } from './members/member.ts';
import { openOwnConnection } from './own-connection.ts';
import { atMember, shareOf } from './place.ts';
import {
  breakConnections,
  closeIdle,
  internalsOf,
  leaveConnections,
  resize,
  serveWaiting,
  take,
  turnAway,
} from './pool-internals.ts';
import { PrimaryClock } from './primary-clock.ts';
import { currentWatch, partsOf, type ReadWatch, unwatched } from './read-watch.ts';
import { RoutedClient } from './routed-client.ts';
import { type PrimaryPool, Router } from './router.ts';
import { type Done, type QueryConfig, sendOn, throwFromHere } from './statement.ts';
import { isSubmittable } from './submittable.ts';
import { type TransactionOptions, transaction } from './transaction.ts';
import { watchClient } from './watched-client.ts';

declare module 'pg' {
  interface QueryConfig<I> {
    /**
     * How old the answer may be: milliseconds, or a text such as `500ms`, `5s`, `1m`. A replica that is no further
     * behind may give it. Default: that of the pool.
     */
    staleness?: Staleness;
  }
}

/** `pg.Pool`, following the runtime map. Made by `createPool`. */
export interface Pool extends pg.Pool {
  /** Whether statements to the primary wait at the moment, since it is away or the map says to hold. */
  readonly isHolding: boolean;
  /** See {@link transaction}: `fn` may run several times. */
  transaction<T>(
    fn: (client: pg.PoolClient) => Promise<T>,
    options?: TransactionOptions,
  ): Promise<T>;
}

export interface BanyanPoolOptions {
  readonly hold: HoldLimits;
  /** In the place of its time when there are replicas, in milliseconds. */
  readonly replicatedHoldMs: number;
  readonly maxReplicaLagMs: number;
  /** Milliseconds that any answer may be old; undefined: not at all. */
  readonly staleness: number | undefined;
}

type ConnectCallback = (
  error: Error | undefined,
  client: pg.PoolClient | undefined,
  done: (release?: Error | boolean) => void,
) => void;

const pulseQueue = internalsOf(pg.Pool.prototype)._pulseQueue;
/** pg-pool's own default. */
const IDLE_TIMEOUT_MS = 10_000;
/** Of the question where the primary is, which takes a millisecond. */
const CLOCK_TIMEOUT_MS = 1_000;
/** With one alone, who holds it and asks for another would wait for himself. */
const FEWEST_CONNECTIONS = 2;

export class BanyanPool extends pg.Pool implements Pool, PrimaryPool {
  readonly #config: pg.PoolConfig;
  readonly #idleTimeoutMs: number;
  readonly #behaviour: BanyanPoolOptions;
  readonly #limits: { timeoutMs: number; most: number };
  readonly #holding: Holding;
  #url = '';
  /** Where the primary is taken to be. */
  #address: Member | undefined;
  #router: Router | undefined;
  /** Routers of before, whose reads end. */
  readonly #closing = new Set<Promise<void>>();
  #stopWatching: (() => void) | undefined;
  readonly #relay = new EventRelay(this, () => this.#router?.replicaPools() ?? []);
  #isQuerying = false;
  #cluster: string | undefined;
  /** Connections to the primary: `most` of this server, `max` of the pool. Undefined without a map. */
  #share: { most: number; max: number } | undefined;
  /** Connections beside the pool's. */
  #kept = 0;
  #single: SingleConsistency | undefined;
  #clock: PrimaryClock | undefined;

  constructor(config: pg.PoolConfig, behaviour: BanyanPoolOptions) {
    super({ ...config, idleTimeoutMillis: 0 });
    this.#idleTimeoutMs = config.idleTimeoutMillis ?? IDLE_TIMEOUT_MS;
    closeIdle(this, this.#idleTimeoutMs);
    this.#config = config;
    this.#behaviour = behaviour;
    this.#limits = { ...behaviour.hold };
    this.#holding = new Holding(
      this.#limits,
      () => this.#probe(),
      () => serveWaiting(this),
    );
    this.on('error', error => log.warn({ err: error }, 'an idle database connection broke'));
    // pg-pool listens for errors while a client is idle. One that breaks in the application's hands,
    // between two queries of a transaction, would otherwise end the process: the next query on it
    // rejects, which is all that the application needs.
    this.on('connect', client => client.on('error', () => {}));
  }

  get isHolding(): boolean {
    return this.#holding.isHolding;
  }

  transaction<T>(
    fn: (client: pg.PoolClient) => Promise<T>,
    options?: TransactionOptions,
  ): Promise<T> {
    return transaction(this, fn, options);
  }

  /** @internal The shard's id in the map; undefined without a map. */
  get cluster(): string | undefined {
    return this.#cluster;
  }

  /** @internal Its primary's position, asked beside the pool. */
  get clock(): PrimaryClock {
    this.#clock ??= new PrimaryClock(() => unwatched(() => this.openOwn(CLOCK_TIMEOUT_MS)));
    return this.#clock;
  }

  /** @internal From now on it is known who has written, without replicas too. @param isWrite a text is none that only reads */
  trackWrites(isWrite: (text: string) => boolean): void {
    this.#single ??= new SingleConsistency(this.clock, isWrite);
  }

  /** @internal Undefined where nobody keeps count of who wrote. */
  get positions(): ScopePositions | undefined {
    return this.#router?.positions ?? this.#single;
  }

  /** @internal Something was committed over a connection of `connectPrimary`, or may have been. */
  noteWrite(changesCatalog: boolean): void {
    const router = this.#router;
    if (router) router.noteWrite(router.scope(), changesCatalog);
    else this.#single?.scope().noteWrite();
  }

  /** @internal Of a pool with replicas; undefined while the map has none. */
  get router(): Router | undefined {
    return this.#router;
  }

  /** @param wanted connections that the application asked for; undefined when it left that open */
  follow(mapFile: string, url: string, map: RuntimeMap, wanted: number | undefined): void {
    this.followShard(url, map, map.database.shards[0]!, wanted);
    this.#stopWatching = watchRuntimeMap(
      mapFile,
      map,
      next => this.followShard(url, next, next.database.shards[0]!, wanted),
      error => log.warn({ err: error }, 'the runtime map cannot be read; the last one stays'),
    );
  }

  /** @internal Takes what a map says of one shard; whoever calls it watches the map. */
  followShard(url: string, map: RuntimeMap, shard: Shard, wanted: number | undefined): void {
    const { members } = shard;
    this.#cluster = shard.id;
    const isFirst = this.#url === '';
    if (isFirst) {
      this.#url = url;
      this.#address = members[0];
    }
    const max = shareOf(map, wanted);
    this.#share = { most: map.database.connectionsPerServer ?? Number.POSITIVE_INFINITY, max };
    this.#takeShare();
    const { hold, replicatedHoldMs } = this.#behaviour;
    this.#limits.timeoutMs = members.length > 1 ? replicatedHoldMs : hold.timeoutMs;
    if (members.length > 1) {
      const isNew = this.#router === undefined;
      this.#router ??= new Router(this, { ...this.#behaviour, dataCentre: map.dataCentre });
      this.#router.follow(members, map.dataCentre, isNew && !isFirst ? this.#address : undefined);
      for (const pool of this.#router.replicaPools()) resize(pool, max);
    } else {
      this.#closeRouter();
      this.usePrimary(members[0]!, false);
    }
    // Last, so that what was held goes where the new map says.
    const isBegun = this.#holding.plan(shard.hold, () => this.#router?.monitor.resume());
    if (!isBegun) return;
    leaveConnections(this);
    if (!this.#router) return;
    this.#router.monitor.pause();
    turnAway(this, away());
  }

  override query(config: unknown, values?: unknown, callback?: unknown): never {
    const router = this.#router;
    const given = (typeof values === 'function' ? values : callback) as Done | undefined;
    let staleness = router?.staleness;
    try {
      staleness = stalenessOf(config, staleness);
    } catch (error) {
      if (!given) return Promise.reject(error) as never;
      process.nextTick(given, error);
      return undefined as never;
    }
    const isGiven = config !== null && config !== undefined && typeof config !== 'function';
    if (!isGiven || this.ending || isSubmittable(config)) {
      currentWatch()?.spoil('reads with a cursor or a stream');
      this.#single?.scope().noteWrite();
      return this.#queryAsPg(config, values, callback);
    }
    const own = (typeof values === 'function' ? undefined : values) as unknown[] | undefined;
    if (given) {
      this.#run(config as QueryConfig, own, staleness, given);
      return undefined as never;
    }
    return new Promise((resolve, reject) => {
      const done: Done = (error, result) => (error ? reject(error) : resolve(result));
      this.#run(config as QueryConfig, own, staleness, done);
    }).catch(throwFromHere) as never;
  }

  #run(
    config: QueryConfig,
    values: unknown[] | undefined,
    staleness: number | undefined,
    done: Done,
  ): void {
    const router = this.#router;
    if (router) {
      router.run(router.statement(config, values, done, staleness));
      return;
    }
    const watch = currentWatch();
    if (watch || this.#single) this.#sendWatched(watch, config, values, done);
    else this.#send(config, values, done);
  }

  /** @internal As `query`, of a statement that is cancelled when a signal fires. */
  async queryUntil(signal: AbortSignal, config: QueryConfig): Promise<pg.QueryResult> {
    const { promise, resolve, reject } = Promise.withResolvers<pg.QueryResult>();
    const done: Done = (error, result) =>
      error ? reject(error) : resolve(result as pg.QueryResult);
    const router = this.#router;
    const staleness = stalenessOf(config, router?.staleness);
    if (router && !this.ending) {
      router.run({ ...router.statement(config, undefined, done, staleness), signal });
      return promise;
    }
    const client = await this.connect();
    sendOn(client, { config, values: undefined, signal }, undefined, done);
    return promise;
  }

  #queryAsPg(config: unknown, values: unknown, callback: unknown): never {
    const query = super.query as (...args: unknown[]) => never;
    this.#isQuerying = true;
    try {
      return query.call(this, config, values, callback);
    } finally {
      this.#isQuerying = false;
    }
  }

  #send(config: QueryConfig, values: unknown[] | undefined, done: Done): void {
    this.connectPrimary((error, client) => {
      if (client) sendOn(client, { config, values }, undefined, done);
      else done(error);
    }, performance.now());
  }

  /** For a function whose reads are told, before it is sent and when it has been answered; and for who has written. */
  #sendWatched(
    watch: ReadWatch | undefined,
    config: QueryConfig,
    values: unknown[] | undefined,
    done: Done,
  ): void {
    const single = this.#single;
    const scope = single?.scope();
    const { text, values: own } = partsOf(config, values);
    const answered: Done = (error, result) => {
      if (scope) single?.noteAnswer(text, scope);
      if (!error) watch?.answered(this, text, own, result);
      done(error, result);
    };
    const wait = watch?.atPrimary(this, this.#address && keyOf(this.#address));
    if (wait) void wait.then(() => this.#send(config, values, answered));
    else this.#send(config, values, answered);
  }

  /** Of `query` only what is not plainly a statement comes by here. */
  override connect(): Promise<pg.PoolClient>;
  override connect(callback: ConnectCallback): void;
  override connect(callback?: ConnectCallback): Promise<pg.PoolClient> | undefined {
    if (this.#router && !this.ending) {
      const client = new RoutedClient(this.#router, this.options) as unknown as pg.PoolClient;
      if (!callback) return Promise.resolve(client);
      process.nextTick(callback, undefined, client, client.release);
      return undefined;
    }
    // What a checked-out client reads is told as well; pg's own `query` comes by here too, and has told already.
    const single = this.#single;
    const isWatched = !this.#isQuerying && (single !== undefined || currentWatch() !== undefined);
    if (!callback) {
      const connected = this.#holding.connect(() => super.connect());
      return isWatched ? connected.then(client => watchClient(this, client, single)) : connected;
    }
    this.connectPrimary((error, client) => {
      if (client && isWatched) watchClient(this, client, single);
      callback(error, client, client ? client.release : () => {});
    }, performance.now());
    return undefined;
  }

  /** @internal */
  connectPrimary(
    callback: (error: Error | undefined, client: pg.PoolClient | undefined) => void,
    came: number,
    mayHold = true,
  ): void {
    const deliver = () => {
      this.#holding
        .connect(async () => {
          await this.#firstPrimary();
          return super.connect();
        }, came)
        .then(
          client => callback(undefined, client),
          error => callback(error, undefined),
        );
    };
    const monitor = this.#router?.monitor;
    if (this.#holding.isHolding || (monitor && !monitor.primary)) {
      if (mayHold) deliver();
      else callback(away(), undefined);
      return;
    }
    take(this, (error, client) => {
      if (error && isAway(error)) {
        monitor?.suspect();
        if (mayHold) deliver();
        else callback(error, undefined);
      } else callback(error, client);
    });
  }

  /** Where nothing is held there is a wait all the same until the members have said who the primary is. */
  async #firstPrimary(): Promise<void> {
    const monitor = this.#router?.monitor;
    if (!monitor || monitor.primary) return;
    const limit = new AbortController();
    const late = delay(this.options.connectionTimeoutMillis, undefined, { signal: limit.signal });
    await Promise.race([monitor.served(), late]).finally(() => limit.abort());
  }

  /** @internal */
  noticeAway(): void {
    this.#holding.noticeAway();
    // Who waits for a connection in use is held too, or, for a read, goes to a replica.
    if (this.#holding.isHolding) turnAway(this, away());
  }

  /** @internal */
  usePrimary(address: Member, isDeposed: boolean): void {
    const before = this.#address;
    this.#address = address;
    this.options.connectionString = atMember(this.#url, address);
    if (before?.host === address.host && before.port === address.port) return;
    if (isDeposed) breakConnections(this);
    else leaveConnections(this);
  }

  /** @internal */
  poolTo(address: Member): pg.Pool {
    const pool = new pg.Pool({
      ...this.configFor(address),
      max: this.options.max,
      idleTimeoutMillis: 0,
    });
    closeIdle(pool, this.#idleTimeoutMs);
    this.#relay.add(pool);
    return pool;
  }

  /** @internal */
  configFor(address: Member): pg.PoolConfig {
    return { ...this.#config, connectionString: atMember(this.#url, address) };
  }

  /** @internal All pools: the primary's and the replicas'. */
  sum(count: (pool: pg.Pool) => number): number {
    return (this.#router?.replicaPools() ?? []).reduce((total, pool) => total + count(pool), 0);
  }

  /** pg-pool's own: gives one of those who wait a connection. Its types do not know it. */
  _pulseQueue(): void {
    const holding = this.#holding;
    const isHeld = holding?.isPlanned || (this.#router && holding?.isHolding);
    if (!isHeld || this.ending) pulseQueue.call(this);
  }

  /** Whether a session can be had, over a connection beside the pool's: those may all be in use. */
  async #probe(): Promise<void> {
    const monitor = this.#router?.monitor;
    await monitor?.served();
    const client = await this.openOwn();
    await client.end().catch(() => {});
  }

  /** @internal A connection beside the pool's, to the primary. @param queryTimeoutMs of each query over it */
  openOwn(queryTimeoutMs?: number): Promise<pg.Client> {
    const { connectionString } = this.options;
    const config = { ...this.#config, connectionString };
    return openOwnConnection(config, this.#router?.monitor, queryTimeoutMs);
  }

  /**
   * @internal As `openOwn`, for a connection that is kept: the pool may have one less as long as it is there, so that both together
   * stay within this server's share.
   */
  async openKept(queryTimeoutMs?: number): Promise<pg.Client> {
    const client = await this.openOwn(queryTimeoutMs);
    this.#kept++;
    this.#takeShare();
    client.once('end', () => {
      this.#kept--;
      this.#takeShare();
    });
    return client;
  }

  #takeShare(): void {
    if (!this.#share) return;
    const { most, max } = this.#share;
    resize(this, Math.min(max, Math.max(FEWEST_CONNECTIONS, most - this.#kept)));
  }

  #closeRouter(): void {
    if (!this.#router) return;
    const closing = this.#router.close();
    this.#router = undefined;
    this.#closing.add(closing);
    closing.finally(() => this.#closing.delete(closing)).catch(() => {});
  }

  override end(): Promise<void>;
  override end(callback: () => void): void;
  override end(callback?: () => void): Promise<void> | void {
    this.#stopWatching?.();
    this.#holding.stop();
    const ended = super.end();
    this.#closeRouter();
    this.#single?.close();
    this.#clock?.close();
    const all = Promise.all([ended, ...this.#closing]).then(() => {});
    if (!callback) return all;
    all.then(callback, callback);
  }
}

for (const [name, count] of Object.entries({
  totalCount: (pool: pg.Pool) => pool.totalCount,
  idleCount: (pool: pg.Pool) => pool.idleCount,
  waitingCount: (pool: pg.Pool) => pool.waitingCount,
})) {
  const own = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(pg.Pool.prototype), name)!;
  Object.defineProperty(BanyanPool.prototype, name, {
    configurable: true,
    get(this: BanyanPool): number {
      return own.get!.call(this) + this.sum(count);
    },
  });
}

function away(): Error {
  return Object.assign(new Error('the primary is away'), { code: '57P03' });
}
