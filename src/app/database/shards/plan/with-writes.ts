/**
 * Writes within WITH: `with gone as (delete … returning *) select …`.
 *
 * Holds true here: each counts as a mention of the table that it writes, with the values that its key is known to
 * have, so that a statement is pinned only if its writes are.
 */
import type { InsertStmt, Node } from 'libpg-query';
import type { Analysis } from './analysis.ts';
import { Equalities } from './equalities.ts';
import { Level } from './level.ts';
import { qualified } from './placement.ts';
import type { Ctes } from './scope.ts';
import { type ValueSource, valueSource } from './values.ts';
import { asQuery } from './write-query.ts';

export function recordWrite(statement: Node, analysis: Analysis, ctes: Ctes): void {
  const relation =
    'InsertStmt' in statement
      ? statement.InsertStmt.relation
      : 'UpdateStmt' in statement
        ? statement.UpdateStmt.relation
        : 'DeleteStmt' in statement
          ? statement.DeleteStmt.relation
          : undefined;
  const table = analysis.table(relation?.schemaname, relation?.relname ?? '');
  const key = table.columns.find(({ name }) => name === table.key);
  if (table.kind !== 'sharded' || !key?.family) {
    // Each copy of a reference table is to be written, so no single shard will do.
    analysis.homeTables.add(qualified(table));
    return;
  }
  const mention = (values: readonly ValueSource[]) =>
    analysis.occurrences.push({ table, family: key.family!, values });
  if ('UpdateStmt' in statement || 'DeleteStmt' in statement) {
    const level = new Level(analysis, asQuery(statement, table.schema), undefined, ctes);
    level.settle(Equalities.NONE, []);
    const sets = 'UpdateStmt' in statement ? (statement.UpdateStmt.targetList ?? []) : [];
    if (sets.some(item => 'ResTarget' in item && item.ResTarget.name === table.key)) mention([]);
    return;
  }
  mention(
    'InsertStmt' in statement
      ? keysOf(statement.InsertStmt, table.key!, table, analysis, ctes)
      : [],
  );
}

/** The value that the key has in every row. */
function keysOf(
  insert: InsertStmt,
  key: string,
  table: { columns: readonly { name: string }[] },
  analysis: Analysis,
  ctes: Ctes,
): ValueSource[] {
  const { selectStmt, cols, onConflictClause } = insert;
  const setsKey = (onConflictClause?.targetList ?? []).some(
    item => 'ResTarget' in item && item.ResTarget.name === key,
  );
  if (setsKey || !selectStmt || !('SelectStmt' in selectStmt)) return [];
  const select = selectStmt.SelectStmt;
  new Level(analysis, select, undefined, ctes).settle(Equalities.NONE, []);
  const names = cols
    ? cols.map(node => ('ResTarget' in node ? node.ResTarget.name : undefined))
    : table.columns.map(({ name }) => name);
  const at = names.indexOf(key);
  const rows = select.valuesLists
    ? select.valuesLists.map(node => ('List' in node ? node.List.items?.[at] : undefined))
    : [plainTarget(select.targetList ?? [], at)];
  const sources = rows.map(valueSource);
  const [first] = sources;
  return first && sources.every(source => source?.id === first.id) ? [first] : [];
}

/** Undefined when a star before it makes its place uncertain. */
function plainTarget(targets: readonly Node[], at: number): Node | undefined {
  const before = targets.slice(0, at + 1);
  const isPlain = before.every(
    node =>
      'ResTarget' in node &&
      !(
        node.ResTarget.val &&
        'ColumnRef' in node.ResTarget.val &&
        (node.ResTarget.val.ColumnRef.fields ?? []).some(field => 'A_Star' in field)
      ),
  );
  const item = targets[at];
  return isPlain && item && 'ResTarget' in item ? item.ResTarget.val : undefined;
}
