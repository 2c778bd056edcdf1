/**
 * What pool and clients ask of the planner of statements over shards, and how the one of `shard-router.ts` gives it.
 */
import type pg from 'pg';
import type { QueryConfig } from '../statement.ts';
import { ownersOf } from './bind.ts';
import { type DirectPlan, directPlan } from './direct.ts';
import { isExplain, readExplain } from './explain/explain-text.ts';
import { Explainer, type Place } from './explain/explainer.ts';
import type { Lanes } from './lanes.ts';
import type { KeyFamily } from './plan/placement.ts';
import type { CopyAction, Target } from './plan/plan.ts';
import { shardsOf } from './plan/values.ts';
import type { ShardCatalog } from './shard-catalog.ts';
import { ShardRouter } from './shard-router.ts';
import type { StatementReader } from './statement-reader.ts';
import type { RowSource } from './submitted/virtual-server.ts';

export interface ShardPlanner {
  /**
   * Runs the statements of one text, which do nothing to session or transaction, on the shards where they belong.
   * @param place of an EXPLAIN whose shard is known already
   * @throws a refusal, when nothing was sent; what PostgreSQL says
   */
  execute(
    config: QueryConfig,
    lanes: Lanes,
    place?: Place,
  ): Promise<pg.QueryResult | pg.QueryResult[]>;
  /**
   * The one shard where all of a statement belongs; undefined when it is several.
   * @throws a refusal
   */
  onlyShard(text: string, values: readonly unknown[] | undefined): number | undefined;
  /**
   * The rows of a statement in batches, for a cursor or a stream.
   * @param lanes in a transaction, which they end with
   */
  open(config: pg.QueryConfig, lanes: Lanes): Promise<RowSource>;
  /** The plan of a COPY over several shards; undefined for anything else. @throws a refusal */
  copy(text: string): Promise<PlannedCopy | undefined>;
  /** How a text goes to one shard by one of its parameters; undefined when it does not, always. */
  direct(text: string): DirectPlan | undefined;
}

export interface PlannedCopy {
  readonly action: CopyAction;
  /** Those that it copies from. */
  readonly shards: readonly number[];
  shardOf(family: KeyFamily, key: string): number | undefined;
  /** It writes a column that is unique over all shards. */
  readonly isUnique: boolean;
}

/** By the map and the schema as they are at the moment. */
export class CatalogPlanner implements ShardPlanner {
  readonly #reader: StatementReader;
  readonly #catalog: ShardCatalog;
  readonly #maxMergedRows: number | undefined;
  #router: ShardRouter | undefined;
  #explainer: Explainer | undefined;

  /** @param maxMergedRows default: 100000 */
  constructor(reader: StatementReader, catalog: ShardCatalog, maxMergedRows?: number) {
    this.#reader = reader;
    this.#catalog = catalog;
    this.#maxMergedRows = maxMergedRows;
  }

  execute(
    config: QueryConfig,
    lanes: Lanes,
    place?: Place,
  ): Promise<pg.QueryResult | pg.QueryResult[]> {
    const router = this.#ready;
    const text = typeof config === 'string' ? config : config.text;
    if (isExplain(text) && this.#catalog.placement.shards > 1) {
      const explain = readExplain(text, given => this.#reader.parse(given));
      if (explain) return this.#explainer!.explain(explain, config, lanes, place);
    }
    return router.execute(config, lanes);
  }

  onlyShard(text: string, values: readonly unknown[] | undefined): number | undefined {
    const { action } = this.#ready.plan(text);
    return 'target' in action && action.kind !== 'copy out'
      ? this.#one(action.target, values)
      : undefined;
  }

  open(config: pg.QueryConfig, lanes: Lanes): Promise<RowSource> {
    return this.#ready.open(config, lanes);
  }

  async copy(text: string): Promise<PlannedCopy | undefined> {
    const { action } = await this.#ready.settledPlan(text);
    if (action.kind !== 'copy in' && action.kind !== 'copy out') return undefined;
    const { placement } = this.#catalog;
    const all = Array.from({ length: placement.shards }, (_, i) => i);
    const owners =
      action.kind === 'copy out' && action.target.kind === 'keys'
        ? ownersOf(action.target.parts, [], placement)
        : undefined;
    return {
      action,
      shards: owners ?? all,
      shardOf: (family, key) => placement.shardOf(family, key),
      isUnique: false,
    };
  }

  direct(text: string): DirectPlan | undefined {
    return isExplain(text) ? undefined : directPlan(this.#ready.plan(text));
  }

  /** Made when parser and catalog are there. */
  get #ready(): ShardRouter {
    if (this.#router) return this.#router;
    const placement = () => this.#catalog.placement;
    this.#router = new ShardRouter({
      parser: this.#reader.parser,
      catalog: () => this.#reader.catalog,
      placement,
      refresh: () => this.#catalog.refresh(),
      ...(this.#maxMergedRows === undefined ? {} : { maxMergedRows: this.#maxMergedRows }),
    });
    this.#explainer = new Explainer({
      router: this.#router,
      reader: this.#reader,
      placement,
      names: () => this.#catalog.shardIds,
    });
    return this.#router;
  }

  #one(target: Target, values: readonly unknown[] | undefined): number | undefined {
    const { placement } = this.#catalog;
    if (target.kind === 'first' || target.kind === 'any') return 0;
    if (target.kind === 'shard') return target.shard;
    if (target.kind === 'all') return placement.shards === 1 ? 0 : undefined;
    const owners = new Set<number>();
    for (const pins of target.parts) {
      const sets = pins.flatMap(pin => shardsOf(pin, [...(values ?? [])], placement) ?? []);
      // All pins of a part hold, so the fewest shards that one leaves are enough.
      const fewest = sets.sort((one, other) => one.size - other.size)[0];
      if (!fewest) return undefined;
      for (const shard of fewest) owners.add(shard);
    }
    return owners.size === 1 ? [...owners][0] : undefined;
  }
}
