/** Statements that are not about rows: of the session, the schema, the cluster. Pure. */
import type { Node } from 'libpg-query';
import type { Analysis } from './analysis.ts';
import type { Action } from './plan.ts';
import { ShardRefused } from './refused.ts';
import { walk } from './tree.ts';

export const FIRST: Action = { kind: 'whole', target: { kind: 'first' } };

/** Statements that are neither of rows nor of the schema: the session's, which the pool keeps on one shard. */
const SESSION = new Set([
  'TransactionStmt',
  'VariableSetStmt',
  'VariableShowStmt',
  'DiscardStmt',
  'ListenStmt',
  'NotifyStmt',
  'UnlistenStmt',
  'ExecuteStmt',
  'DeallocateStmt',
  'FetchStmt',
  'ClosePortalStmt',
  'ConstraintsSetStmt',
  'LoadStmt',
]);

/** They refuse to run in a transaction. */
const ALONE = new Set([
  'VacuumStmt',
  'ReindexStmt',
  'ClusterStmt',
  'CheckPointStmt',
  'AlterSystemStmt',
  'CreateSubscriptionStmt',
  'DropSubscriptionStmt',
]);

const OF_THE_CLUSTER = new Set([
  'CreatedbStmt',
  'DropdbStmt',
  'CreateTableSpaceStmt',
  'DropTableSpaceStmt',
  'AlterDatabaseStmt',
]);

export function planOther(statement: Node): Action {
  const [type = ''] = Object.keys(statement);
  if (SESSION.has(type)) return FIRST;
  if (OF_THE_CLUSTER.has(type)) {
    throw new ShardRefused(
      'The statement is about a whole cluster of databases, of which the shards are several',
      "Run it on each cluster by itself, with its administrator's connection",
    );
  }
  let isTemporary = false;
  let isConcurrent = false;
  walk(statement, (_type, fields) => {
    if (fields.relpersistence === 't' || fields.schemaname === 'pg_temp') isTemporary = true;
    if (fields.concurrent === true) isConcurrent = true;
    return _type !== 'SelectStmt';
  });
  if (isTemporary) return FIRST;
  return onAll(isConcurrent || ALONE.has(type));
}

export function onAll(isAlone: boolean): Action {
  return { kind: 'write', target: { kind: 'all' }, isCopied: true, isAlone };
}

/** What kinds of tables it names. */
export function tablesOf(tree: unknown, analysis: Analysis): string[] {
  const kinds: string[] = [];
  walk(tree, (_type, fields) => {
    if (typeof fields.relname !== 'string') return;
    kinds.push(analysis.table(fields.schemaname as string | undefined, fields.relname).kind);
  });
  return kinds;
}
