/**
 * MERGE: on which shards the rows of the target and those of the source meet.
 *
 * Holds true here:
 * - It is looked through as the join of source and target that it is: a row of the source is kept also where no row of the
 *   target matches, and with WHEN NOT MATCHED BY SOURCE a row of the target as well. What holds for that join's rows holds
 *   for what is done with them.
 * - A row that is inserted has the key by which its row of the source came to the shard.
 */
import type { MergeStmt, MergeWhenClause, Node, SelectStmt } from 'libpg-query';
import { Equalities } from './equalities.ts';
import { callsSequence } from './insert-values.ts';
import { Level } from './level.ts';
import { FIRST, tablesOf } from './other-statements.ts';
import { type PlacedTable, qualified } from './placement.ts';
import { type Action, PLAIN } from './plan.ts';
import {
  keyChange,
  refuseServerFunctions,
  refuseSystemColumns,
  refuseVolatile,
  throwRefusals,
} from './refusals.ts';
import { ShardRefused } from './refused.ts';
import { partsOf } from './select.ts';
import { clone, replaceNodes, stringOf, target } from './tree.ts';
import { type Pin, valueSource } from './values.ts';
import type { ChangeContext } from './write-plan.ts';

const REMEDY =
  'Join on the shard keys of both, and insert the key that the source has; or use INSERT … ON CONFLICT, UPDATE and DELETE';

/** @throws ShardRefused */
export function planMerge(given: MergeStmt, { analysis, facts }: ChangeContext): Action {
  const statement = withValues(given);
  const { relation = {} } = statement;
  const table = analysis.table(relation.schemaname, relation.relname ?? '');
  const kinds = tablesOf(statement, analysis);
  if (kinds.every(kind => kind === 'home' || kind === 'system')) return FIRST;
  const name = qualified(table);
  if (table.kind !== 'sharded') {
    throw new ShardRefused(
      `MERGE into ${name} reads or writes tables that are on several shards`,
      'Use INSERT … ON CONFLICT, UPDATE and DELETE',
    );
  }
  refuseServerFunctions(facts, name);
  const clauses = (statement.mergeWhenClauses ?? []).flatMap(node =>
    'MergeWhenClause' in node ? [node.MergeWhenClause] : [],
  );
  const level = new Level(analysis, asJoin(statement, clauses, table), undefined, new Map());
  level.settle(Equalities.NONE, []);
  const pin = analysis.homeTables.size === 0 ? analysis.pinnedTo() : undefined;
  for (const clause of clauses) checkClause(clause, table, level, pin);
  if (pin && !clauses.some(isBySource)) {
    return { kind: 'write', target: { kind: 'keys', parts: [[pin]] }, ...PLAIN };
  }
  throwRefusals(analysis);
  refuseSystemColumns({ MergeStmt: statement });
  refuseVolatile(facts, 'goes to several shards');
  if (level.from.kind !== 'sharded' || analysis.stages.length > 0 || analysis.homeTables.size > 0) {
    throw new ShardRefused(
      `MERGE into ${name} takes rows whose place is not that of the rows that they match`,
      REMEDY,
    );
  }
  return { kind: 'write', target: { kind: 'keys', parts: partsOf(level) }, ...PLAIN };
}

const isBySource = ({ matchKind }: MergeWhenClause) =>
  matchKind === 'MERGE_WHEN_NOT_MATCHED_BY_SOURCE';

/** Source and target as a join, with all that the actions compute as its columns. */
function asJoin(
  { relation, sourceRelation, joinCondition, withClause, returningClause }: MergeStmt,
  clauses: readonly MergeWhenClause[],
  { schema }: PlacedTable,
): SelectStmt {
  const computed = clauses.flatMap(({ condition, targetList = [], values = [] }) => [
    ...(condition ? [target(condition)] : []),
    ...targetList.filter(node => 'ResTarget' in node && node.ResTarget.val),
    ...values.filter(node => !('SetToDefault' in node)).map(node => target(node)),
  ]);
  return {
    ...(withClause ? { withClause } : {}),
    targetList: [...computed, ...(returningClause?.exprs ?? [])],
    fromClause: [
      {
        JoinExpr: {
          jointype: clauses.some(isBySource) ? 'JOIN_FULL' : 'JOIN_LEFT',
          larg: sourceRelation!,
          rarg: { RangeVar: { ...relation, ...(schema ? { schemaname: schema } : {}) } },
          quals: joinCondition!,
        },
      },
    ],
    limitOption: 'LIMIT_OPTION_DEFAULT',
    op: 'SETOP_NONE',
  };
}

/** The same with values in place of the columns of a source that is one row of them. */
function withValues(statement: MergeStmt): MergeStmt {
  const values = valuesOf(statement.sourceRelation);
  if (!values) return statement;
  const { joinCondition, mergeWhenClauses, ...rest } = statement;
  const inPlace = <T extends Node>(tree: T): T =>
    replaceNodes(clone(tree), node => {
      const names = 'ColumnRef' in node ? (node.ColumnRef.fields ?? []).map(stringOf) : [];
      return names.length === 2 && names[0] === values.alias
        ? values.byName.get(names[1] ?? '')
        : undefined;
    });
  return {
    ...rest,
    joinCondition: inPlace(joinCondition!),
    mergeWhenClauses: (mergeWhenClauses ?? []).map(inPlace),
  };
}

function valuesOf(source: Node | undefined) {
  if (!source || !('RangeSubselect' in source)) return undefined;
  const { subquery, alias } = source.RangeSubselect;
  if (!subquery || !('SelectStmt' in subquery) || !alias) return undefined;
  const { valuesLists, targetList = [], fromClause, whereClause, larg } = subquery.SelectStmt;
  const [row, ...others] = valuesLists ?? [];
  if (fromClause || whereClause || larg || others.length > 0) return undefined;
  const items = row && 'List' in row ? (row.List.items ?? []) : targetList;
  const byName = new Map<string, Node>();
  for (const [i, node] of items.entries()) {
    const value = 'ResTarget' in node ? node.ResTarget.val : node;
    const own = 'ResTarget' in node ? node.ResTarget.name : `column${i + 1}`;
    const name = stringOf(alias.colnames?.[i]) ?? own;
    if (value && name && valueSource(value)) byName.set(name, value);
  }
  return { alias: alias.aliasname, byName };
}

function checkClause(
  { commandType, targetList = [], values = [] }: MergeWhenClause,
  table: PlacedTable,
  level: Level,
  pin: Pin | undefined,
): void {
  const names = targetList.map(node => ('ResTarget' in node ? node.ResTarget.name : undefined));
  if (commandType === 'CMD_UPDATE') {
    if (names.includes(table.key)) throw keyChange(table);
    return;
  }
  if (commandType !== 'CMD_INSERT') return;
  const columns = names.length > 0 ? names : table.columns.map(({ name }) => name);
  const numbered = table.columns.find(
    one => !columns.includes(one.name) && one.default !== undefined && callsSequence(one.default),
  );
  if (numbered) {
    throw new ShardRefused(
      `MERGE into ${qualified(table)} leaves ${numbered.name} to a sequence, of which each shard has its own`,
      'Give a number for it, or make its default banyan.next_id()',
    );
  }
  const value = values[columns.indexOf(table.key)];
  const isPinned = pin !== undefined && valueSource(value)?.id === pin.sources[0]?.id;
  const isKept = isPinned || level.isKey(value);
  if (!isKept) {
    throw new ShardRefused(
      `MERGE inserts rows into ${qualified(table)} whose shard key ${table.key} is not the one by which their rows of the source are found`,
      REMEDY,
    );
  }
}
