/**
 * Whether a last step of a query looks at rows of several shards: groups, windows, DISTINCT.
 *
 * Holds true here: a step that goes by the shard key does not, since all rows of one key are on one shard.
 */
import type { Node, WindowDef } from 'libpg-query';
import { hasAggregate, windowsOf } from './expressions.ts';
import type { Level } from './level.ts';
import { outputName } from './output-name.ts';
import { isStar } from './select-shape.ts';
import { namesOf } from './tree.ts';

/** Groups, or aggregates, that have rows on several shards. */
export function aggregatesAcross(level: Level): boolean {
  const { groupClause, havingClause, targetList, sortClause } = level.select;
  const aggregates =
    havingClause !== undefined ||
    hasAggregate([targetList, sortClause], name => level.isAggregate(name));
  if (!groupClause) return aggregates;
  return !groupClause.some(node => level.isKey(groupExpression(level, node)));
}

/** What an item of GROUP BY stands for: an expression, a position, or the name of an output. */
export function groupExpression(level: Level, node: Node): Node | undefined {
  if ('GroupingSet' in node) return undefined;
  const targets = level.select.targetList ?? [];
  if ('A_Const' in node && node.A_Const.ival) {
    // A position counts columns, of which a star before it has more than one.
    const before = targets.slice(0, node.A_Const.ival.ival ?? 0);
    if (before.some(isStar)) return undefined;
    const one = targets[(node.A_Const.ival.ival ?? 0) - 1];
    return one && 'ResTarget' in one ? one.ResTarget.val : undefined;
  }
  const names = 'ColumnRef' in node ? namesOf(node.ColumnRef.fields) : undefined;
  if (names?.length === 1) {
    // Of a column and an output of that name, GROUP BY takes the column.
    const has = level.scope.has(names[0]!);
    if (has === false) {
      const one = targets.find(
        item =>
          'ResTarget' in item &&
          (item.ResTarget.name ?? outputName(item.ResTarget.val)) === names[0],
      );
      if (one && 'ResTarget' in one) return one.ResTarget.val;
    }
  }
  return node;
}

/** A window function whose windows have rows of several shards. */
export function windowAcross(level: Level): boolean {
  const { targetList, sortClause, windowClause } = level.select;
  const named = new Map(
    (windowClause ?? []).flatMap(node =>
      'WindowDef' in node ? [[node.WindowDef.name ?? '', node.WindowDef] as const] : [],
    ),
  );
  const byKey = (window: WindowDef | undefined, depth = 0): boolean =>
    window !== undefined &&
    depth < 10 &&
    ((window.partitionClause ?? []).some(node => level.isKey(node)) ||
      byKey(named.get(window.refname ?? ''), depth + 1) ||
      (window.partitionClause === undefined && byKey(named.get(window.name ?? ''), depth + 1)));
  return windowsOf([targetList, sortClause]).some(window => !byKey(window));
}

export function distinctByKey(level: Level): boolean {
  const { distinctClause = [], targetList = [] } = level.select;
  // DISTINCT alone is a list of one empty node.
  const on = distinctClause.filter(node => Object.keys(node).length > 0);
  if (on.length > 0) return on.some(node => level.isKey(groupExpression(level, node)));
  if (targetList.some(isStar)) {
    const { from } = level;
    return (
      from.kind === 'sharded' &&
      (level.outputs ?? []).some(output =>
        from.keys.some(key => level.equalities.same(key, output)),
      )
    );
  }
  return targetList.some(node => 'ResTarget' in node && level.isKey(node.ResTarget.val));
}
