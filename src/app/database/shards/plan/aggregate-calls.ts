/** Which aggregates can be combined of partial results, and what is read of their calls. Pure. */
import type { FuncCall, Node } from 'libpg-query';
import { namesOf, stringOf, walk } from './tree.ts';

/** Combined by themselves: the least of the least is the least. */
const SAME = new Set([
  'min',
  'max',
  'bool_and',
  'bool_or',
  'every',
  'bit_and',
  'bit_or',
  'bit_xor',
]);
/** Those that may be asked of distinct values, which are sent once from each shard. */
const OF_DISTINCT = new Set([...SAME, 'count', 'sum', 'avg']);

export function isCombinable(call: FuncCall): boolean {
  const name = functionName(call);
  if (name === undefined || call.agg_order || call.agg_within_group || call.func_variadic)
    return false;
  if (call.agg_distinct)
    return OF_DISTINCT.has(name) && !call.agg_filter && call.args?.length === 1;
  return name === 'count' || name === 'sum' || name === 'avg' || SAME.has(name);
}

/** Of a function of PostgreSQL's own; undefined for one of another schema. */
export function functionName(call: FuncCall): string | undefined {
  const names = namesOf(call.funcname);
  if (names?.length === 1) return names[0];
  return names?.length === 2 && names[0] === 'pg_catalog'
    ? stringOf(call.funcname?.at(-1))
    : undefined;
}

export function hasColumn(tree: unknown): boolean {
  let found = false;
  walk(tree, type => {
    if (type === 'ColumnRef') found = true;
    return !found;
  });
  return found;
}

/** The parts of SQL/JSON aggregates, whose syntax has to stay. */
export function isJson(type: string): boolean {
  return type.startsWith('Json');
}

export function emptyGroup(): Node {
  return { GroupingSet: { kind: 'GROUPING_SET_EMPTY' } };
}
