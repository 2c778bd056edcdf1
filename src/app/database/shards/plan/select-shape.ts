/** What the tree of a SELECT shows at a glance. Pure. */
import type { Node, SelectStmt } from 'libpg-query';
import { windowsOf } from './expressions.ts';
import { walk } from './tree.ts';

/** Whether a condition on its output, taken in, would change which rows it counts, numbers or cuts off. */
export function isBarrier(select: SelectStmt): boolean {
  const { limitCount, limitOffset, distinctClause, targetList, sortClause } = select;
  if (limitCount || limitOffset || windowsOf([targetList, sortClause]).length > 0) return true;
  return (distinctClause ?? []).some(node => Object.keys(node).length > 0);
}

export function isStar(node: Node): boolean {
  if (!('ResTarget' in node)) return false;
  const { val } = node.ResTarget;
  if (!val || !('ColumnRef' in val)) return false;
  const last = val.ColumnRef.fields?.at(-1);
  return last !== undefined && 'A_Star' in last;
}

export function firstTable(tree: unknown): string | undefined {
  let found: string | undefined;
  walk(tree, (_type, fields) => {
    if (found === undefined && typeof fields.relname === 'string') {
      found = fields.schemaname ? `${fields.schemaname}.${fields.relname}` : fields.relname;
    }
    return found === undefined;
  });
  return found;
}

export function writesInWith(name: string): [what: string, remedy: string] {
  return [
    `WITH ${name} writes, and the statement goes to several shards`,
    'Name the same shard key in each part of it, or run the parts one after the other in a transaction',
  ];
}
