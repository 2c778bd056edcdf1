/**
 * What a level of a query selects from: its tables, subqueries and joins, and which column a name means.
 *
 * Holds true here: a name is looked up as PostgreSQL does, nearest level first. Where the columns of an item are
 * not all known (a function, a table that the catalog does not have), a name that is not found is not known,
 * rather than looked for further out.
 */
import type { Node, RangeVar, SelectStmt } from 'libpg-query';
import type { Analysis } from './analysis.ts';
import type { Column } from './equalities.ts';
import { Level } from './level.ts';
import type { PlacedTable } from './placement.ts';
import { namesOf, stringOf, walk } from './tree.ts';

/** What WITH defines, as seen from a place. */
export interface Cte {
  readonly name: string;
  /** The CommonTableExpr. */
  readonly node: Node;
  readonly query: Node;
  readonly columnNames: readonly string[];
  /** What its own query sees. */
  readonly sees: Ctes;
  readonly parent: Scope | undefined;
  readonly isRecursive: boolean;
}
export type Ctes = ReadonlyMap<string, Cte>;

export type Source =
  | { readonly kind: 'table'; readonly table: PlacedTable; readonly key: Column | undefined }
  | {
      readonly kind: 'query';
      readonly level: Level;
      readonly isLateral: boolean;
      readonly name: string;
    }
  /** A function, or a CTE's reference to itself: alike on every shard. */
  | { readonly kind: 'rows'; readonly node: Node | undefined }
  /** A CTE that writes. */
  | { readonly kind: 'written'; readonly name: string }
  | {
      readonly kind: 'join';
      readonly type: 'inner' | 'left' | 'full';
      readonly left: Source;
      readonly right: Source;
      readonly on: readonly Node[];
      readonly pairs: readonly (readonly [Column, Column])[];
      /** How the join may be named in an error. */
      readonly sides: readonly [string, string];
    };

interface Item {
  readonly alias: string;
  readonly schema: string | undefined;
  readonly columns: readonly Column[];
  readonly isComplete: boolean;
}

/** A part of FROM: what it selects from, and the names that it gives. */
interface Part {
  readonly source: Source;
  readonly items: readonly Item[];
  /** What `*` stands for, in order. */
  readonly visible: readonly Column[];
  readonly isComplete: boolean;
  readonly label: string;
}

/** What a name means, and at which level that was decided. */
export type Found =
  | { readonly kind: 'column'; readonly column: Column; readonly at: Scope }
  | { readonly kind: 'row' | 'unknown'; readonly at: Scope };

const SYSTEM_COLUMNS = new Set(['ctid', 'tableoid', 'xmin', 'xmax', 'cmin', 'cmax']);

export class Scope {
  readonly parent: Scope | undefined;
  #part: Part | undefined;

  constructor(parent: Scope | undefined) {
    this.parent = parent;
  }

  set part(part: Part | undefined) {
    this.#part = part;
  }

  /** What `*` or `alias.*` stands for; undefined when that is not known. */
  star(alias?: string): readonly Column[] | undefined {
    const part = this.#part;
    if (!part) return undefined;
    if (alias === undefined) return part.isComplete ? part.visible : undefined;
    const item = part.items.find(({ alias: name }) => name === alias);
    return item?.isComplete ? item.columns : undefined;
  }

  /** All columns of the item that has this one. */
  beside(column: Column): readonly Column[] {
    const has = ({ columns }: Item) => columns.some(({ id }) => id === column.id);
    return this.#part?.items.find(has)?.columns ?? [];
  }

  find(fields: Node[] | undefined): Found {
    const names = namesOf(fields);
    return names ? this.#find(names) : { kind: 'unknown', at: this };
  }

  /** The column, if it is certain which it is. */
  readonly resolve = (fields: Node[] | undefined): Column | undefined => {
    const found = this.find(fields);
    return found.kind === 'column' ? found.column : undefined;
  };

  /** Whether an unqualified name is a column of this level; undefined when that is not known. */
  has(name: string): boolean | undefined {
    const part = this.#part;
    if (!part) return false;
    if (part.visible.some(column => column.name === name)) return true;
    return part.isComplete ? false : undefined;
  }

  #find(names: readonly string[]): Found {
    const part = this.#part;
    const above = (): Found =>
      this.parent ? this.parent.#find(names) : { kind: 'unknown', at: this };
    if (!part) return above();
    const name = names.at(-1)!;
    if (names.length === 1) {
      const matches = part.visible.filter(column => column.name === name);
      if (matches.length === 1) return { kind: 'column', column: matches[0]!, at: this };
      if (matches.length > 1 || !part.isComplete || SYSTEM_COLUMNS.has(name)) {
        return { kind: 'unknown', at: this };
      }
      return part.items.some(({ alias }) => alias === name) ? { kind: 'row', at: this } : above();
    }
    const [alias, schema] = [names.at(-2), names.at(-3)];
    const item = part.items.find(
      candidate => candidate.alias === alias && (!schema || candidate.schema === schema),
    );
    if (!item) return above();
    const column = item.columns.find(candidate => candidate.name === name);
    return column ? { kind: 'column', column, at: this } : { kind: 'unknown', at: this };
  }
}

/** Reads FROM. */
export function readFrom(
  nodes: readonly Node[],
  scope: Scope,
  ctes: Ctes,
  analysis: Analysis,
): Source | undefined {
  const reader = new FromReader(scope, ctes, analysis);
  return reader.read(nodes);
}

class FromReader {
  readonly #scope: Scope;
  readonly #ctes: Ctes;
  readonly #analysis: Analysis;
  /** What stands to the left, which a lateral part sees. */
  #before: Part | undefined;

  constructor(scope: Scope, ctes: Ctes, analysis: Analysis) {
    this.#scope = scope;
    this.#ctes = ctes;
    this.#analysis = analysis;
  }

  read(nodes: readonly Node[]): Source | undefined {
    for (const node of nodes) {
      const part = this.#part(node);
      this.#before = this.#before ? this.#join(this.#before, part, 'inner', [], []) : part;
      this.#scope.part = this.#before;
    }
    return this.#before?.source;
  }

  #part(node: Node): Part {
    if ('RangeVar' in node) return this.#table(node.RangeVar);
    if ('RangeSubselect' in node) {
      const { subquery, lateral = false, alias } = node.RangeSubselect;
      const select = subquery && 'SelectStmt' in subquery ? subquery.SelectStmt : {};
      const parent = lateral ? this.#scope : this.#scope.parent;
      const level = new Level(this.#analysis, select, parent, this.#ctes);
      const name = alias?.aliasname ?? 'a subquery';
      return this.#query(level, lateral, name, (alias?.colnames ?? []).map(stringOf));
    }
    if ('JoinExpr' in node) return this.#joinExpression(node.JoinExpr);
    if ('RangeTableSample' in node) return this.#part(node.RangeTableSample.relation ?? node);
    const alias =
      'RangeFunction' in node
        ? node.RangeFunction.alias
        : 'RangeTableFunc' in node
          ? node.RangeTableFunc.alias
          : 'JsonTable' in node
            ? node.JsonTable.alias
            : undefined;
    return this.#rows(node, alias?.aliasname);
  }

  /** A function and the like: what columns it has is not known. */
  #rows(node: Node | undefined, alias: string | undefined): Part {
    const name = alias ?? functionName(node) ?? '';
    return {
      source: { kind: 'rows', node },
      items: name ? [{ alias: name, schema: undefined, columns: [], isComplete: false }] : [],
      visible: [],
      isComplete: false,
      label: name || 'a function',
    };
  }

  #table(node: RangeVar): Part {
    const { schemaname, relname = '', alias } = node;
    const cte = schemaname === undefined ? this.#ctes.get(relname) : undefined;
    const name = alias?.aliasname ?? relname;
    const columnNames = (alias?.colnames ?? []).map(stringOf);
    if (cte) return this.#cte(cte, name, columnNames);
    const table = this.#analysis.table(schemaname, relname);
    if (table.kind === 'view') {
      const select = this.#analysis.view(table);
      if (select) {
        const level = new Level(this.#analysis, select, undefined, new Map());
        level.markView(node);
        return this.#query(level, false, name, columnNames, table.schema);
      }
      this.#analysis.refuse(
        `What the view ${name} reads could not be read from the catalog`,
        "Write the view's query into the statement",
      );
    }
    const columns = table.columns.map((column, i) =>
      this.#analysis.column(columnNames[i] ?? column.name, column.family),
    );
    const key = columns[table.columns.findIndex(column => column.name === table.key)];
    const isComplete = table.columns.length > 0;
    return {
      source: { kind: 'table', table, key },
      items: [{ alias: name, schema: alias ? undefined : table.schema, columns, isComplete }],
      visible: columns,
      isComplete,
      label: name,
    };
  }

  #cte(cte: Cte, name: string, columnNames: (string | undefined)[]): Part {
    if (cte.isRecursive && this.#analysis.isWithin(cte)) return this.#rows(undefined, name);
    if (!('SelectStmt' in cte.query)) {
      const part = this.#rows(undefined, name);
      return { ...part, source: { kind: 'written', name: cte.name } };
    }
    const { query } = cte;
    // Each reference is a row variable of its own.
    return this.#analysis.within(cte, () => {
      const level = new Level(this.#analysis, query.SelectStmt, cte.parent, cte.sees);
      if (cte.isRecursive && mentions(query, cte.name)) level.markRecursive(cte.name);
      const names = [...columnNames, ...cte.columnNames.slice(columnNames.length)];
      return this.#query(level, false, name, names);
    });
  }

  #query(
    level: Level,
    isLateral: boolean,
    name: string,
    columnNames: readonly (string | undefined)[],
    schema?: string,
  ): Part {
    const columns = (level.outputs ?? []).map((column, i) => {
      const given = columnNames[i];
      return given === undefined ? column : { ...column, name: given };
    });
    const isComplete = level.outputs !== undefined;
    return {
      source: { kind: 'query', level, isLateral, name },
      items: [{ alias: name, schema, columns, isComplete }],
      visible: columns,
      isComplete,
      label: name,
    };
  }

  #joinExpression(join: Extract<Node, { JoinExpr: unknown }>['JoinExpr']): Part {
    const left = this.#part(join.larg!);
    const before = this.#before;
    this.#before = before ? this.#join(before, left, 'inner', [], []) : left;
    this.#scope.part = this.#before;
    const right = this.#part(join.rarg!);
    this.#before = before;
    const type =
      join.jointype === 'JOIN_FULL'
        ? 'full'
        : join.jointype === 'JOIN_LEFT' || join.jointype === 'JOIN_RIGHT'
          ? 'left'
          : 'inner';
    const isRight = join.jointype === 'JOIN_RIGHT';
    const using = join.isNatural
      ? this.#common(left, right)
      : (join.usingClause ?? []).map(node => stringOf(node) ?? '');
    const part = this.#join(left, right, type, join.quals ? [join.quals] : [], using, isRight);
    const { alias } = join;
    if (!alias?.aliasname) return part;
    const columns = part.visible.map((column, i) => {
      const given = stringOf(alias.colnames?.[i]);
      return given === undefined ? column : { ...column, name: given };
    });
    return {
      ...part,
      items: [{ alias: alias.aliasname, schema: undefined, columns, isComplete: part.isComplete }],
      visible: columns,
    };
  }

  #common(left: Part, right: Part): string[] {
    if (!left.isComplete || !right.isComplete) {
      this.#analysis.refuse(
        `The NATURAL JOIN of ${left.label} and ${right.label} compares columns that are not all known`,
        'Name the columns: JOIN … USING (…)',
      );
    }
    const names = new Set(right.visible.map(({ name }) => name));
    return left.visible.map(({ name }) => name).filter(name => names.has(name));
  }

  #join(
    left: Part,
    right: Part,
    type: 'inner' | 'left' | 'full',
    on: readonly Node[],
    using: readonly string[],
    isRight = false,
  ): Part {
    const merged: Column[] = [];
    const pairs: (readonly [Column, Column])[] = [];
    for (const name of using) {
      const [a, b] = [left, right].map(({ visible }) => visible.find(one => one.name === name));
      if (a && b) pairs.push([a, b]);
      const kept = isRight ? b : a;
      // The merged column of a FULL JOIN is neither of the two.
      merged.push(type === 'full' || !kept ? this.#analysis.column(name, undefined) : kept);
    }
    const rest = ({ visible }: Part) => visible.filter(({ name }) => !using.includes(name));
    const sides = { left: isRight ? right : left, right: isRight ? left : right };
    return {
      source: {
        kind: 'join',
        type,
        left: sides.left.source,
        right: sides.right.source,
        on,
        pairs,
        sides: [sides.left.label, sides.right.label],
      },
      items: [...left.items, ...right.items],
      visible: [...merged, ...rest(left), ...rest(right)],
      isComplete: left.isComplete && right.isComplete,
      label: `${left.label} and ${right.label}`,
    };
  }
}

function functionName(node: Node | undefined): string | undefined {
  if (!node || !('RangeFunction' in node)) return undefined;
  const [first] = node.RangeFunction.functions ?? [];
  const [call] = first && 'List' in first ? (first.List.items ?? []) : [];
  return call && 'FuncCall' in call ? stringOf(call.FuncCall.funcname?.at(-1)) : undefined;
}

/** What a WITH clause adds. */
export function withCtes(
  select: Pick<SelectStmt, 'withClause'>,
  ctes: Ctes,
  parent: Scope | undefined,
): Ctes {
  const { withClause } = select;
  if (!withClause) return ctes;
  const all = new Map(ctes);
  for (const node of withClause.ctes ?? []) {
    if (!('CommonTableExpr' in node)) continue;
    const { ctename = '', ctequery, aliascolnames } = node.CommonTableExpr;
    if (!ctequery) continue;
    const cte: Cte = {
      name: ctename,
      node,
      query: ctequery,
      columnNames: (aliascolnames ?? []).map(name => stringOf(name) ?? ''),
      // Of WITH RECURSIVE each sees all, itself too.
      sees: withClause.recursive ? all : new Map(all),
      parent,
      isRecursive: withClause.recursive === true,
    };
    all.set(ctename, cte);
  }
  return all;
}

/** Whether a table of that name, without a schema, is named in it. */
export function mentions(tree: unknown, name: string): boolean {
  let found = false;
  walk(tree, (_type, fields) => {
    if (fields.relname === name && fields.schemaname === undefined) found = true;
    return !found;
  });
  return found;
}
