/**
 * Which value of a unique column a statement asks for. Pure: from the tree of its text.
 */
import type { A_Expr, ColumnRef, Node, RangeVar } from 'libpg-query';
import type { UniqueColumn } from './columns.ts';

/** A value in a statement. */
export type ValueSource = { readonly parameter: number } | { readonly constant: string };

export interface Equality {
  readonly column: UniqueColumn;
  readonly value: ValueSource;
}

/**
 * The unique value that all rows of a statement have, when it is about one table alone.
 * @returns undefined when there is none, or when the shard key is given, which says more
 */
export function equalityOf(node: Node, columns: readonly UniqueColumn[]): Equality | undefined {
  const parts = partsOf(node);
  if (!parts?.where || hasSubquery(node)) return undefined;
  const { table, where } = parts;
  const own = columns.filter(column => isTable(table, column));
  if (own.length === 0) return undefined;
  const names = table.alias?.aliasname ?? table.relname;
  let found: Equality | undefined;
  for (const condition of conjunctsOf(where)) {
    const equal = equalOf(condition);
    if (!equal) continue;
    const fields = equal.column.fields?.map(field =>
      'String' in field ? field.String.sval : undefined,
    );
    const name = fields?.at(-1);
    if (!fields || (fields.length === 2 && fields[0] !== names) || fields.length > 2) continue;
    if (own.some(({ key }) => key === name)) return undefined;
    const column = own.find(one => one.column === name);
    if (column && !found) found = { column, value: equal.value };
  }
  return found;
}

function partsOf(node: Node): { table: RangeVar; where: Node | undefined } | undefined {
  if ('SelectStmt' in node) {
    const { fromClause = [], whereClause, withClause, op = 'SETOP_NONE' } = node.SelectStmt;
    const [only] = fromClause;
    if (op !== 'SETOP_NONE' || withClause || fromClause.length !== 1) return undefined;
    if (!only || !('RangeVar' in only)) return undefined;
    return { table: only.RangeVar, where: whereClause };
  }
  if ('UpdateStmt' in node) {
    const { relation, whereClause, fromClause, withClause } = node.UpdateStmt;
    if (!relation || fromClause?.length || withClause) return undefined;
    return { table: relation, where: whereClause };
  }
  if ('DeleteStmt' in node) {
    const { relation, whereClause, usingClause, withClause } = node.DeleteStmt;
    if (!relation || usingClause?.length || withClause) return undefined;
    return { table: relation, where: whereClause };
  }
  return undefined;
}

export function isTable({ schemaname, relname }: RangeVar, column: UniqueColumn): boolean {
  return relname === column.table && (schemaname ?? column.schema) === column.schema;
}

function conjunctsOf(where: Node): Node[] {
  if ('BoolExpr' in where && where.BoolExpr.boolop === 'AND_EXPR') {
    return (where.BoolExpr.args ?? []).flatMap(conjunctsOf);
  }
  return [where];
}

function equalOf(node: Node): { column: ColumnRef; value: ValueSource } | undefined {
  if (!('A_Expr' in node)) return undefined;
  const { kind, name = [], lexpr, rexpr }: A_Expr = node.A_Expr;
  const [operator] = name;
  if (kind !== 'AEXPR_OP' || name.length !== 1 || !lexpr || !rexpr) return undefined;
  if (!operator || !('String' in operator) || operator.String.sval !== '=') return undefined;
  for (const [column, other] of [
    [lexpr, rexpr],
    [rexpr, lexpr],
  ] as const) {
    const value = sourceOf(other);
    if ('ColumnRef' in column && value) return { column: column.ColumnRef, value };
  }
  return undefined;
}

/** A parameter, or a constant without a type of its own, so that it has the column's. */
function sourceOf(node: Node): ValueSource | undefined {
  if ('ParamRef' in node) return { parameter: node.ParamRef.number ?? 0 };
  if (!('A_Const' in node)) return undefined;
  const { sval } = node.A_Const;
  return sval ? { constant: sval.sval ?? '' } : undefined;
}

function hasSubquery(node: unknown): boolean {
  if (typeof node !== 'object' || node === null) return false;
  if (Array.isArray(node)) return node.some(hasSubquery);
  return Object.entries(node).some(([key, value]) => key === 'SubLink' || hasSubquery(value));
}
