/**
 * Which columns are equal to which others, and to which values, in the rows that a level of a query keeps.
 *
 * Holds true here: an equality is taken in only when it means that the hashes are equal: both sides are of one
 * family, and of a collation in which equal means the same bytes. It is a conjunct, so that rows without it are
 * not kept. So two columns of one class lead to the same shard.
 */
import type { Node } from 'libpg-query';
import type { KeyFamily } from './placement.ts';
import { conjunctsOf, namesOf, stringOf } from './tree.ts';
import { castFamily, type ValueSource, valueSource, valueSources } from './values.ts';

/** A column of one row variable of the statement; what passes through a subquery stays the same column. */
export interface Column {
  readonly id: number;
  readonly name: string;
  /** Undefined: equality says nothing about its hash. */
  readonly family: KeyFamily | undefined;
}

/** Finds the column that a name means; undefined when that is not known. */
export type Resolve = (fields: Node[] | undefined) => Column | undefined;

interface Values {
  readonly column: Column;
  readonly sources: readonly ValueSource[];
}

export class Equalities {
  static readonly NONE = new Equalities([], []);
  readonly #pairs: readonly (readonly [Column, Column])[];
  readonly #values: readonly Values[];
  #roots: Map<number | string, number | string> | undefined;

  private constructor(pairs: readonly (readonly [Column, Column])[], values: readonly Values[]) {
    this.#pairs = pairs;
    this.#values = values;
  }

  /** With those of further conjuncts. */
  and(conditions: readonly Node[], resolve: Resolve): Equalities {
    const pairs = [...this.#pairs];
    const values = [...this.#values];
    for (const condition of conditions) take(condition, resolve, pairs, values);
    return new Equalities(pairs, values);
  }

  andPairs(more: readonly (readonly [Column, Column])[]): Equalities {
    const known = more.filter(([a, b]) => a.family && a.family === b.family);
    return known.length ? new Equalities([...this.#pairs, ...known], this.#values) : this;
  }

  with(other: Equalities): Equalities {
    if (other.#pairs.length + other.#values.length === 0) return this;
    return new Equalities([...this.#pairs, ...other.#pairs], [...this.#values, ...other.#values]);
  }

  same(a: Column, b: Column): boolean {
    return a.id === b.id || this.#root(a.id) === this.#root(b.id);
  }

  /** Single values that the column is equal to. */
  valuesOf(column: Column): ValueSource[] {
    return this.setsOf(column).flatMap(sources =>
      sources.length === 1 && sources[0]!.kind !== 'elements' ? sources[0]! : [],
    );
  }

  /** Each a set of values, one of which the column has. */
  setsOf(column: Column): (readonly ValueSource[])[] {
    return this.#values
      .filter(({ column: other }) => this.same(column, other))
      .map(({ sources }) => sources);
  }

  #root(id: number | string): number | string {
    this.#roots ??= this.#unite();
    let root = id;
    for (;;) {
      const above = this.#roots.get(root);
      if (above === undefined || above === root) return root;
      root = above;
    }
  }

  #unite(): Map<number | string, number | string> {
    const roots = new Map<number | string, number | string>();
    const find = (id: number | string): number | string => {
      const above = roots.get(id);
      return above === undefined || above === id ? id : find(above);
    };
    const unite = (a: number | string, b: number | string) => roots.set(find(a), find(b));
    for (const [a, b] of this.#pairs) unite(a.id, b.id);
    // Two columns that are equal to the same value are equal to each other.
    for (const { column, sources } of this.#values) {
      const [source] = sources;
      if (sources.length === 1 && source && source.kind !== 'elements') {
        unite(column.id, `${column.family} ${source.id}`);
      }
    }
    return roots;
  }
}

function take(
  node: Node,
  resolve: Resolve,
  pairs: (readonly [Column, Column])[],
  values: Values[],
): void {
  if ('BoolExpr' in node && node.BoolExpr.boolop === 'OR_EXPR') {
    const either = alternatives(node.BoolExpr.args ?? [], resolve);
    if (either) values.push(either);
    return;
  }
  if (!('A_Expr' in node)) return;
  const { kind, name, lexpr, rexpr } = node.A_Expr;
  if (!isEquals(name)) return;
  if (kind === 'AEXPR_OP') {
    if (lexpr && 'RowExpr' in lexpr && rexpr && 'RowExpr' in rexpr) {
      const others = rexpr.RowExpr.args ?? [];
      for (const [i, item] of (lexpr.RowExpr.args ?? []).entries()) {
        equal(item, others[i], resolve, pairs, values);
      }
    } else equal(lexpr, rexpr, resolve, pairs, values);
  } else if (kind === 'AEXPR_IN' || kind === 'AEXPR_OP_ANY') {
    const column = columnOf(lexpr, resolve);
    const sources = valueSources(rexpr);
    if (column?.family && sources && fit(sources, column)) values.push({ column, sources });
  }
}

function equal(
  left: Node | undefined,
  right: Node | undefined,
  resolve: Resolve,
  pairs: (readonly [Column, Column])[],
  values: Values[],
): void {
  const [a, b] = [columnOf(left, resolve), columnOf(right, resolve)];
  if (a && b) {
    if (a.family && a.family === b.family) pairs.push([a, b]);
    return;
  }
  const column = a ?? b;
  const source = valueSource(a ? right : left);
  if (column?.family && source && fit([source], column)) values.push({ column, sources: [source] });
}

/** `k = 1 or k in (2, 3)`. */
function alternatives(nodes: Node[], resolve: Resolve): Values | undefined {
  const found: Values[] = [];
  for (const node of nodes) {
    const values: Values[] = [];
    for (const conjunct of conjunctsOf(node)) take(conjunct, resolve, [], values);
    const same = values.find(({ column }) => !found[0] || column.id === found[0].column.id);
    if (!same) return undefined;
    found.push(same);
  }
  const [first] = found;
  return first && { column: first.column, sources: found.flatMap(({ sources }) => sources) };
}

function fit(sources: readonly ValueSource[], { family }: Column): boolean {
  return sources.every(source => source.family === undefined || source.family === family);
}

/** A column by itself, or with a cast that leaves its value as it is. */
export function columnOf(node: Node | undefined, resolve: Resolve): Column | undefined {
  if (!node) return undefined;
  if ('ColumnRef' in node) return resolve(node.ColumnRef.fields);
  if ('TypeCast' in node) {
    const column = columnOf(node.TypeCast.arg, resolve);
    return column?.family && column.family === castFamily(node.TypeCast.typeName)
      ? column
      : undefined;
  }
  return undefined;
}

export function isEquals(names: Node[] | undefined): boolean {
  if (stringOf(names?.at(-1)) !== '=') return false;
  const parts = namesOf(names);
  return parts?.length === 1 || parts?.[0] === 'pg_catalog';
}
