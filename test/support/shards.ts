/**
 * A sharded database for a test: databases of one real PostgreSQL as shards, guarded as in production, with
 * lanes that use plain pools. What writes to several shards is one transaction on each, committed one after the
 * other: two-phase commit is tested elsewhere.
 */
import type pg from 'pg';
import { CatalogKeeper } from '../../src/app/database/route/catalog-keeper.ts';
import { openParser, type Parser } from '../../src/app/database/route/parser.ts';
import { Placement as Declared } from '../../src/app/database/shards/declaration/placement.ts';
import { readSchema } from '../../src/app/database/shards/declaration/schema.ts';
import { hashExpression } from '../../src/app/database/shards/hash.ts';
import type { LaneOptions, LaneStatement, Lanes } from '../../src/app/database/shards/lanes.ts';
import {
  placementOf,
  readPlannerCatalog,
} from '../../src/app/database/shards/plan/catalog-placement.ts';
import type { Placement } from '../../src/app/database/shards/plan/placement.ts';
import { evenRanges } from '../../src/app/database/shards/ranges.ts';
import { ShardRouter } from '../../src/app/database/shards/shard-router.ts';
import type { RuntimeMap, TablePlacement } from '../../src/map/runtime-map.ts';
import type { TestPostgres } from './postgres.ts';

export type Tables = Record<string, TablePlacement>;

/** What a lane was asked, in order. */
export interface Sent {
  shard: number;
  text: string;
  wantsWrite: boolean;
}

export class TestShards {
  readonly pools: readonly pg.Pool[];
  readonly router: ShardRouter;
  readonly lanes: PoolLanes;
  readonly placement: Placement;
  readonly #keeper: CatalogKeeper;

  private constructor(
    pools: readonly pg.Pool[],
    router: ShardRouter,
    placement: Placement,
    keeper: CatalogKeeper,
  ) {
    this.pools = pools;
    this.router = router;
    this.placement = placement;
    this.lanes = new PoolLanes(pools);
    this.#keeper = keeper;
  }

  /**
   * @param schema run on each shard
   * @param options.connections most of them to each shard
   */
  static async start(
    postgres: TestPostgres,
    count: number,
    schema: string,
    tables: Tables,
    options: {
      parser?: Parser;
      connections?: number;
      maxMergedRows?: number;
      denormalize?: RuntimeMap['database']['denormalize'];
    } = {},
  ): Promise<TestShards> {
    const parser = options.parser ?? (await openParser());
    const ranges = evenRanges(count);
    const pools = await Promise.all(
      ranges.map(() => postgres.pool({ max: options.connections ?? 2 })),
    );
    const database: RuntimeMap['database'] = {
      name: 'test',
      shards: ranges.map((range, i) => ({
        id: `shard-${i + 1}`,
        range,
        members: [{ host: '127.0.0.1', port: 1, dataCentre: 'main' }],
      })),
      tables,
      ...(options.denormalize ? { denormalize: options.denormalize } : {}),
    };
    await Promise.all(pools.map(pool => pool.query(schema)));
    const declared = new Declared(database, await readSchema(pools[0]!));
    for (const [name, placed] of Object.entries(tables)) {
      if (placed.kind !== 'sharded') continue;
      const [schemaName, table] = name.split('.');
      const type = declared.tableOf(schemaName, table!)!.keyType!;
      for (const [i, { from, to }] of ranges.entries()) {
        await pools[i]!.query(
          `alter table ${name} add constraint banyan_shard_guard check (${hashExpression(type, placed.key)} between ${from} and ${to})`,
        );
      }
    }
    const keeper = new CatalogKeeper(pools[0]!, {
      onError: error => {
        throw error;
      },
    });
    await keeper.refresh();
    const placement = placementOf(declared, await readPlannerCatalog(pools[0]!), 1);
    const router = new ShardRouter({
      parser,
      catalog: () => keeper.current,
      placement: () => placement,
      ...(options.maxMergedRows ? { maxMergedRows: options.maxMergedRows } : {}),
    });
    return new TestShards(pools, router, placement, keeper);
  }

  query(text: string, values?: unknown[]): Promise<pg.QueryResult> {
    return this.router.execute(values ? { text, values } : text, this.lanes) as never;
  }

  close(): void {
    this.#keeper.close();
  }
}

export class PoolLanes implements Lanes {
  readonly inTransaction = false;
  readonly sent: Sent[] = [];
  readonly #pools: readonly pg.Pool[];

  constructor(pools: readonly pg.Pool[]) {
    this.#pools = pools;
  }

  get count(): number {
    return this.#pools.length;
  }

  async query(shard: number, statement: LaneStatement, { wantsWrite }: LaneOptions) {
    this.sent.push({ shard, text: statement.text, wantsWrite });
    return this.#pools[shard]!.query(statement as pg.QueryConfig) as Promise<never>;
  }

  async atomically<T>(run: (lanes: Lanes) => Promise<T>): Promise<T> {
    const lanes = new TransactionLanes(this.#pools, this.sent);
    try {
      const result = await run(lanes);
      await lanes.end('commit');
      return result;
    } catch (error) {
      await lanes.end('rollback');
      throw error;
    }
  }
}

export class TransactionLanes implements Lanes {
  readonly inTransaction = true;
  readonly #pools: readonly pg.Pool[];
  readonly #sent: Sent[];
  readonly #clients = new Map<number, Promise<pg.PoolClient>>();

  constructor(pools: readonly pg.Pool[], sent: Sent[] = []) {
    this.#pools = pools;
    this.#sent = sent;
  }

  get count(): number {
    return this.#pools.length;
  }

  async query(shard: number, statement: LaneStatement, { wantsWrite }: LaneOptions) {
    this.#sent.push({ shard, text: statement.text, wantsWrite });
    let client = this.#clients.get(shard);
    if (!client) {
      client = this.#open(shard);
      this.#clients.set(shard, client);
    }
    return (await client).query(statement as pg.QueryConfig) as Promise<never>;
  }

  atomically<T>(run: (lanes: Lanes) => Promise<T>): Promise<T> {
    return run(this);
  }

  async end(how: 'commit' | 'rollback'): Promise<void> {
    for (const opening of this.#clients.values()) {
      const client = await opening;
      try {
        await client.query(how);
      } finally {
        client.release();
      }
    }
    this.#clients.clear();
  }

  async #open(shard: number): Promise<pg.PoolClient> {
    const client = await this.#pools[shard]!.connect();
    await client.query('begin');
    return client;
  }
}
