/**
 * A query over several shards: what each is sent, and how the answers become one.
 *
 * Holds true here: the level was proven sharded but for its last step (aggregates, DISTINCT, LIMIT). Two shapes:
 * *rows*, where each shard's rows are rows of the result, and *groups*, where each shard gives values from
 * which those of a group are made (`aggregate.ts`).
 */
import type { Node, SelectStmt, SortBy } from 'libpg-query';
import type { Parser } from '../../route/parser.ts';
import { aggregatesAcross, distinctByKey, windowAcross } from './across.ts';
import { splitGroups } from './aggregate.ts';
import type { Analysis } from './analysis.ts';
import type { Level } from './level.ts';
import { outputName } from './output-name.ts';
import type { KeyFamily } from './placement.ts';
import {
  type Action,
  LIMIT_PARAMETER,
  type Limits,
  type Merge,
  type Pins,
  type RowsMerge,
  type SortKey,
} from './plan.ts';
import { ShardRefused } from './refused.ts';
import { isStar } from './select-shape.ts';
import { clone, sameTree, stringOf, target, type Written, write } from './tree.ts';
import { valueSource } from './values.ts';

export function planScatter(
  level: Level,
  analysis: Analysis,
  parser: Parser,
  text: string,
): Action {
  const split = level.branches
    ? splitUnion(level, parser)
    : aggregatesAcross(level)
      ? splitGroups(level, analysis, parser, text)
      : splitRows(level, parser);
  return { kind: 'scatter', target: { kind: 'keys', parts: partsOf(level) }, ...split };
}

/** What narrows down the shards of each part of a query. */
export function partsOf(level: Level): Pins[] {
  if (level.branches) return level.branches.flatMap(partsOf);
  const { from, equalities } = level;
  if (from.kind !== 'sharded') return [];
  const sets = new Set(
    from.keys.flatMap(key =>
      equalities.setsOf(key).map(sources => JSON.stringify({ family: key.family, sources })),
    ),
  );
  return [[...sets].map(set => JSON.parse(set) as { family: KeyFamily; sources: [] })];
}

/** Each shard's rows are rows of the result. */
function splitRows(level: Level, parser: Parser): { partial: Written; merge: Merge } {
  const { select } = level;
  if (select.lockingClause && (select.limitCount || select.limitOffset)) {
    throw new ShardRefused(
      'FOR UPDATE with a LIMIT over several shards would lock rows that are not returned',
      'Name the shard key in the WHERE clause, or leave out the LIMIT',
    );
  }
  if (windowAcross(level)) {
    throw new ShardRefused(
      'A window function looks at rows of several shards',
      'Put the shard key into its PARTITION BY, or name the shard key in the WHERE clause',
    );
  }
  const partial = clone(select);
  const targets = [...(select.targetList ?? [])];
  const hidden: Node[] = [];
  const isDistinct = select.distinctClause !== undefined;
  const on = (select.distinctClause ?? []).filter(node => Object.keys(node).length > 0);
  const place = (node: Node) => placeOf(node, targets, hidden, isDistinct && on.length === 0);
  const keys = (select.sortClause ?? []).map(node => sortKey(node, place));
  const isMerged = isDistinct && !distinctByKey(level);
  const columns = isMerged ? on.map(place) : [];
  partial.targetList = [
    ...targets,
    ...hidden.map((node, i) => target(clone(node), `banyan_hidden_${i + 1}`)),
  ];
  // The parser has no empty lists.
  if (partial.targetList.length === 0) delete partial.targetList;
  const limits = limitsOf(select);
  pushLimit(partial);
  const merge: RowsMerge = {
    kind: 'rows',
    keys,
    distinct: !isMerged
      ? { kind: 'none' }
      : on.length > 0
        ? { kind: 'on', columns }
        : { kind: 'all' },
    hidden: hidden.length,
    limits,
  };
  return { partial: write({ SelectStmt: partial }, parser), merge };
}

/** UNION and its like: only names and positions of the output stand in ORDER BY. */
function splitUnion(level: Level, parser: Parser): { partial: Written; merge: Merge } {
  const { select, from } = level;
  if (from.kind !== 'sharded' && !(from.kind === 'global' && from.isUnion)) {
    throw new ShardRefused(
      `A part of the statement ${from.kind === 'global' ? from.why : 'is on one shard, another on several'}`,
      'Run its parts one by one',
    );
  }
  const partial = clone(select);
  const keys = (select.sortClause ?? []).map(node =>
    sortKey(node, one => {
      const position = positionOf(one);
      if (position !== undefined) return { at: position };
      const name = nameOf(one);
      if (name === undefined) {
        throw new ShardRefused(
          'The rows of a UNION over several shards are ordered by an expression',
          'Order by the name of a column of the result',
        );
      }
      return { name };
    }),
  );
  const limits = limitsOf(select);
  pushLimit(partial);
  const merge: RowsMerge = {
    kind: 'rows',
    keys,
    distinct: from.kind === 'global' ? { kind: 'all' } : { kind: 'none' },
    hidden: 0,
    limits,
  };
  return { partial: write({ SelectStmt: partial }, parser), merge };
}

function sortKey(node: Node, place: (node: Node) => SortKey['column']): SortKey {
  if (!('SortBy' in node)) throw new Error('ORDER BY holds something else');
  const sort: SortBy = node.SortBy;
  if (sort.sortby_dir === 'SORTBY_USING' || !sort.node) {
    throw new ShardRefused(
      'Rows of several shards are ordered USING an operator',
      'Order them with ASC or DESC',
    );
  }
  const isDescending = sort.sortby_dir === 'SORTBY_DESC';
  return {
    column: place(sort.node),
    isDescending,
    // Unless it is said, NULL is larger than all values.
    nullsFirst:
      sort.sortby_nulls === 'SORTBY_NULLS_FIRST' ||
      (sort.sortby_nulls !== 'SORTBY_NULLS_LAST' && isDescending),
  };
}

/** Finds the column that an item of ORDER BY means, or adds a hidden one. */
function placeOf(
  node: Node,
  targets: readonly Node[],
  hidden: Node[],
  isDistinct: boolean,
): SortKey['column'] {
  const position = positionOf(node);
  if (position !== undefined) return { at: position };
  const stars = targets.findIndex(isStar);
  // Places after a star are counted from the end, which hidden columns move.
  const known = stars < 0 ? targets.length : stars;
  const name = nameOf(node);
  const index = targets.findIndex(item => {
    if (!('ResTarget' in item) || isStar(item)) return false;
    const own = item.ResTarget.name ?? outputName(item.ResTarget.val);
    return name !== undefined ? own === name : sameTree(item.ResTarget.val, node);
  });
  if (index >= 0 && index < known) return { at: index };
  if (index >= 0 && name !== undefined) return { name };
  if (isDistinct) {
    // It has to be among the columns of a star; if it is not, PostgreSQL says so.
    const column = 'ColumnRef' in node ? stringOf(node.ColumnRef.fields?.at(-1)) : undefined;
    if (column !== undefined) return { name: column };
    throw new ShardRefused(
      'The rows of SELECT DISTINCT over several shards are ordered by an expression',
      'Select it, and order by its name',
    );
  }
  const same = hidden.findIndex(one => sameTree(one, node));
  if (same >= 0) return { hidden: same };
  hidden.push(node);
  return { hidden: hidden.length - 1 };
}

export function positionOf(node: Node): number | undefined {
  return 'A_Const' in node && node.A_Const.ival ? (node.A_Const.ival.ival ?? 0) - 1 : undefined;
}

/** An unqualified name. */
export function nameOf(node: Node): string | undefined {
  const fields = 'ColumnRef' in node ? (node.ColumnRef.fields ?? []) : [];
  return fields.length === 1 ? stringOf(fields[0]) : undefined;
}

export function limitsOf({ limitCount, limitOffset }: SelectStmt): Limits {
  const read = (node: Node | undefined) => {
    if (!node) return undefined;
    const source = valueSource(node);
    if (!source) {
      throw new ShardRefused(
        'LIMIT or OFFSET over several shards is an expression',
        'Give it as a number or a parameter',
      );
    }
    return source;
  };
  return { count: read(limitCount), offset: read(limitOffset) };
}

/** Each shard may have all of the first rows; and none sends more than may be merged. */
function pushLimit(partial: SelectStmt): void {
  delete partial.limitOffset;
  partial.limitCount = { ParamRef: { number: LIMIT_PARAMETER } };
  if (partial.limitOption !== 'LIMIT_OPTION_WITH_TIES') partial.limitOption = 'LIMIT_OPTION_COUNT';
}
