/**
 * INSERT: which shard each row goes to.
 *
 * Holds true here:
 * - A row's key is a constant or a parameter; what is not is computed first, on the first shard, and then is one.
 *   So is what a sequence gives: the first shard's sequence serves all, or numbers would come twice.
 * - Rows of a reference table are made once, on the first shard, and copied: defaults, identities and triggers
 *   that differ from call to call cannot make the copies differ.
 */
import type { InsertStmt, Node, SelectStmt } from 'libpg-query';
import type { StatementFacts } from '../../route/facts.ts';
import type { Parser } from '../../route/parser.ts';
import type { Analysis } from './analysis.ts';
import { Equalities } from './equalities.ts';
import { functionsOf, subLinksOf } from './expressions.ts';
import { Computed, callsSequence, defaultOf } from './insert-values.ts';
import { Level } from './level.ts';
import { type PlacedColumn, type PlacedTable, qualified } from './placement.ts';
import { type Action, type Pins, PLAIN } from './plan.ts';
import { keyChange, refuseSystemColumns, refuseVolatile, throwRefusals } from './refusals.ts';
import { ShardRefused } from './refused.ts';
import { type Ctes, withCtes } from './scope.ts';
import { partsOf } from './select.ts';
import { clone, column, stringOf, target, write } from './tree.ts';
import { type Pin, type ValueSource, valueSource } from './values.ts';

export interface InsertContext {
  readonly analysis: Analysis;
  readonly parser: Parser;
  readonly text: string;
  readonly facts: StatementFacts;
}

/** An INSERT into a sharded table. */
export function planShardedInsert(
  insert: InsertStmt,
  table: PlacedTable,
  context: InsertContext,
): Action {
  const { analysis } = context;
  const names = columnNames(insert, table);
  const keyName = table.key!;
  const keyColumn = table.columns.find(({ name }) => name === keyName)!;
  const { family } = keyColumn;
  if (!family) {
    throw new ShardRefused(
      `The shard key ${keyName} of ${qualified(table)} is of type ${keyColumn.type}, for which there is no hash`,
      'Shard it by a column of type smallint, integer, bigint, uuid, or text in a deterministic collation',
    );
  }
  checkConflict(insert, table);
  checkSequences([insert.onConflictClause, insert.returningClause], table);
  checkSubLinks([insert.onConflictClause, insert.returningClause], analysis);
  const ctes = withCtes(insert, new Map(), undefined);
  const select =
    insert.selectStmt && 'SelectStmt' in insert.selectStmt
      ? insert.selectStmt.SelectStmt
      : undefined;
  if (!select || select.valuesLists) {
    const rows = rowsOf(select);
    return planRows({ insert, table, names, keyColumn, family, rows, ctes }, context);
  }
  const level = new Level(analysis, select, undefined, ctes);
  const spread = level.settle(Equalities.NONE, []);
  const keyAt = names.indexOf(keyName);
  if (keyAt < 0) {
    throw new ShardRefused(
      `INSERT … SELECT into ${qualified(table)} leaves out its shard key ${keyName}`,
      'Select a value for the shard key',
    );
  }
  checkSequences(select, table);
  const numbered = table.columns.find(
    one => !names.includes(one.name) && one.default !== undefined && callsSequence(one.default),
  );
  if (numbered) {
    throw new ShardRefused(
      `INSERT … SELECT into ${qualified(table)} leaves ${numbered.name} to a sequence, of which each shard has its own`,
      'Select a number for it, or make its default banyan.next_id()',
    );
  }
  const whole = wholeOnOne(select, keyAt, family, analysis, spread.kind);
  if (whole) return { kind: 'write', target: { kind: 'keys', parts: [whole] }, ...PLAIN };
  throwRefusals(analysis);
  refuseSystemColumns(select);
  const output = level.outputs?.[keyAt];
  const isKept =
    spread.kind === 'sharded' &&
    output?.family === family &&
    spread.keys.some(key => level.equalities.same(key, output));
  if (isKept && analysis.stages.length === 0 && analysis.homeTables.size === 0) {
    refuseVolatile(context.facts, 'goes to several shards');
    return { kind: 'write', target: { kind: 'keys', parts: partsOf(level) }, ...PLAIN };
  }
  return planMove(insert, select, keyAt, family, context);
}

/** It selects a value for the key, and all that it reads is on the shard of that value, or on each. */
function wholeOnOne(
  select: SelectStmt,
  keyAt: number,
  family: Pin['family'],
  analysis: Analysis,
  spread: string,
): Pins | undefined {
  const item = select.targetList?.[keyAt];
  const before = (select.targetList ?? []).slice(0, keyAt + 1);
  const isPlain = before.every(node => 'ResTarget' in node && !hasStar(node.ResTarget.val));
  const source =
    isPlain && item && 'ResTarget' in item ? valueSource(item.ResTarget.val) : undefined;
  if (!source || !fits(source, family) || analysis.homeTables.size > 0) return undefined;
  const pin: Pin = { family, sources: [source] };
  if (analysis.occurrences.length === 0) return spread === 'reference' ? [pin] : undefined;
  const pinned = analysis.occurrences.every(
    occurrence =>
      occurrence.family === family && occurrence.values.some(({ id }) => id === source.id),
  );
  return pinned ? [pin] : undefined;
}

export function hasStar(node: Node | undefined): boolean {
  if (!node || !('ColumnRef' in node)) return false;
  return (node.ColumnRef.fields ?? []).some(field => 'A_Star' in field);
}

/** The rows are selected first, wherever they are, and then go where they belong. */
function planMove(
  insert: InsertStmt,
  select: SelectStmt,
  keyAt: number,
  family: Pin['family'],
  { parser, text }: InsertContext,
): Action {
  const query = clone(select);
  if (insert.withClause) query.withClause = joinWith(insert, select);
  const prefix = unusedPrefix(text);
  const rest = clone(insert);
  delete rest.withClause;
  rest.selectStmt = { SelectStmt: placeholderSelect(`${prefix}0`) };
  return {
    kind: 'move',
    family,
    keyAt,
    query: write({ SelectStmt: query }, parser),
    insert: write({ InsertStmt: rest }, parser),
    prefix,
  };
}

function joinWith(insert: InsertStmt, select: SelectStmt): NonNullable<SelectStmt['withClause']> {
  const ctes = [...(insert.withClause?.ctes ?? []), ...(select.withClause?.ctes ?? [])];
  return { ...insert.withClause, ctes };
}

export function unusedPrefix(text: string): string {
  let prefix = 'bq_';
  for (let i = 0; text.includes(prefix); i++) prefix = `bq${i}_`;
  return prefix;
}

/**
 * Selects all of what was selected before.
 * @param name of its only column, whose name a subquery in an expression gives to its result
 */
export function placeholderSelect(table: string, name?: string): SelectStmt {
  return {
    targetList: [
      name === undefined
        ? { ResTarget: { val: { ColumnRef: { fields: [{ A_Star: {} }] } } } }
        : target(column(name)),
    ],
    fromClause: [{ RangeVar: { relname: table, inh: true, relpersistence: 'p' } }],
    limitOption: 'LIMIT_OPTION_DEFAULT',
    op: 'SETOP_NONE',
  };
}

interface Rows {
  readonly insert: InsertStmt;
  readonly table: PlacedTable;
  readonly names: readonly string[];
  readonly keyColumn: PlacedColumn;
  readonly family: Pin['family'];
  readonly rows: readonly Node[][];
  readonly ctes: Ctes;
}

function planRows(given: Rows, context: InsertContext): Action {
  const { insert, table, names, keyColumn, family, rows, ctes } = given;
  const { analysis, parser } = context;
  for (const row of rows) {
    // PostgreSQL says what is wrong with it.
    if (row.length > names.length) return { kind: 'whole', target: { kind: 'first' } };
  }
  const columns = [...names];
  const filled = rows.map(row => [
    ...row,
    // A row may give fewer values than there are columns, when no columns are named.
    ...names.slice(row.length).map((): Node => ({ SetToDefault: {} })),
  ]);
  const computed = new Computed(parser);
  const defaulted = table.columns.filter(
    one =>
      !columns.includes(one.name) &&
      (one.name === keyColumn.name || (one.default !== undefined && callsSequence(one.default))),
  );
  for (const one of defaulted) {
    columns.push(one.name);
    for (const row of filled) row.push({ SetToDefault: {} });
  }
  let isChanged = defaulted.length > 0;
  const keyAt = columns.indexOf(keyColumn.name);
  const keys = filled.map(row => {
    for (const [i, value] of row.entries()) {
      const own = table.columns.find(({ name }) => name === columns[i]);
      if (!own) continue;
      const isKey = i === keyAt;
      const given = 'SetToDefault' in value ? defaultOf(own, isKey, table, parser) : value;
      const isSimple = isKey && fits(valueSource(given), family);
      if (given && !isSimple && (isKey || functionsOf(given).includes('nextval'))) {
        row[i] = computed.add(given, own);
        isChanged = true;
      }
    }
    return valueSource(row[keyAt])!;
  });
  const named = (name: string): Node => ({ ResTarget: { name } });
  const listed = insert.cols ?? names.map(named);
  const added = defaulted.map(({ name }) => named(name));
  const isOverriding = table.columns.some(one => one.isAlwaysIdentity && defaulted.includes(one));
  const statement: InsertStmt = {
    ...insert,
    ...(isChanged ? { cols: [...listed, ...added] } : {}),
    ...(isOverriding ? { override: 'OVERRIDING_SYSTEM_VALUE' as const } : {}),
  };
  settleValues(filled, keys, family, ctes, analysis);
  throwRefusals(analysis);
  // All can be written that has to be, before anything is sent.
  const all = filled.map((_row, i) => i);
  const writeRows = (some: readonly number[]) =>
    write(
      {
        InsertStmt: {
          ...statement,
          selectStmt: {
            SelectStmt: {
              valuesLists: some.map(i => ({ List: { items: filled[i]! } })),
              limitOption: 'LIMIT_OPTION_DEFAULT',
              op: 'SETOP_NONE',
            },
          },
        },
      },
      parser,
    );
  if (isChanged || rows.length > 1) writeRows(all);
  return {
    kind: 'insert',
    family,
    keys,
    computed: computed.values,
    write: some => (some || isChanged ? writeRows(some ?? all) : undefined),
  };
}

/** Subqueries among the values. */
function settleValues(
  rows: readonly Node[][],
  keys: readonly ValueSource[],
  family: Pin['family'],
  ctes: Ctes,
  analysis: Analysis,
): void {
  const select: SelectStmt = {
    valuesLists: rows.map(items => ({ List: { items } })),
    limitOption: 'LIMIT_OPTION_DEFAULT',
    op: 'SETOP_NONE',
  };
  const spread = new Level(analysis, select, undefined, ctes).settle(Equalities.NONE, []);
  const isPinned = analysis.occurrences.every(
    occurrence =>
      occurrence.family === family &&
      keys.every(({ id }) => occurrence.values.some(value => value.id === id)),
  );
  if (isPinned && analysis.homeTables.size === 0) {
    analysis.stages.length = 0;
    analysis.refusals.length = 0;
  } else if (spread.kind === 'home') {
    analysis.refuse(
      `A value is read from ${[...analysis.homeTables].join(', ')}, which is on the first shard only`,
      'Read it in a statement of its own, or declare the table as a reference table',
    );
  }
}

/** A constant integer may be assigned to a text key: it is the same text. */
export function fits(source: ValueSource | undefined, family: Pin['family']): boolean {
  if (!source || source.kind === 'elements') return false;
  return source.family === undefined || source.family === family || family === 'text';
}

export function rowsOf(select: SelectStmt | undefined): Node[][] {
  // DEFAULT VALUES.
  if (!select) return [[]];
  return (select.valuesLists ?? []).map(node =>
    'List' in node ? [...(node.List.items ?? [])] : [],
  );
}

export function columnNames(insert: InsertStmt, table: PlacedTable): string[] {
  if (!insert.cols) return table.columns.map(({ name }) => name);
  return insert.cols.map(node => ('ResTarget' in node ? (node.ResTarget.name ?? '') : ''));
}

/** Numbers that each shard would give by itself. */
function checkSequences(trees: unknown, table: PlacedTable): void {
  const name = functionsOf(trees).find(one => /^(nextval|setval|currval|lastval)$/.test(one));
  if (!name) return;
  throw new ShardRefused(
    `${name}() would be called on several shards for ${qualified(table)}, and each has a sequence of its own`,
    'Use nextId(), or ask for the number in a statement of its own',
  );
}

/** ON CONFLICT may not move a row to another shard. */
function checkConflict({ onConflictClause }: InsertStmt, table: PlacedTable): void {
  if (onConflictClause?.action !== 'ONCONFLICT_UPDATE') return;
  const inferred = (onConflictClause.infer?.indexElems ?? []).flatMap(node =>
    'IndexElem' in node ? (node.IndexElem.name ?? []) : [],
  );
  for (const item of onConflictClause.targetList ?? []) {
    if (!('ResTarget' in item) || item.ResTarget.name !== table.key) continue;
    const { val } = item.ResTarget;
    const names = val && 'ColumnRef' in val ? (val.ColumnRef.fields ?? []).map(stringOf) : [];
    const isSame =
      names.length === 2 &&
      names[1] === table.key &&
      (names[0] === 'excluded' ? inferred.includes(table.key!) : names[0] === table.name);
    if (!isSame) throw keyChange(table);
  }
}

/** Subqueries where only reference tables can be read. */
export function checkSubLinks(
  trees: unknown,
  analysis: Analysis,
  allowed: readonly string[] = ['reference'],
): void {
  for (const { subselect } of subLinksOf(trees)) {
    if (!subselect || !('SelectStmt' in subselect)) continue;
    const level = new Level(analysis, subselect.SelectStmt, undefined, new Map());
    if (!allowed.includes(level.settle(Equalities.NONE, []).kind)) {
      throw new ShardRefused(
        'A subquery in ON CONFLICT or RETURNING reads a table that is not a reference table',
        'Read it in a statement of its own',
      );
    }
  }
}
