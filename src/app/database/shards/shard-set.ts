/**
 * The shards that the runtime map names, each with a pool of its own: its primary, its replicas, its holding.
 *
 * Holds true here:
 * - The order is the map's: the first shard is *home*, where tables are that are on one shard only.
 * - A shard is told by its id. One that leaves the map gets nothing new; its pool is closed when what runs there has
 *   ended.
 */
import type pg from 'pg';
import type { RuntimeMap } from '../../../map/runtime-map.ts';
import { BanyanPool, type BanyanPoolOptions } from '../banyan-pool.ts';
import { atMember, shareOf } from '../place.ts';
import { ShardUnfinished } from './errors.ts';
import { LoadSketch } from './hot/load-sketch.ts';
import type { LaneKey } from './lanes.ts';
import { explainMisplaced } from './misplaced.ts';
import type { ShardPrimary } from './two-phase/branch.ts';
import type { Coordinator } from './two-phase/coordinator.ts';

/** A decision may wait for a standby; then the next try asks again. */
const OWN_QUERY_TIMEOUT_MS = 5_000;

export class Shard implements ShardPrimary {
  readonly id: string;
  readonly pool: BanyanPool;
  readonly #load: LoadSketch;

  constructor(id: string, pool: BanyanPool, load: LoadSketch) {
    this.id = id;
    this.pool = pool;
    this.#load = load;
  }

  /**
   * Asks it something, and counts that.
   * @param key that it is about, if it is one
   * @param times how many statements this one stands for
   * @throws RowBelongsElsewhere, and what `ask` throws: with `shard`, the id of this one
   */
  async observed<T>(key: LaneKey | undefined, ask: () => Promise<T>, times = 1): Promise<T> {
    const begun = performance.now();
    try {
      return await ask();
    } catch (error) {
      throw named(explainMisplaced(error, this.id), this.id);
    } finally {
      this.#load.observe(this.id, performance.now() - begun, key?.family, key?.text, times);
    }
  }

  /** A connection of the pool to the primary, held while that is away. @throws DatabaseAway */
  connect(): Promise<pg.PoolClient> {
    const { promise, resolve, reject } = Promise.withResolvers<pg.PoolClient>();
    this.pool.connectPrimary(
      (error, client) => (client ? resolve(client) : reject(error)),
      performance.now(),
    );
    return promise;
  }

  open(): Promise<pg.Client> {
    return this.pool.openOwn(OWN_QUERY_TIMEOUT_MS);
  }

  /** Something was committed there, or may have been: later reads have to see it. */
  noteWrite(changesCatalog: boolean): void {
    this.pool.noteWrite(changesCatalog);
  }
}

/** Of a statement over several, which one could not. */
function named(error: unknown, shard: string): unknown {
  const isKnown = typeof error !== 'object' || error === null || 'shard' in error;
  return isKnown ? error : Object.assign(error, { shard });
}

export interface ShardSetOptions {
  readonly url: string;
  readonly config: pg.PoolConfig;
  readonly behaviour: BanyanPoolOptions;
  /** Connections that the application asked for, for each shard; undefined: as many as the map allows. */
  readonly wanted: number | undefined;
  /** Called with each new shard's pool. */
  readonly onPool: (pool: BanyanPool) => void;
}

export class ShardSet {
  readonly #options: ShardSetOptions;
  readonly #closing = new Set<Promise<unknown>>();
  /** What this process asks of each. */
  readonly load = new LoadSketch();
  #shards: readonly Shard[] = [];
  #layout = '';

  constructor(options: ShardSetOptions) {
    this.#options = options;
  }

  /** In the map's order. */
  get all(): readonly Shard[] {
    return this.#shards;
  }

  get count(): number {
    return this.#shards.length;
  }

  /** Differs when other shards are there, or own other rows. */
  get layout(): string {
    return this.#layout;
  }

  at(index: number): Shard {
    const shard = this.#shards[index];
    if (!shard)
      throw new RangeError(`there are ${this.count} shards, and none with index ${index}`);
    return shard;
  }

  get home(): Shard {
    return this.at(0);
  }

  follow(map: RuntimeMap): void {
    const { url, wanted } = this.#options;
    this.#layout = JSON.stringify(map.database.shards.map(({ id, range }) => [id, range]));
    const before = new Map(this.#shards.map(shard => [shard.id, shard]));
    this.#shards = map.database.shards.map(one => before.get(one.id) ?? this.#open(map, one.id));
    for (const [index, { pool }] of this.#shards.entries()) {
      pool.followShard(url, map, map.database.shards[index]!, wanted);
    }
    for (const shard of before.values()) {
      if (!this.#shards.includes(shard)) this.#close(shard);
    }
  }

  /**
   * Waits until what this process committed on a shard can be seen there: nothing, but when the shard was away at the
   * time (`two-phase/coordinator.ts`).
   * @throws ShardUnfinished when it takes longer than any statement is held
   */
  async seen(shard: Shard, coordinator: Coordinator): Promise<void> {
    const unfinished = coordinator.unfinished(shard.id);
    if (!unfinished) return;
    const { promise: late, reject } = Promise.withResolvers<never>();
    const timer = setTimeout(
      () => reject(new ShardUnfinished(shard.id)),
      this.#options.behaviour.replicatedHoldMs,
    );
    await Promise.race([unfinished, late]).finally(() => clearTimeout(timer));
  }

  async end(): Promise<void> {
    const all = this.#shards.map(({ pool }) => pool.end());
    await Promise.all([...all, ...this.#closing]);
  }

  #open(map: RuntimeMap, id: string): Shard {
    const { url, config, behaviour, wanted, onPool } = this.#options;
    const shard = map.database.shards.find(one => one.id === id);
    const pool = new BanyanPool(
      {
        ...config,
        max: shareOf(map, wanted),
        connectionString: atMember(url, shard?.members[0]),
      },
      behaviour,
    );
    onPool(pool);
    return new Shard(id, pool, this.load);
  }

  #close({ pool }: Shard): void {
    const ended = pool.end().catch(() => {});
    this.#closing.add(ended);
    void ended.then(() => this.#closing.delete(ended));
  }
}
