/**
 * The seam between the planner and the pool: what a plan's execution asks of connections.
 *
 * Holds true here: the planner chooses shards and texts, and knows no connection; the pool chooses
 * connections, and knows no plan. A *lane* is where an execution sends its statements to one shard: a pool's
 * connection for one statement, or the client on which a transaction is open there.
 */
import type pg from 'pg';

export interface LaneStatement {
  readonly text: string;
  readonly values?: unknown[];
  readonly rowMode?: 'array';
  readonly types?: pg.CustomTypesConfig;
  readonly name?: string;
}

/** The one shard key that a statement is about: what tells hot keys. */
export interface LaneKey {
  /** `integer`, `text`, `uuid`: keys of one family with the same text are the same key. */
  readonly family: string;
  readonly text: string;
}

export interface LaneOptions {
  /** It goes to the primary and, in a transaction, makes the shard a writer. */
  readonly wantsWrite: boolean;
  /** When it fires, the answer is not needed any more: another shard has failed. */
  readonly signal?: AbortSignal;
  /** Undefined for a statement about several, or about none. */
  readonly key?: LaneKey | undefined;
  /** It asks for what the execution has to know (types, collations), and is no part of what the statement does. */
  readonly isAside?: boolean;
}

/** Where an execution sends its statements: pools' connections, or the clients of the open transaction. */
export interface Lanes {
  /** How many shards there are. */
  readonly count: number;
  /** Statements of one lane are in order, those of several are parallel. */
  readonly inTransaction: boolean;
  /**
   * @param shard index into the map's shards
   * @param statement sent as it is; a text of several statements gives an array of results, as in pg
   */
  query(
    shard: number,
    statement: LaneStatement,
    options: LaneOptions,
  ): Promise<pg.QueryResult<never>>;
  /**
   * For what writes to several shards, or depends on several statements: all of it is kept, or nothing.
   * Outside of a transaction it opens one over whatever lanes `run` uses, and commits it (in two phases when
   * several wrote) or rolls it back when `run` throws; within one it only runs.
   */
  atomically<T>(run: (lanes: Lanes) => Promise<T>): Promise<T>;
}
