/**
 * An INSERT with ON CONFLICT about a column that is unique across shards: which rows it gives, with which values, and how
 * it is written for some of them. Pure: from the tree of its text.
 *
 * Holds true here: what cannot be done as one server does it is refused, before anything is sent.
 */
import type { InsertStmt, Node, OnConflictClause, ResTarget } from 'libpg-query';
import { BanyanError } from '../../../../errors.ts';
import type { Parser } from '../../route/parser.ts';
import { columnNames } from '../plan/insert.ts';
import { castTo } from '../plan/insert-values.ts';
import { parametersOf, stringOf, type Written, walk, write } from '../plan/tree.ts';
import { type ValueSource, valueSource } from '../plan/values.ts';
import type { UniqueColumn } from './columns.ts';
import { isTable } from './statement.ts';

/** Nothing was sent. */
export class UniqueConflictRefused extends BanyanError {
  readonly sqlState = '0A000';

  constructor(
    { schema, table, column }: UniqueColumn,
    what: string,
    remedy = 'Insert the rows without ON CONFLICT and take the error 23505, or look for them first',
  ) {
    super('UNIQUE_CONFLICT_REFUSED', {
      what: `${what}, while ${column} is unique across shards: whether a value is taken another shard may have to say`,
      where: `ON CONFLICT of an INSERT into ${schema}.${table}`,
      remedy: `Nothing was sent. ${remedy}`,
    });
  }
}

/** The numbers of the parameters that stand for the keys of rows that are there, one for each row. */
export const KEY_PARAMETER = 90_000;

export interface Conflict {
  /**
   * A row is in conflict by its value of any of these: one of them, where the row that has it is updated. None: by
   * something that the row's own shard knows, while columns are updated that are unique across shards.
   */
  readonly columns: readonly UniqueColumn[];
  readonly updates: boolean;
  /** Whether DO UPDATE may leave a row as it is. */
  readonly hasCondition: boolean;
  /** How many parameters there are; -1 when one is left out. */
  readonly parameters: number;
  /** Of each row, of each column; undefined: NULL. */
  readonly rows: readonly (readonly (ValueSource | undefined)[])[];
  /** The statement with these rows alone. */
  some(rows: readonly number[]): Written;
  /** The same, of rows that have the key that a parameter gives (`KEY_PARAMETER` and up) in place of their own. */
  atKeys(rows: readonly number[]): Written;
}

/**
 * @returns undefined where the rows of one shard say all: then the statement is run as any
 * @throws UniqueConflictRefused
 */
export function conflictOf(
  node: Node,
  columns: readonly UniqueColumn[],
  parser: Parser,
): Conflict | undefined {
  refuseNested(node, columns);
  if (!('InsertStmt' in node)) return undefined;
  const insert = node.InsertStmt;
  const clause = insert.onConflictClause;
  const own = ownOf(insert, columns);
  if (!clause || own.length === 0) return undefined;
  const about = aboutOf(clause, own);
  const updates = clause.action !== 'ONCONFLICT_NOTHING';
  const given = rowsOf(insert);
  if (about.length === 0) {
    const isOrdered = given && given.length > 1 && !insert.withClause && setsAny(clause, own);
    if (!isOrdered) return undefined;
  }
  const first = about[0] ?? own[0]!;
  if (!given || insert.withClause) {
    throw new UniqueConflictRefused(
      first,
      given ? 'It has a WITH clause' : 'It inserts the rows of a query',
      'Give the rows in VALUES',
    );
  }
  const names = columnNames(insert, {
    columns: first.tableColumns.map(name => ({ name })),
  } as never);
  for (const column of about) {
    if (column.isFilling) {
      throw new UniqueConflictRefused(
        column,
        'The values that are there are still being collected',
        'Try again when `banyan apply` has ended',
      );
    }
    if (!column.hasIndex) {
      throw new UniqueConflictRefused(
        column,
        'Its table has no unique index of its own for it',
        `Create one: create unique index on ${column.table} (${column.column})`,
      );
    }
  }
  const updatesFound = updates && about.length > 0;
  if (updatesFound && given.length > 1 && setsOtherwise(clause, first)) {
    throw new UniqueConflictRefused(
      first,
      `It changes ${first.column} itself, by several rows`,
      'Insert the rows one by one',
    );
  }
  if (updatesFound && mentionsKey(clause, first)) {
    throw new UniqueConflictRefused(
      first,
      `It uses excluded.${first.key}`,
      'Give the value as a parameter',
    );
  }
  const rows = given.map(row => about.map(column => sourceOf(row, names, column)));
  const writeRows = (items: Node[][], cols = insert.cols) =>
    write(
      { InsertStmt: { ...insert, ...(cols ? { cols } : {}), selectStmt: values(items) } },
      parser,
    );
  const numbers = parametersOf(node);
  return {
    columns: about,
    updates,
    hasCondition: clause.whereClause !== undefined,
    parameters: (numbers.at(-1) ?? 0) === numbers.length ? numbers.length : -1,
    rows,
    some: some => writeRows(some.map(i => given[i]!)),
    atKeys: some => {
      const at = names.indexOf(first.key);
      const listed = insert.cols ?? names.map((name): Node => ({ ResTarget: { name } }));
      const cols = at < 0 ? [...listed, { ResTarget: { name: first.key } }] : listed;
      const items = some.map((i, place) => {
        const row = [...given[i]!];
        while (row.length < listed.length) row.push({ SetToDefault: {} });
        const number = KEY_PARAMETER + place;
        row[at < 0 ? listed.length : at] = castTo(
          { ParamRef: { number } },
          first.keyDeclared,
          parser,
        );
        return row;
      });
      return writeRows(items, cols);
    },
  };
}

function ownOf({ relation }: InsertStmt, columns: readonly UniqueColumn[]): UniqueColumn[] {
  return columns.filter(column => relation && isTable(relation, column));
}

/**
 * The columns by whose values a row may be in conflict; none: another shard has no say in it.
 * @param own those of the table
 */
function aboutOf(
  { infer }: OnConflictClause,
  own: readonly UniqueColumn[],
): readonly UniqueColumn[] {
  if (own.length === 0 || !infer) return own;
  const elements = (infer.indexElems ?? []).map(element =>
    'IndexElem' in element ? element.IndexElem.name : undefined,
  );
  const column = own.find(one => elements.includes(one.column) || infer.conname === one.constraint);
  if (!column) return [];
  if (elements.length > 1) {
    // With the shard key beside it, the index of one shard knows all such rows.
    if (elements.includes(column.key)) return [];
    throw new UniqueConflictRefused(column, 'It names more columns than that one');
  }
  if (infer.whereClause) throw new UniqueConflictRefused(column, 'It is about a partial index');
  return [column];
}

function sourceOf(
  row: readonly Node[],
  names: readonly string[],
  column: UniqueColumn,
): ValueSource | undefined {
  const node = row[names.indexOf(column.column)];
  if (!node || 'SetToDefault' in node) {
    if (!column.hasDefault) return undefined;
    throw new UniqueConflictRefused(column, 'It leaves the value to the default', 'Give the value');
  }
  const source = valueSource(node);
  if (!source || source.kind === 'elements') {
    throw new UniqueConflictRefused(
      column,
      'The value has to be computed',
      'Give it as a constant or a parameter',
    );
  }
  return source.kind === 'constant' && source.text === null ? undefined : source;
}

/** Of DO UPDATE: what is set, by the column's name. */
function assignments({ targetList = [] }: OnConflictClause): ResTarget[] {
  return targetList.flatMap(node => ('ResTarget' in node ? [node.ResTarget] : []));
}

function setsAny(clause: OnConflictClause, columns: readonly UniqueColumn[]): boolean {
  return assignments(clause).some(({ name }) => columns.some(({ column }) => column === name));
}

/** Whether it sets the column to something else than the value by which the row was found. */
function setsOtherwise(clause: OnConflictClause, { column }: UniqueColumn): boolean {
  return assignments(clause).some(
    ({ name, val }) =>
      name === column &&
      !(val && 'ColumnRef' in val && excludedColumn(val.ColumnRef.fields) === column),
  );
}

/** Of a column's name: which one of the row that was given it is, or `*`; undefined: it is of another. */
function excludedColumn(fields: readonly Node[] = []): string | undefined {
  const [table, column, ...others] = fields.map(field => stringOf(field) ?? '*');
  return table === 'excluded' && others.length === 0 ? column : undefined;
}

/** Of DO UPDATE: whether it looks at the key that the row would have had. */
function mentionsKey(clause: OnConflictClause, { key }: UniqueColumn): boolean {
  let found = false;
  walk(clause, (type, fields) => {
    if (type !== 'ColumnRef') return;
    const column = excludedColumn(fields.fields as Node[]);
    if (column === key || column === '*') found = true;
  });
  return found;
}

/** What writes within WITH does so where the rest of the statement is. */
function refuseNested(node: Node, columns: readonly UniqueColumn[]): void {
  const top = 'InsertStmt' in node ? node.InsertStmt : undefined;
  walk(node, (type, fields) => {
    if (type !== 'InsertStmt' || fields === (top as unknown)) return;
    const insert = fields as InsertStmt;
    const { onConflictClause: clause } = insert;
    const [first] = clause ? aboutOf(clause, ownOf(insert, columns)) : [];
    if (first)
      throw new UniqueConflictRefused(first, 'It stands in a WITH clause', 'Run it by itself');
  });
}

function rowsOf({ selectStmt }: InsertStmt): Node[][] | undefined {
  if (!selectStmt || !('SelectStmt' in selectStmt)) return undefined;
  return selectStmt.SelectStmt.valuesLists?.map(node =>
    'List' in node ? [...(node.List.items ?? [])] : [],
  );
}

function values(rows: readonly Node[][]): Node {
  return {
    SelectStmt: {
      valuesLists: rows.map(items => ({ List: { items } })),
      limitOption: 'LIMIT_OPTION_DEFAULT',
      op: 'SETOP_NONE',
    },
  };
}
