/**
 * What a statement has to do with unique columns: which value it asks for, and what it does about values that are
 * taken. Pure: from the tree of its text.
 */
import type { A_Expr, ColumnRef, InsertStmt, Node, RangeVar } from 'libpg-query';
import { BanyanError } from '../../../../errors.ts';
import type { UniqueColumn } from './columns.ts';

/** Nothing was sent. */
export class UniqueConflictRefused extends BanyanError {
  readonly sqlState = '0A000';

  constructor({ schema, table, column }: UniqueColumn, what: string) {
    super('UNIQUE_CONFLICT_REFUSED', {
      what: `${what}, while ${column} is unique across shards: whether a value is taken another shard may have to say`,
      where: `ON CONFLICT of an INSERT into ${schema}.${table}`,
      remedy: `Nothing was sent. Insert one row with ON CONFLICT DO NOTHING, or without it and take the error 23505; then update by ${column}`,
    });
  }
}

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

/**
 * What an INSERT does when a unique value is taken: `skip` for one row that then is not inserted.
 * @throws UniqueConflictRefused when it cannot be done right
 */
export function conflictOf(node: Node, columns: readonly UniqueColumn[]): 'raise' | 'skip' {
  if (!('InsertStmt' in node)) return 'raise';
  const { relation, onConflictClause } = node.InsertStmt;
  const own = columns.filter(column => relation && isTable(relation, column));
  if (!onConflictClause || own.length === 0) return 'raise';
  const { action, infer } = onConflictClause;
  const targets = infer?.indexElems?.map(element =>
    'IndexElem' in element ? element.IndexElem.name : undefined,
  );
  const column = infer
    ? own.find(one => targets?.includes(one.column) || infer.conname === one.constraint)
    : own[0];
  if (!column) return 'raise';
  if (action !== 'ONCONFLICT_NOTHING') {
    throw new UniqueConflictRefused(column, 'It updates the row that has the value');
  }
  if (rowsOf(node.InsertStmt) !== 1) {
    throw new UniqueConflictRefused(
      column,
      'It inserts the rows of several whose value is not taken',
    );
  }
  return 'skip';
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

function isTable({ schemaname, relname }: RangeVar, column: UniqueColumn): boolean {
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

/** Rows of VALUES; undefined for those of a query. */
function rowsOf({ selectStmt }: InsertStmt): number | undefined {
  // DEFAULT VALUES
  if (!selectStmt) return 1;
  return 'SelectStmt' in selectStmt ? selectStmt.SelectStmt.valuesLists?.length : undefined;
}

function hasSubquery(node: unknown): boolean {
  if (typeof node !== 'object' || node === null) return false;
  if (Array.isArray(node)) return node.some(hasSubquery);
  return Object.entries(node).some(([key, value]) => key === 'SubLink' || hasSubquery(value));
}
