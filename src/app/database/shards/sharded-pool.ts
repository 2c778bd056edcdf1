/**
 * The application's pool over several shards: `pg.Pool`'s interface, with a pool for each shard behind it.
 *
 * Holds true here:
 * - It *is* a `pg.Pool`, and has no connection of its own. Its counts are those of all shards together.
 * - A statement by itself goes where the planner says. One that writes to several shards is one transaction: all of it
 *   is kept, or nothing.
 * - What crashes left is recovered as long as it lives.
 */
import pg from 'pg';
import { hasCode } from '../../../errors.ts';
import type { RuntimeMap } from '../../../map/runtime-map.ts';
import { log } from '../../telemetry/log.ts';
import type { BanyanPool, BanyanPoolOptions, Pool } from '../banyan-pool.ts';
import { EventRelay } from '../event-relay.ts';
import { migrateAll, SHARDS } from '../migrate.ts';
import type { StatementFacts } from '../route/facts.ts';
import { type Done, type QueryConfig, throwFromHere } from '../statement.ts';
import { isSubmittable, type Submittable, textOf } from '../submittable.ts';
import { type TransactionOptions, transaction } from '../transaction.ts';
import { type DirectRoute, DirectRoutes } from './direct.ts';
import type { Load } from './hot/load.ts';
import { reportLoad } from './hot/load-report.ts';
import { AutocommitLanes } from './lane-sources.ts';
import { MapWatch } from './map-watch.ts';
import { explainMisplaced } from './misplaced.ts';
import { CatalogPlanner, type ShardPlanner } from './planner.ts';
import { sessionWord } from './session-words.ts';
import { type SchemaSource, ShardCatalog } from './shard-catalog.ts';
import { type Shard, ShardSet } from './shard-set.ts';
import { ShardedClient, type ShardedContext, valuesOf } from './sharded-client.ts';
import { DEADLOCK_TIMEOUT_MS } from './sharded-transaction.ts';
import { StatementReader } from './statement-reader.ts';
import { Coordinator } from './two-phase/coordinator.ts';
import { ensureDecisionTable } from './two-phase/decisions.ts';
import { withPrimary } from './two-phase/finish.ts';
import { Recoverer } from './two-phase/recoverer.ts';
import { UNREAD } from './unique/tables.ts';
import { UniquePlanner } from './unique/unique-planner.ts';

export interface ShardedPoolOptions {
  readonly url: string;
  readonly mapFile: string;
  readonly map: RuntimeMap;
  readonly config: pg.PoolConfig;
  readonly behaviour: BanyanPoolOptions;
  /** A stable name of this process, for its transactions: the unit's. */
  readonly unit: string;
  /** Default: the one that plans by map and schema. */
  readonly planner?: (reader: StatementReader, catalog: ShardCatalog) => ShardPlanner;
  /** Default: 100000 (`PoolOptions`). */
  readonly maxMergedRows?: number;
  /** In milliseconds. Default: 1000 (`lock-watch.ts`). */
  readonly deadlockTimeoutMs?: number;
}

type ConnectCallback = (
  error: Error | undefined,
  client: pg.PoolClient | undefined,
  done: (release?: Error | boolean) => void,
) => void;

/** Of the statements that go the short way. */
const COUNTED_OF = 16;

export class ShardedPool extends pg.Pool implements Pool {
  readonly #context: ShardedContext;
  readonly #lanes: AutocommitLanes;
  readonly #recoverer: Recoverer;
  readonly #map: MapWatch;
  readonly #stopReporting: () => void;
  readonly #prepared = new WeakSet<Shard>();
  readonly #catalog: ShardCatalog;
  readonly #direct = new DirectRoutes();
  readonly #relay = new EventRelay(this, () => this.#context.shards.all.map(({ pool }) => pool));
  #uncounted = 0;

  constructor(options: ShardedPoolOptions) {
    super(options.config);
    const { url, config, behaviour, map, mapFile } = options;
    this.on('error', () => {});
    const onPool = (pool: BanyanPool) => this.#relay.add(pool);
    const shards = new ShardSet({ url, config, behaviour, wanted: config.max, onPool });
    shards.follow(map);
    this.#recoverer = new Recoverer({ deployment: map.deployment, shards: () => shards.all });
    const coordinator = new Coordinator({
      deployment: map.deployment,
      name: options.unit,
      finishTimeoutMs: behaviour.replicatedHoldMs,
      onLeft: () => this.#recoverer.soon(),
    });
    const home = { query: (text: string) => shards.home.pool.query(text) };
    const reader = new StatementReader(home);
    const catalog = new ShardCatalog(map, home as unknown as SchemaSource);
    const planner =
      options.planner?.(reader, catalog) ??
      new CatalogPlanner(reader, catalog, options.maxMergedRows);
    const unique = () => catalog.unique;
    this.#map = new MapWatch(mapFile, map, next => {
      // Both in one go: what is planned and where it is sent must be of one map.
      catalog.follow(next);
      shards.follow(next);
      void this.#prepare();
    });
    this.#catalog = catalog;
    this.#context = {
      shards,
      coordinator,
      reader,
      map: this.#map,
      unique,
      ready: () => reader.ready ?? catalog.ready,
      changed: () => {
        reader.changed();
        catalog.changed();
      },
      planner: new UniquePlanner(planner, reader, unique),
      deadlockTimeoutMs: options.deadlockTimeoutMs ?? DEADLOCK_TIMEOUT_MS,
    };
    this.#lanes = new AutocommitLanes({
      shards,
      coordinator,
      source: {
        coordinator,
        deadlockTimeoutMs: this.#context.deadlockTimeoutMs,
        unique,
        get count() {
          return shards.count;
        },
        get layout() {
          return shards.layout;
        },
        shard: index => shards.at(index),
        connect: async index => {
          await shards.seen(shards.at(index), coordinator);
          const client = await shards.at(index).connect();
          return [client, error => client.release(error)];
        },
      },
    });
    this.#stopReporting = reportLoad(mapFile, shards.load);
    void this.#prepare().then(() => this.#recoverer.start());
  }

  get isHolding(): boolean {
    return this.#context.shards.all.some(({ pool }) => pool.isHolding);
  }

  /** Which shards, and which keys, this process asks the most of late. */
  get load(): Load {
    return this.shards.load.load();
  }

  /** @internal For `migrate`. */
  readonly [SHARDS] = {
    migrate: async (folder: string) => {
      const shards = this.shards.all;
      const places = shards.map(({ id }) => id);
      try {
        return await migrateAll(
          shards.map(({ pool }) => pool),
          folder,
          places,
        );
      } finally {
        this.#context.changed();
      }
    },
  };

  /** @internal The shards, in the map's order. */
  get shards(): ShardSet {
    return this.#context.shards;
  }

  /** @internal Something that this process committed there is not to be seen yet. */
  isUnfinished(shard: string): boolean {
    return this.#context.coordinator.unfinished(shard) !== undefined;
  }

  transaction<T>(
    fn: (client: pg.PoolClient) => Promise<T>,
    options?: TransactionOptions,
  ): Promise<T> {
    return transaction(this, fn, options);
  }

  override query(config: unknown, values?: unknown, callback?: unknown): never {
    const given = (typeof values === 'function' ? values : callback) as Done | undefined;
    const own = (typeof values === 'function' ? undefined : values) as unknown[] | undefined;
    if (isSubmittable(config)) {
      this.#submit(config, own, given);
      return config as never;
    }
    const direct = given ? undefined : this.#findDirect(config as QueryConfig, own);
    if (direct && !direct.writes) return this.#sendDirectly(direct, config, own) as never;
    const answer = direct
      ? this.#writeDirectly(direct, config as QueryConfig, own)
      : this.#run(config as QueryConfig, own);
    if (!given) {
      return answer.catch(throwFromHere) as never;
    }
    answer.then(
      result => process.nextTick(given, undefined, result),
      error => process.nextTick(given, error),
    );
    return undefined as never;
  }

  override connect(): Promise<pg.PoolClient>;
  override connect(callback: ConnectCallback): void;
  override connect(callback?: ConnectCallback): Promise<pg.PoolClient> | undefined {
    const error = this.ending
      ? new Error('Cannot use a pool after calling end on the pool')
      : undefined;
    const client = new ShardedClient(this.#context, this.options) as unknown as pg.PoolClient;
    if (!callback) return error ? Promise.reject(error) : Promise.resolve(client);
    if (error) process.nextTick(callback, error, undefined, () => {});
    else process.nextTick(callback, undefined, client, client.release);
    return undefined;
  }

  override end(): Promise<void>;
  override end(callback: () => void): void;
  override end(callback?: () => void): Promise<void> | void {
    const ended = this.#end();
    if (!callback) return ended;
    ended.then(callback, callback);
  }

  async #end(): Promise<void> {
    const { shards, coordinator, reader } = this.#context;
    await super.end();
    this.#map.stop();
    this.#stopReporting();
    reader.close();
    this.#catalog.close();
    await Promise.all([coordinator.close(), this.#recoverer.stop()]);
    await shards.end();
  }

  /** The shard to which a statement may go as it came; undefined when the planner has to look at it. */
  #findDirect(config: QueryConfig, values: unknown[] | undefined): DirectRoute | undefined {
    const { ready, reader, shards, coordinator } = this.#context;
    if (!config || this.ending || ready()) return undefined;
    const route = this.#direct.find(config, values, this.#catalog.placement, reader.catalog);
    if (!route || coordinator.unfinished(shards.at(route.shard).id)) return undefined;
    return route;
  }

  /** Counts one of several: what is asked often is found all the same. */
  #sendDirectly({ shard, key }: DirectRoute, config: unknown, values: unknown): Promise<unknown> {
    const { pool } = this.shards.at(shard);
    const query = pool.query as (config: unknown, values: unknown) => Promise<unknown>;
    this.#uncounted = (this.#uncounted + 1) % COUNTED_OF;
    if (this.#uncounted !== 0) return query.call(pool, config, values);
    return this.shards.at(shard).observed(key, () => query.call(pool, config, values), COUNTED_OF);
  }

  #writeDirectly(
    route: DirectRoute,
    config: QueryConfig,
    values: unknown[] | undefined,
  ): Promise<unknown> {
    const { epoch } = this.#map;
    const shard = this.shards.at(route.shard).id;
    return this.#sendDirectly(route, config, values).catch(async (given: unknown) => {
      // It changed unique values without naming their table: nothing was kept, and the planner's way sees to them.
      if (hasCode(given, UNREAD)) return this.#run(config, values);
      const error = explainMisplaced(given, shard);
      if (await this.#map.explains(error, epoch)) return this.#run(config, values);
      throw error;
    });
  }

  /** What was planned may go the short way from now on. */
  #learn(text: string, facts: StatementFacts): void {
    const { planner, reader } = this.#context;
    const { placement } = this.#catalog;
    if (this.#direct.knows(text, placement, reader.catalog)) return;
    const plan = facts.changesCatalog ? undefined : planner.direct(text);
    this.#direct.learn(text, placement, reader.catalog, plan);
  }

  async #run(config: QueryConfig, values: unknown[] | undefined): Promise<unknown> {
    const { reader, planner, ready } = this.#context;
    if (this.ending) throw new Error('Cannot use a pool after calling end on the pool');
    for (let wait = ready(); wait; wait = ready()) await wait;
    const whole: pg.QueryConfig = typeof config === 'string' ? { text: config } : { ...config };
    if (values) whole.values = values;
    const facts = reader.facts(whole.text);
    if (sessionWord(whole.text, facts, whole.values).kind !== 'none') return this.#runAlone(whole);
    const result = await this.#map.follow(() => planner.execute(whole, this.#lanes.of(whole)));
    if (!this.#context.ready()) this.#learn(whole.text, facts);
    if (facts.changesCatalog) this.#context.changed();
    return result;
  }

  /** What concerns a session or a transaction has one for itself, which ends with it. */
  async #runAlone(config: pg.QueryConfig): Promise<unknown> {
    const client = await this.connect();
    try {
      return await client.query(config);
    } finally {
      client.release();
    }
  }

  #submit(query: Submittable, values: unknown[] | undefined, callback: Done | undefined): void {
    const { ready, planner, shards } = this.#context;
    void (async () => {
      let index: number | undefined;
      try {
        for (let wait = ready(); wait; wait = ready()) await wait;
        index = planner.onlyShard(textOf(query) ?? '', valuesOf(query));
      } catch {
        // The client says so.
      }
      if (index === undefined) {
        const client = new ShardedClient(this.#context, this.options);
        client.query(query, values, callback);
        // When it is done.
        client.release();
        return;
      }
      const send = shards.at(index).pool.query as (...args: unknown[]) => void;
      send.call(shards.at(index).pool, query, values, callback);
    })();
  }

  /** Makes the table of decisions on each shard that is new: in a deployment it is there already. */
  async #prepare(): Promise<void> {
    const fresh = this.#context.shards.all.filter(shard => !this.#prepared.has(shard));
    for (const shard of fresh) this.#prepared.add(shard);
    await Promise.all(
      fresh.map(async shard => {
        try {
          await withPrimary(shard, ensureDecisionTable);
        } catch (error) {
          this.#prepared.delete(shard);
          log.debug(
            { err: error, shard: shard.id },
            'the table of decisions could not be made yet',
          );
        }
      }),
    );
  }
}

for (const name of ['totalCount', 'idleCount', 'waitingCount'] as const) {
  Object.defineProperty(ShardedPool.prototype, name, {
    configurable: true,
    get(this: ShardedPool): number {
      return this.shards.all.reduce((total, { pool }) => total + pool[name], 0);
    },
  });
}
