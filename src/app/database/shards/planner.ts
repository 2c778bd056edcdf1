/**
 * What pool and client ask of the planner of statements over shards (`shard-router.ts`).
 */
import type pg from 'pg';
import type { QueryConfig } from '../statement.ts';
import type { Lanes } from './lanes.ts';

export interface ShardPlanner {
  /**
   * Runs the statements of one text, which do nothing to session or transaction, on the shards where they belong.
   * @throws a refusal, when nothing was sent; what PostgreSQL says
   */
  execute(config: QueryConfig, lanes: Lanes): Promise<pg.QueryResult | pg.QueryResult[]>;
  /**
   * The one shard where all of a statement belongs; undefined when it is none, or several.
   * @throws a refusal
   */
  onlyShard(text: string, values: readonly unknown[] | undefined): number | undefined;
  close(): void;
}
