/**
 * Subqueries that have to be answered before the rest: then their rows stand in their place. Pure.
 *
 * Holds true here: each is taken out where it stands, by identity, so that of two that read alike each has its own rows.
 */
import type { Node, RangeVar, SelectStmt } from 'libpg-query';
import type { Parser } from '../../route/parser.ts';
import type { Analysis } from './analysis.ts';
import { placeholderSelect, unusedPrefix } from './insert.ts';
import { outputName } from './output-name.ts';
import type { StagedAction } from './plan.ts';
import { ShardRefused } from './refused.ts';
import { type Ctes, mentions } from './scope.ts';
import { isStar } from './select-shape.ts';
import { clone, keyOf, write } from './tree.ts';

/** @throws ShardRefused when one does not stand by itself */
export function staged(
  statement: Node,
  text: string,
  analysis: Analysis,
  parser: Parser,
): StagedAction {
  const prefix = unusedPrefix(text);
  const { stages } = analysis;
  const places = new Map<unknown, number>(
    stages.map(({ select, mention }, i) => [mention ?? select, i]),
  );
  const found = new Set<number>();
  // By identity: a branch of a UNION is not wrapped as other queries are.
  const replace = (tree: unknown): unknown => {
    if (Array.isArray(tree)) return tree.map(replace);
    if (typeof tree !== 'object' || tree === null) return tree;
    const view = 'RangeVar' in tree ? (tree as { RangeVar: RangeVar }).RangeVar : undefined;
    const place = places.get(view ?? tree);
    if (place === undefined) {
      return Object.fromEntries(
        Object.entries(tree).map(([name, value]) => [name, replace(value)]),
      );
    }
    found.add(place);
    const rows = placeholderSelect(`${prefix}${place}`, onlyName(stages[place]!.select));
    if (!view) return rows;
    const alias = view.alias ?? { aliasname: view.relname ?? '' };
    return { RangeSubselect: { subquery: { SelectStmt: rows }, alias } };
  };
  const rest = replace(statement) as Node;
  // A view within a view is not there at all.
  if (found.size < stages.length) {
    throw new ShardRefused(
      'A part of the statement would have to be answered first, and does not stand by itself',
      'Run it in a statement of its own',
    );
  }
  return {
    kind: 'staged',
    stages: stages.map(({ select, ctes, isExistence }) => {
      const stage = withOuter(clone(select), ctes);
      // One row is enough to know that there is one.
      if (isExistence && !stage.limitCount) {
        stage.limitCount = { A_Const: { ival: { ival: 1 } } };
        stage.limitOption = 'LIMIT_OPTION_COUNT';
      }
      return write({ SelectStmt: stage }, parser);
    }),
    rest: write(rest, parser),
    prefix,
  };
}

/** The name of its only column. */
function onlyName({ targetList = [], larg }: SelectStmt): string | undefined {
  if (larg) return onlyName(larg);
  const [first, ...others] = targetList;
  if (!first || others.length > 0 || isStar(first) || !('ResTarget' in first)) return undefined;
  return first.ResTarget.name ?? outputName(first.ResTarget.val);
}

/** A subquery that uses what WITH defines outside of it takes the definitions along. */
function withOuter(select: SelectStmt, ctes: Ctes): SelectStmt {
  const used = [...ctes.values()].filter(cte => mentions(select, cte.name));
  if (used.length === 0) return select;
  const own = new Set((select.withClause?.ctes ?? []).map(keyOf));
  const nodes = [...ctes.values()].map(({ node }) => node).filter(node => !own.has(keyOf(node)));
  return {
    ...select,
    withClause: {
      ...select.withClause,
      ctes: [...nodes, ...(select.withClause?.ctes ?? [])],
      ...([...ctes.values()].some(({ isRecursive }) => isRecursive) ? { recursive: true } : {}),
    },
  };
}
