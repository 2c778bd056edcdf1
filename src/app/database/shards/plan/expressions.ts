/** What stands in the expressions of one level of a query: subqueries, aggregates, window functions. */
import type { FuncCall, Node, SelectStmt, SubLink, WindowDef } from 'libpg-query';
import { stringOf, walk } from './tree.ts';

/** All parts of a SELECT in which expressions stand, but for FROM. */
export function expressionsOf(select: SelectStmt): unknown[] {
  return [
    select.targetList,
    select.whereClause,
    select.groupClause,
    select.havingClause,
    select.windowClause,
    select.sortClause,
    select.distinctClause,
    select.limitCount,
    select.limitOffset,
    select.valuesLists,
  ];
}

/** The subqueries of this level, without those within them. */
export function subLinksOf(tree: unknown): SubLink[] {
  const found: SubLink[] = [];
  walk(tree, (type, fields) => {
    if (type !== 'SubLink') return true;
    found.push(fields as SubLink);
    found.push(...subLinksOf((fields as SubLink).testexpr));
    return false;
  });
  return found;
}

/** Aggregates by syntax alone. */
const AGGREGATE_NODES = new Set(['JsonObjectAgg', 'JsonArrayAgg', 'GroupingFunc']);

export type IsAggregate = (name: string) => boolean;

export function isAggregateCall(
  type: string | undefined,
  fields: Record<string, unknown>,
  isAggregate: IsAggregate,
): boolean {
  if (type !== undefined && AGGREGATE_NODES.has(type)) return true;
  if (type !== 'FuncCall') return false;
  const call = fields as FuncCall;
  if (call.over) return false;
  if (call.agg_star || call.agg_distinct || call.agg_order || call.agg_filter) return true;
  return call.agg_within_group === true || isAggregate(stringOf(call.funcname?.at(-1)) ?? '');
}

/** Whether an aggregate of this level stands in it. */
export function hasAggregate(tree: unknown, isAggregate: IsAggregate): boolean {
  let found = false;
  walk(tree, (type, fields) => {
    if (found || type === 'SubLink') return false;
    if (isAggregateCall(type, fields, isAggregate)) found = true;
    return !found;
  });
  return found;
}

/** The windows of the window functions of this level. */
export function windowsOf(tree: unknown): WindowDef[] {
  const found: WindowDef[] = [];
  walk(tree, (type, fields) => {
    if (type === 'SubLink') return false;
    if (type === 'FuncCall') {
      const { over } = fields as FuncCall;
      // `over w` names one.
      if (over) found.push(over);
    }
    return true;
  });
  return found;
}

/** Names of the functions that are called, at any depth. */
export function functionsOf(tree: unknown): string[] {
  const names: string[] = [];
  walk(tree, (type, fields) => {
    if (type === 'FuncCall') names.push(stringOf((fields as FuncCall).funcname?.at(-1)) ?? '');
  });
  return names;
}

export function subselectOf(node: Node | undefined): SelectStmt | undefined {
  return node && 'SelectStmt' in node ? node.SelectStmt : undefined;
}
