/**
 * Whether a subquery names columns of a query outside of it.
 *
 * Holds true here: what may be a column of another level counts as one, so a subquery that is said to stand by
 * itself does.
 */
import type { Node } from 'libpg-query';
import { expressionsOf, subLinksOf } from './expressions.ts';
import { sourceExpressions, sourceLevels } from './from.ts';
import type { Level } from './level.ts';
import type { Scope } from './scope.ts';
import { stringOf, walk } from './tree.ts';

export function isCorrelated(level: Level): boolean {
  const outside = new Set<Scope>();
  for (let scope = level.scope.parent; scope; scope = scope.parent) outside.add(scope);
  return outside.size > 0 && refersTo(level, outside);
}

function refersTo(level: Level, outside: ReadonlySet<Scope>): boolean {
  const { select, source, scope } = level;
  const sorting = [select.sortClause, level.branches ? [] : select.groupClause];
  const limits = [select.limitCount, select.limitOffset];
  const own = level.branches
    ? [sorting, limits]
    : [
        ...expressionsOf({ ...select, sortClause: [], groupClause: [] }),
        ...sourceExpressions(source),
      ];
  let found = false;
  const look = (tree: unknown, mayNameOutputs: boolean) =>
    walk(tree, (type, fields) => {
      if (found || type === 'SelectStmt') return false;
      if (type !== 'ColumnRef') return true;
      const { fields: names = [] } = fields as { fields?: Node[] };
      const last = names.at(-1);
      if (last && 'A_Star' in last) {
        const alias = stringOf(names.at(-2));
        if (alias !== undefined && !scope.star(alias)) found = true;
      } else if (!mayNameOutputs || names.length > 1 || !hasOutput(level, stringOf(names[0]))) {
        if (outside.has(scope.find(names).at)) found = true;
      }
      return false;
    });
  look(own, false);
  look(sorting, true);
  if (found) return true;
  const inner = [
    ...(level.branches ?? []),
    ...sourceLevels(source),
    ...subLinksOf([own, sorting]).flatMap(({ subselect }) =>
      subselect && 'SelectStmt' in subselect ? level.inner(subselect.SelectStmt) : [],
    ),
  ];
  return inner.some(one => refersTo(one, outside));
}

function hasOutput(level: Level, name: string | undefined): boolean {
  return (level.outputs ?? []).some(output => output.name === name);
}
