/**
 * The planner as pool and clients see it where columns are unique across shards: in front of the one that places
 * statements.
 *
 * Holds true here:
 * - A statement that writes a table with such columns is a transaction, with its claims; an error of theirs is one of
 *   the statement.
 * - A statement about one table by such a value runs on the one shard where the row is.
 * - All else passes by, for a look-up by its text.
 */
import { LRUCache } from 'lru-cache';
import type pg from 'pg';
import type { QueryConfig } from '../../statement.ts';
import type { DirectPlan } from '../direct.ts';
import type { LaneStatement, Lanes } from '../lanes.ts';
import type { PlannedCopy, ShardPlanner } from '../planner.ts';
import { ALL_AS_TEXT, type Result, type Results } from '../run.ts';
import type { ShardedTransaction } from '../sharded-transaction.ts';
import type { StatementReader } from '../statement-reader.ts';
import { wholeRows } from '../submitted/open-rows.ts';
import type { RowSource } from '../submitted/virtual-server.ts';
import { type Conflict, conflictOf } from './conflict.ts';
import type { UniqueKeeper } from './keeper.ts';
import { type Equality, equalityOf } from './statement.ts';
import { upsert } from './upsert.ts';

const MAX_TEXTS = 5_000;

interface Concern {
  readonly keeper: UniqueKeeper;
  readonly equality: Equality | undefined;
  readonly writes: boolean;
  /** Rows whose value is taken are left out, or updated. */
  readonly conflict: Conflict | undefined;
  readonly wantsWrite: boolean;
  /** It is an EXPLAIN of the statement. */
  readonly isExplained: boolean;
}

export class UniquePlanner implements ShardPlanner {
  readonly #inner: ShardPlanner;
  readonly #reader: StatementReader;
  readonly #keeper: () => UniqueKeeper | undefined;
  readonly #concerns = new LRUCache<string, Concern | { keeper: UniqueKeeper; equality?: never }>({
    max: MAX_TEXTS,
  });

  /** @param keeper of the map as it is at the moment; undefined: no column is unique across shards */
  constructor(
    inner: ShardPlanner,
    reader: StatementReader,
    keeper: () => UniqueKeeper | undefined,
  ) {
    this.#inner = inner;
    this.#reader = reader;
    this.#keeper = keeper;
  }

  async execute(config: QueryConfig, lanes: Lanes): Promise<pg.QueryResult | pg.QueryResult[]> {
    const text = typeof config === 'string' ? config : config.text;
    const concern = this.#concern(text);
    if (!concern) return this.#inner.execute(config, lanes);
    if (!concern.writes) return this.#place(config, lanes, concern);
    return lanes.atomically(on => this.#write(config, on as ShardedTransaction, concern));
  }

  onlyShard(text: string, values: readonly unknown[] | undefined): number | undefined {
    // What it writes has to be claimed after it.
    return this.#concern(text)?.writes ? undefined : this.#inner.onlyShard(text, values);
  }

  async open(config: pg.QueryConfig, lanes: Lanes): Promise<RowSource> {
    if (!this.#concern(config.text)) return this.#inner.open(config, lanes);
    const whole = { ...config, ...ALL_AS_TEXT } as pg.QueryConfig;
    return wholeRows((await this.execute(whole, lanes)) as Results);
  }

  async copy(text: string): Promise<PlannedCopy | undefined> {
    const planned = await this.#inner.copy(text);
    return planned && { ...planned, isUnique: this.#concern(text)?.writes ?? false };
  }

  direct(text: string): DirectPlan | undefined {
    return this.#concern(text) ? undefined : this.#inner.direct(text);
  }

  async #place(
    config: QueryConfig,
    lanes: Lanes,
    { keeper, equality, isExplained, wantsWrite }: Concern,
  ): Promise<pg.QueryResult | pg.QueryResult[]> {
    const statement = (typeof config === 'string' ? { text: config } : config) as LaneStatement;
    const value = equality && valueIn(equality, statement.values);
    // Of an object nobody knows here what pg makes of it.
    if (!equality || value === null || value === undefined || typeof value === 'object') {
      return this.#inner.execute(config, lanes);
    }
    const shard = await keeper.find(lanes, equality.column, value);
    if (shard === undefined) return this.#inner.execute(config, lanes);
    if (isExplained) {
      const { table, column } = equality.column;
      const why = `${table}.${column} is unique across shards: its lookup table says where the row is`;
      return this.#inner.execute(config, lanes, { shard, why });
    }
    return lanes.query(shard, statement, { wantsWrite });
  }

  async #write(
    config: QueryConfig,
    transaction: ShardedTransaction,
    concern: Concern,
  ): Promise<pg.QueryResult | pg.QueryResult[]> {
    const { keeper, conflict } = concern;
    const statement = (typeof config === 'string' ? { text: config } : config) as LaneStatement;
    const count = statement.values?.length ?? 0;
    // PostgreSQL says that there are too many parameters, or too few.
    if (conflict && conflict.parameters === count) {
      const run = async (one: LaneStatement) =>
        (await this.#inner.execute(one as pg.QueryConfig, transaction)) as Result;
      return upsert({ conflict, keeper, statement, transaction, run });
    }
    const result = await this.#place(config, transaction, concern);
    await keeper.settle(transaction);
    return result;
  }

  #concern(text: string): Concern | undefined {
    const keeper = this.#keeper();
    if (!keeper) return undefined;
    let known = this.#concerns.get(text);
    if (known?.keeper !== keeper) {
      known = this.#read(text, keeper) ?? { keeper };
      this.#concerns.set(text, known);
    }
    return 'writes' in known ? known : undefined;
  }

  /** @throws UniqueConflictRefused, UnusableUniqueColumn */
  #read(text: string, keeper: UniqueKeeper): Concern | undefined {
    const facts = this.#reader.facts(text);
    const { columns, unusable } = keeper;
    const wrong = unusable.find(({ schema, table }) =>
      facts.tables.some(({ schema: given = schema, name }) => given === schema && name === table),
    );
    if (wrong) throw wrong.error;
    const isAbout = facts.tables.some(({ name }) => columns.some(({ table }) => table === name));
    if (!isAbout) return undefined;
    const writes = keeper.concerns(facts);
    const [first, ...others] = this.#reader.parse(text) ?? [];
    const isExplained = first !== undefined && 'ExplainStmt' in first;
    const only = isExplained ? first.ExplainStmt.query : first;
    const isOne = only !== undefined && others.length === 0;
    const conflict =
      isOne && !isExplained ? conflictOf(only, columns, this.#reader.parser) : undefined;
    const known = columns.filter(({ isFilling }) => !isFilling);
    const equality = isOne ? equalityOf(only, known) : undefined;
    if (!writes && !equality) return undefined;
    return { keeper, equality, writes, conflict, isExplained, wantsWrite: facts.access !== 'read' };
  }
}

function valueIn({ value }: Equality, values: unknown[] | undefined): unknown {
  return 'constant' in value ? value.constant : values?.[value.parameter - 1];
}
