/**
 * What to write, or to read, in the place of a join over shards: a copy of the other table's columns. Pure.
 *
 * It is for a join that names a row of a table by its whole primary key, which is its shard key: that is what
 * `denormalize` follows.
 */
import type { Node } from 'libpg-query';
import { type Column, columnOf, isEquals, type Resolve } from './equalities.ts';
import type { PlacedTable } from './placement.ts';
import type { Scope, Source } from './scope.ts';
import { walk } from './tree.ts';

interface Leaf {
  readonly table: PlacedTable;
  readonly key: Column;
  readonly columns: readonly Column[];
}

/** More of them in an error would hide what it says. */
const MOST_COLUMNS = 3;

/**
 * @param conditions of the join
 * @param used the expressions of the statement, for the columns that it needs
 * @returns completes "…, or …"; undefined when no copy would do
 */
export function copyAdvice(
  source: Source,
  conditions: readonly Node[],
  used: unknown,
  scope: Scope,
): string | undefined {
  const leaves = leavesOf(source, scope);
  for (const condition of conditions) {
    const pair = pairOf(condition, scope.resolve);
    if (!pair) continue;
    const [one, other] = pair;
    for (const [named, via] of [
      [one, other],
      [other, one],
    ] as const) {
      const from = leaves.find(({ key }) => key.id === named.id);
      const to = leaves.find(({ columns }) => columns.some(({ id }) => id === via.id));
      if (!from || !to || from === to || from.table.primaryKey.join() !== from.table.key) continue;
      const needed = columnsUsed(used, from, scope.resolve);
      if (needed.length === 0 || needed.length > MOST_COLUMNS) continue;
      return advice(from.table, to.table, via.name, needed);
    }
  }
  return undefined;
}

function advice(from: PlacedTable, to: PlacedTable, via: string, needed: string[]): string {
  const there = needed.map(column =>
    to.copies?.find(
      copy => copy.via === via && copy.from === `${from.schema}.${from.name}.${column}`,
    ),
  );
  if (there.every(copy => copy !== undefined)) {
    const names = there.map(({ column }) => `${short(to)}.${column}`).join(', ');
    return `read ${names}, which ${there.length === 1 ? 'is kept as a copy' : 'are kept as copies'}, and leave ${short(from)} out`;
  }
  const lines = needed.map(
    (column, at) =>
      `'${short(to)}.${there[at]?.column ?? `${from.name}_${column}`}': '${short(from)}.${column} via ${via}'`,
  );
  return `keep ${needed.length === 1 ? 'a copy' : 'copies'} of what is needed: \`denormalize: { ${lines.join(', ')} }\``;
}

function pairOf(condition: Node, resolve: Resolve): readonly [Column, Column] | undefined {
  if (!('A_Expr' in condition)) return undefined;
  const { kind, name, lexpr, rexpr } = condition.A_Expr;
  if (kind !== 'AEXPR_OP' || !isEquals(name)) return undefined;
  const [left, right] = [columnOf(lexpr, resolve), columnOf(rexpr, resolve)];
  return left && right ? [left, right] : undefined;
}

function leavesOf(source: Source, scope: Scope): Leaf[] {
  if (source.kind === 'join') {
    return [...leavesOf(source.left, scope), ...leavesOf(source.right, scope)];
  }
  if (source.kind !== 'table' || !source.key) return [];
  const { table, key } = source;
  return [{ table, key, columns: scope.beside(key) }];
}

function columnsUsed(used: unknown, { key, columns }: Leaf, resolve: Resolve): string[] {
  const names = new Set<string>();
  walk(used, (type, fields) => {
    if (type !== 'ColumnRef') return;
    const column = resolve((fields as { fields?: Node[] }).fields);
    if (column && column.id !== key.id && columns.some(({ id }) => id === column.id)) {
      names.add(column.name);
    }
  });
  return [...names];
}

function short({ schema, name }: PlacedTable): string {
  return schema === 'public' ? name : `${schema}.${name}`;
}
