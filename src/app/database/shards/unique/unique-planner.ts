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
import { hasCode } from '../../../../errors.ts';
import type { QueryConfig } from '../../statement.ts';
import type { DirectPlan } from '../direct.ts';
import type { LaneStatement, Lanes } from '../lanes.ts';
import type { ShardPlanner } from '../planner.ts';
import type { ShardedTransaction } from '../sharded-transaction.ts';
import type { StatementReader } from '../statement-reader.ts';
import type { UniqueKeeper } from './keeper.ts';
import { conflictOf, type Equality, equalityOf } from './statement.ts';

const UNIQUE_VIOLATION = '23505';
const SAVEPOINT = 'banyan_unique';
const MAX_TEXTS = 5_000;

interface Concern {
  readonly keeper: UniqueKeeper;
  readonly equality: Equality | undefined;
  readonly writes: boolean;
  /** A row whose value is taken is not inserted, which is no error. */
  readonly skips: boolean;
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
    return this.#inner.onlyShard(text, values);
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
    const { keeper, skips } = concern;
    if (skips) await transaction.savepoint(SAVEPOINT);
    const result = await this.#place(config, transaction, concern);
    try {
      await keeper.settle(transaction);
    } catch (error) {
      if (!skips || !hasCode(error, UNIQUE_VIOLATION)) throw error;
      await transaction.rollBackTo(SAVEPOINT);
      return Object.assign(result, { rows: [], rowCount: 0 });
    }
    if (skips) await transaction.release(SAVEPOINT);
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
    const skips = isOne && conflictOf(only, columns) === 'skip';
    const known = columns.filter(({ isFilling }) => !isFilling);
    const equality = isOne ? equalityOf(only, known) : undefined;
    if (!writes && !equality) return undefined;
    return { keeper, equality, writes, skips, isExplained, wantsWrite: facts.access !== 'read' };
  }
}

function valueIn({ value }: Equality, values: unknown[] | undefined): unknown {
  return 'constant' in value ? value.constant : values?.[value.parameter - 1];
}
