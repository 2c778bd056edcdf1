/** The columns that come out of a level, and which of those that it reads they are. Pure. */
import type { Analysis } from './analysis.ts';
import { type Column, columnOf } from './equalities.ts';
import type { Level } from './level.ts';
import { outputName } from './output-name.ts';
import { stringOf } from './tree.ts';

/** Undefined when not all are known. */
export function ownOutputs(level: Level, analysis: Analysis): Column[] | undefined {
  const { targetList, valuesLists } = level.select;
  if (valuesLists) {
    const [first] = valuesLists;
    const width = first && 'List' in first ? (first.List.items ?? []).length : 0;
    return Array.from({ length: width }, (_, i) => analysis.column(`column${i + 1}`, undefined));
  }
  const outputs: Column[] = [];
  for (const node of targetList ?? []) {
    if (!('ResTarget' in node)) continue;
    const { val, name } = node.ResTarget;
    if (val && 'ColumnRef' in val) {
      const fields = val.ColumnRef.fields ?? [];
      const last = fields.at(-1);
      if (last && 'A_Star' in last) {
        const star = level.scope.star(stringOf(fields.at(-2)));
        if (!star) return undefined;
        outputs.push(...star);
        continue;
      }
    }
    const column = columnOf(val, level.scope.resolve);
    const named = name ?? outputName(val);
    outputs.push(column ? { ...column, name: named } : analysis.column(named, undefined));
  }
  return outputs;
}

/** Of UNION and its like. */
export function mergedOutputs(level: Level, analysis: Analysis): Column[] | undefined {
  const [left, right] = level.branches!;
  if (!left.outputs || !right.outputs) return undefined;
  return left.outputs.map(({ name, family }, i) =>
    analysis.column(name, family === right.outputs?.[i]?.family ? family : undefined),
  );
}
