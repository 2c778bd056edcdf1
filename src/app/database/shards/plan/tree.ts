/**
 * Trees of PostgreSQL's parser: to walk them, to compare them, to change them, and to write them out again.
 *
 * Holds true here: a text that was written from a tree is parsed again and compared with it. What the writer
 * (`pgsql-deparser`) does not get right is refused, never sent: tried with 18.3.8, it drops WITH TIES and
 * does not know the SQL/JSON functions.
 */
import { createRequire } from 'node:module';
import type { Node } from 'libpg-query';
import type { Parser } from '../../route/parser.ts';
import { ShardRefused } from './refused.ts';

/** Loaded when the first text is written: it is large, and most processes never do. */
const require = createRequire(import.meta.url);
let writer: typeof import('pgsql-deparser') | undefined;

/** Positions in a text, which say nothing of its meaning. */
const POSITION = /^(location|stmt_location|stmt_len|name_location|(rexpr_)?list_(start|end))$/;

/** One text for trees that mean the same. */
export function keyOf(tree: unknown): string {
  if (Array.isArray(tree)) return `[${tree.map(keyOf).join(',')}]`;
  if (typeof tree !== 'object' || tree === null) return JSON.stringify(tree) ?? '';
  const fields = Object.entries(tree).filter(
    ([name, value]) => value !== undefined && !POSITION.test(name),
  );
  fields.sort(([a], [b]) => (a < b ? -1 : 1));
  return `{${fields.map(([name, value]) => `${name}:${keyOf(value)}`).join(',')}}`;
}

export function sameTree(a: unknown, b: unknown): boolean {
  return keyOf(a) === keyOf(b);
}

export const clone = <T>(tree: T): T => structuredClone(tree);

/**
 * Visits every object of a tree, parents first.
 * @param visit gets the node's type (undefined for what has none) and its fields; false: not its children
 */
export function walk(
  tree: unknown,
  visit: (type: string | undefined, fields: Record<string, unknown>) => unknown,
): void {
  if (Array.isArray(tree)) {
    for (const item of tree) walk(item, visit);
    return;
  }
  if (typeof tree !== 'object' || tree === null) return;
  const [type, fields] = nodeOf(tree);
  if (visit(type, fields) === false) return;
  for (const value of Object.values(fields)) {
    if (typeof value === 'object' && value !== null) walk(value, visit);
  }
}

/** Nodes are wrapped: `{ ColumnRef: { fields: … } }`; some fields hold one that is not. */
export function nodeOf(tree: object): [type: string | undefined, fields: Record<string, unknown>] {
  const names = Object.keys(tree);
  const [name] = names;
  if (names.length === 1 && name && name[0]! >= 'A' && name[0]! <= 'Z') {
    const fields = (tree as Record<string, unknown>)[name];
    if (typeof fields === 'object' && fields !== null) {
      return [name, fields as Record<string, unknown>];
    }
  }
  return [undefined, tree as Record<string, unknown>];
}

/**
 * A copy in which nodes are replaced, from the top down.
 * @param replace undefined: look further down
 */
export function replaceNodes<T>(tree: T, replace: (node: Node) => Node | undefined): T {
  if (Array.isArray(tree)) return tree.map(item => replaceNodes(item, replace)) as T;
  if (typeof tree !== 'object' || tree === null) return tree;
  const [type] = nodeOf(tree);
  const replacement = type === undefined ? undefined : replace(tree as unknown as Node);
  if (replacement) return replacement as unknown as T;
  return Object.fromEntries(
    Object.entries(tree).map(([name, value]) => [name, replaceNodes(value, replace)]),
  ) as T;
}

/** The numbers of the parameters that it uses, in order. */
export function parametersOf(tree: unknown): number[] {
  const numbers = new Set<number>();
  walk(tree, (type, fields) => {
    if (type === 'ParamRef') numbers.add((fields.number as number) ?? 0);
  });
  return [...numbers].sort((a, b) => a - b);
}

/** A text whose parameters are numbered without gaps: PostgreSQL cannot tell the type of one that is not used. */
export interface Written {
  readonly text: string;
  /** The original number of each parameter. */
  readonly parameters: readonly number[];
}

/** @throws ShardRefused when the tree cannot be written such that it means the same */
export function write(statement: Node, parser: Parser): Written {
  const parameters = parametersOf(statement);
  const renumbered = replaceNodes(statement, node =>
    'ParamRef' in node
      ? { ParamRef: { number: parameters.indexOf(node.ParamRef.number ?? 0) + 1 } }
      : undefined,
  );
  let text: string | undefined;
  try {
    writer ??= require('pgsql-deparser') as typeof import('pgsql-deparser');
    text = writer.deparseSync(renumbered, { pretty: false });
  } catch {
    // Not known to the writer.
  }
  const parsed = text === undefined ? undefined : parser.parse(text);
  if (
    text === undefined ||
    parsed?.kind !== 'statements' ||
    parsed.statements.length !== 1 ||
    !sameTree(parsed.statements[0]!.stmt, renumbered)
  ) {
    throw new ShardRefused(
      'The statement goes to several shards, and would have to be written anew, which is not known to give the same',
      'Name the shard key in the WHERE clause, so that it goes to one shard; or leave out the unusual syntax',
    );
  }
  return { text, parameters };
}

export function stringOf(node: Node | undefined): string | undefined {
  return node && 'String' in node ? (node.String.sval ?? '') : undefined;
}

/** The parts of `a.b.c`; undefined when one of them is `*`, a subscript or the like. */
export function namesOf(nodes: Node[] | undefined): string[] | undefined {
  const names = (nodes ?? []).map(stringOf);
  return names.every(name => name !== undefined) ? names : undefined;
}

/** The parts of `x and (y and z)`. */
export function conjunctsOf(node: Node | undefined): Node[] {
  if (!node) return [];
  if ('BoolExpr' in node && node.BoolExpr.boolop === 'AND_EXPR') {
    return (node.BoolExpr.args ?? []).flatMap(conjunctsOf);
  }
  return [node];
}

export function column(...names: string[]): Node {
  return { ColumnRef: { fields: names.map(sval => ({ String: { sval } })) } };
}

export function target(val: Node, name?: string): Node {
  return { ResTarget: { ...(name === undefined ? {} : { name }), val } };
}

/** A constant or a parameter whose type is what it is used for. */
export function isUntyped(node: Node | undefined): boolean {
  if (!node) return false;
  if ('ParamRef' in node) return true;
  return 'A_Const' in node && (node.A_Const.sval !== undefined || node.A_Const.isnull === true);
}

/** `"x"`, whatever is in it. */
export function quote(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}
