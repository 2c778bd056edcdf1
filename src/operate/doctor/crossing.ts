/**
 * Which statements would ask every shard: those that read a sharded table and do not name its key. Pure but for the
 * parser.
 *
 * It is what a look at the text tells: whether a column of the key's name is compared for equality, or is in the list
 * of an INSERT. The router's own plan may find more.
 */
import type { Parser } from '../../app/database/route/parser.ts';
import type { Declaration } from '../../app/database/shards/declaration/placement.ts';

export interface SeenStatement {
  text: string;
  calls: number;
}

export interface CrossingStatement extends SeenStatement {
  /** Sharded tables whose key it does not name. */
  tables: string[];
}

/** @returns those that would cross shards, the most frequent first */
export function crossingStatements(
  statements: SeenStatement[],
  { tables = {} }: Declaration,
  parser: Parser,
): CrossingStatement[] {
  const keys = new Map<string, { name: string; key: string }>();
  for (const [name, declared] of Object.entries(tables)) {
    if (declared.kind === 'sharded') keys.set(name.split('.')[1]!, { name, key: declared.key });
  }
  return statements
    .flatMap(statement => {
      const parsed = parser.parse(statement.text);
      if (parsed.kind !== 'statements') return [];
      const seen = lookAt(parsed.statements);
      const crossing = [...seen.tables].flatMap(table => {
        const sharded = keys.get(table);
        return sharded && !seen.compared.has(sharded.key) ? [sharded.name] : [];
      });
      return crossing.length > 0 ? [{ ...statement, tables: crossing }] : [];
    })
    .toSorted((a, b) => b.calls - a.calls);
}

interface Seen {
  tables: Set<string>;
  /** Names of columns that are compared for equality, or given to an INSERT. */
  compared: Set<string>;
}

type Tree = Record<string, unknown>;

function lookAt(tree: unknown, seen: Seen = { tables: new Set(), compared: new Set() }): Seen {
  if (Array.isArray(tree)) for (const each of tree) lookAt(each, seen);
  else if (typeof tree === 'object' && tree !== null) {
    for (const [kind, value] of Object.entries(tree as Tree)) {
      const node = value as Tree;
      if (kind === 'RangeVar' || kind === 'relation') seen.tables.add(String(node.relname));
      if (kind === 'A_Expr' && isEquality(node)) {
        for (const side of [node.lexpr, node.rexpr]) addColumn(side, seen.compared);
      }
      if (kind === 'InsertStmt') {
        for (const column of (node.cols as { ResTarget?: { name?: string } }[]) ?? []) {
          if (column.ResTarget?.name) seen.compared.add(column.ResTarget.name);
        }
      }
      lookAt(value, seen);
    }
  }
  return seen;
}

function isEquality({ kind, name }: Tree): boolean {
  const [operator] = (name as { String?: { sval?: string } }[] | undefined) ?? [];
  return (
    operator?.String?.sval === '=' &&
    ['AEXPR_OP', 'AEXPR_IN', 'AEXPR_OP_ANY'].includes(String(kind))
  );
}

function addColumn(node: unknown, compared: Set<string>): void {
  const fields = (node as { ColumnRef?: { fields?: { String?: { sval?: string } }[] } } | undefined)
    ?.ColumnRef?.fields;
  const name = fields?.at(-1)?.String?.sval;
  if (name !== undefined) compared.add(name);
}
