/**
 * What a query reads: its tables, and for each the values that it is fixed to. Pure.
 *
 * Holds true here:
 * - Every table that is named anywhere is there. One that is named twice is there twice, each time with what fixes it there.
 * - A table is *fixed* to values of a column when a row with another value could not make a difference to the result: a
 *   conjunct of WHERE, or of the ON of a join that drops its other rows, says `column = value` or `column in (values)`.
 *   (ON of an outer join drops rows of its nullable side alone.)
 * - It *shows its keys* when each of its rows that took part stands in the result with its key's value: then a row that ceases to match is
 *   known by its key. (Not on the optional side of an outer join: `where t.id is null` shows what has no such row.)
 */
import type { ColumnRef, JoinExpr, Node, RangeVar, SelectStmt } from 'libpg-query';
import { isEquals } from '../../database/shards/plan/equalities.ts';
import { conjunctsOf, namesOf, nodeOf, stringOf } from '../../database/shards/plan/tree.ts';
import { type ValueSource, valueSource, valueSources } from '../../database/shards/plan/values.ts';

/** A column is one of these. */
export interface FixedColumn {
  readonly column: string;
  readonly sources: readonly ValueSource[];
}

/** Where a column stands in the result. */
export interface ShownColumn {
  readonly column: string;
  readonly name: string;
  /** Undefined behind a `*`: then by its name. */
  readonly index: number | undefined;
}

export interface TableRead {
  /** As written. */
  readonly schema: string | undefined;
  readonly name: string;
  readonly fixed: readonly FixedColumn[];
  /** Columns that are in the result for each of its rows that took part; `*` for all. */
  readonly shown: readonly ShownColumn[] | '*';
}

export interface QueryReads {
  readonly tables: readonly TableRead[];
  /** Names of functions and operators that it uses. */
  readonly functions: ReadonlySet<string>;
  readonly operators: ReadonlySet<string>;
}

/** Names of the CTEs that can be seen. */
type Scope = ReadonlySet<string>;

interface Item {
  readonly relation: RangeVar;
  readonly conditions: readonly Node[];
  /** On the side of an outer join that may be empty: there a row may also keep others out of the result. */
  readonly isOptional: boolean;
}

export function readsOf(statements: readonly Node[]): QueryReads {
  const reader = new Reader();
  for (const statement of statements) {
    if ('SelectStmt' in statement) {
      reader.select(statement.SelectStmt, new Set(), statements.length === 1);
    } else reader.visit(statement, new Set());
  }
  return reader;
}

class Reader implements QueryReads {
  readonly tables: TableRead[] = [];
  readonly functions = new Set<string>();
  readonly operators = new Set<string>();

  visit(tree: unknown, scope: Scope): void {
    if (Array.isArray(tree)) {
      for (const item of tree) this.visit(item, scope);
      return;
    }
    if (typeof tree !== 'object' || tree === null) return;
    const [type, fields] = nodeOf(tree);
    if (type === 'SelectStmt') {
      this.select(fields as SelectStmt, scope, false);
      return;
    }
    if (type === 'RangeVar') {
      this.#table(fields as RangeVar, scope, [], []);
      return;
    }
    if (type === 'FuncCall') {
      const name = stringOf((fields.funcname as Node[] | undefined)?.at(-1));
      if (name !== undefined) this.functions.add(name);
    }
    if (type === 'A_Expr' || type === 'SubLink' || type === 'SortBy') {
      for (const names of [fields.name, fields.operName, fields.useOp]) {
        const name = Array.isArray(names) ? stringOf(names.at(-1)) : undefined;
        if (name !== undefined) this.operators.add(name);
      }
    }
    const { withClause, ...rest } = fields;
    const inner = withClause
      ? this.#commonTables(withClause as SelectStmt['withClause'], scope)
      : scope;
    // Fields that hold a node without its type: a target of INSERT, a relation of COPY.
    for (const [name, value] of Object.entries(rest)) {
      if (
        name === 'relation' &&
        typeof value === 'object' &&
        value !== null &&
        !('RangeVar' in value)
      ) {
        this.#table(value as RangeVar, inner, [], []);
      } else this.visit(value, inner);
    }
  }

  /** @param isWhole its result is the statement's */
  select(query: SelectStmt, outer: Scope, isWhole: boolean): void {
    const { withClause, fromClause, larg, rarg, ...rest } = query;
    const scope = this.#commonTables(withClause, outer);
    if (larg) this.select(larg, scope, false);
    if (rarg) this.select(rarg, scope, false);
    const items: Item[] = [];
    let others = 0;
    const from = (node: Node, conditions: readonly Node[], isOptional: boolean): void => {
      if ('RangeVar' in node) {
        items.push({ relation: node.RangeVar, conditions, isOptional });
      } else if ('JoinExpr' in node) {
        const join = node.JoinExpr as JoinExpr;
        const on = conjunctsOf(join.quals);
        this.visit(join.quals, scope);
        const { jointype } = join;
        const dropsLeft = jointype === 'JOIN_INNER' || jointype === 'JOIN_RIGHT';
        const dropsRight = jointype === 'JOIN_INNER' || jointype === 'JOIN_LEFT';
        const side = (of: Node | undefined, drops: boolean, keeps: boolean) => {
          if (of) from(of, drops ? [...conditions, ...on] : conditions, isOptional || !keeps);
        };
        side(join.larg, dropsLeft, jointype === 'JOIN_INNER' || jointype === 'JOIN_LEFT');
        side(join.rarg, dropsRight, jointype === 'JOIN_INNER' || jointype === 'JOIN_RIGHT');
        // Names within are hidden behind its own.
        if (join.alias) others++;
      } else {
        others++;
        this.visit(node, scope);
      }
    };
    for (const node of fromClause ?? []) from(node, conjunctsOf(query.whereClause), false);
    const isAlone = items.length === 1 && others === 0;
    for (const { relation, conditions, isOptional } of items) {
      const columnOf = (ref: Node | undefined) => resolve(ref, relation, isAlone);
      const fixed = conditions.flatMap(condition => fixedBy(condition, columnOf) ?? []);
      const shows = isWhole && !isOptional && showsRows(query);
      const shown = shows ? shownOf(query, columnOf, relation, isAlone) : [];
      this.#table(relation, scope, fixed, shown);
    }
    this.visit(rest, scope);
  }

  #commonTables(clause: SelectStmt['withClause'], outer: Scope): Scope {
    if (!clause?.ctes) return outer;
    const scope = new Set(outer);
    const tables = clause.ctes.flatMap(node =>
      'CommonTableExpr' in node ? node.CommonTableExpr : [],
    );
    if (clause.recursive) for (const { ctename } of tables) scope.add(ctename ?? '');
    for (const table of tables) {
      this.visit(table.ctequery, new Set(scope));
      scope.add(table.ctename ?? '');
    }
    return scope;
  }

  #table(
    { schemaname, relname = '' }: RangeVar,
    scope: Scope,
    fixed: readonly FixedColumn[],
    shown: TableRead['shown'],
  ): void {
    if (schemaname === undefined && scope.has(relname)) return;
    this.tables.push({ schema: schemaname, name: relname, fixed, shown });
  }
}

/** The column of this very table that a reference means; undefined when that is not certain. */
function resolve(
  node: Node | undefined,
  { schemaname, relname, alias }: RangeVar,
  isAlone: boolean,
): string | undefined {
  if (!node || !('ColumnRef' in node) || alias?.colnames?.length) return undefined;
  const names = namesOf((node.ColumnRef as ColumnRef).fields);
  if (!names) return undefined;
  const [column, table, schema, ...more] = [...names].reverse();
  if (more.length > 0) return undefined;
  if (table === undefined) return isAlone ? column : undefined;
  if (schema !== undefined) {
    return !alias && schema === schemaname && table === relname ? column : undefined;
  }
  return table === (alias?.aliasname ?? relname) ? column : undefined;
}

function fixedBy(
  node: Node,
  columnOf: (ref: Node | undefined) => string | undefined,
): FixedColumn | undefined {
  if (!('A_Expr' in node)) return undefined;
  const { kind, name, lexpr, rexpr } = node.A_Expr;
  if (!isEquals(name)) return undefined;
  if (kind === 'AEXPR_OP') {
    const left = columnOf(lexpr);
    const column = left ?? columnOf(rexpr);
    const source =
      column === undefined ? undefined : valueSource(left === undefined ? lexpr : rexpr);
    return column !== undefined && source ? { column, sources: [source] } : undefined;
  }
  if (kind !== 'AEXPR_IN' && kind !== 'AEXPR_OP_ANY') return undefined;
  const column = columnOf(lexpr);
  const sources = column === undefined ? undefined : valueSources(rexpr);
  return column !== undefined && sources ? { column, sources } : undefined;
}

/**
 * Each row that takes part stands in the result, or could leave without a trace in it: no groups, nothing counted, nothing
 * skipped. (A row behind a LIMIT leaves without a trace; one before an OFFSET does not.)
 */
function showsRows(query: SelectStmt): boolean {
  const { op, groupClause, havingClause, distinctClause, limitOffset, windowClause, valuesLists } =
    query;
  if (op !== undefined && op !== 'SETOP_NONE') return false;
  if (groupClause?.length || havingClause || distinctClause?.length) return false;
  if (limitOffset || windowClause?.length || valuesLists?.length) return false;
  return !JSON.stringify([query.targetList, query.sortClause]).includes('"over":');
}

function shownOf(
  query: SelectStmt,
  columnOf: (ref: Node | undefined) => string | undefined,
  { relname, alias }: RangeVar,
  isAlone: boolean,
): TableRead['shown'] {
  const shown: ShownColumn[] = [];
  let isBehindStar = false;
  for (const [i, node] of (query.targetList ?? []).entries()) {
    if (!('ResTarget' in node)) continue;
    const { name, val } = node.ResTarget;
    if (val && 'ColumnRef' in val && val.ColumnRef.fields?.some(field => 'A_Star' in field)) {
      const table = stringOf(val.ColumnRef.fields.at(-2));
      if (alias?.colnames?.length) return [];
      if (table === undefined ? isAlone : table === (alias?.aliasname ?? relname)) return '*';
      isBehindStar = true;
      continue;
    }
    const column = columnOf(val);
    if (column === undefined) continue;
    shown.push({ column, name: name ?? column, index: isBehindStar ? undefined : i });
  }
  return shown;
}
