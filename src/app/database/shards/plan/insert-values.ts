/**
 * The values of an INSERT: those that are computed before, and the types of those that have none.
 */
import type { InsertStmt, Node, SelectStmt } from 'libpg-query';
import type { Parser } from '../../route/parser.ts';
import { columnNames, hasStar } from './insert.ts';
import { type PlacedColumn, type PlacedTable, qualified } from './placement.ts';
import { COMPUTED_PARAMETER, type ComputedValues } from './plan.ts';
import { ShardRefused } from './refused.ts';
import { isUntyped, target, write } from './tree.ts';

/**
 * INSERT … SELECT gives constants and parameters the types of their columns, which they would not have in a query
 * of their own. The length of a type is left to the assignment: a cast would cut.
 */
export function withTypes(insert: InsertStmt, table: PlacedTable, parser: Parser): InsertStmt {
  const { selectStmt } = insert;
  if (!selectStmt || !('SelectStmt' in selectStmt)) return insert;
  const select = selectStmt.SelectStmt;
  const names = columnNames(insert, table);
  let isAfterStar = false;
  const targetList = (select.targetList ?? []).map((node, i) => {
    if (!('ResTarget' in node)) return node;
    isAfterStar ||= hasStar(node.ResTarget.val);
    const { val } = node.ResTarget;
    const type = table.columns.find(({ name }) => name === names[i])?.type;
    if (isAfterStar || !type || !val || !isUntyped(val)) return node;
    return { ResTarget: { ...node.ResTarget, val: castTo(val, withoutLength(type), parser) } };
  });
  if (targetList.length === 0) return insert;
  return { ...insert, selectStmt: { SelectStmt: { ...select, targetList } } };
}

const withoutLength = (type: string) => {
  const bare = type.replace(/\([\d,]+\)/, '');
  // Without a length it would be of one character.
  return bare === 'character' ? 'bpchar' : bare;
};

export function castTo(arg: Node, type: string, parser: Parser): Node {
  const parsed = parser.parse(`select null::${type}`);
  const [first] = parsed.kind === 'statements' ? parsed.statements : [];
  const select = first?.stmt && 'SelectStmt' in first.stmt ? first.stmt.SelectStmt : undefined;
  const [item] = select?.targetList ?? [];
  const val = item && 'ResTarget' in item ? item.ResTarget.val : undefined;
  return val && 'TypeCast' in val ? { TypeCast: { ...val.TypeCast, arg } } : arg;
}

/** Values that the first shard computes, in one query. */
export class Computed {
  readonly #parser: Parser;
  readonly #expressions: Node[] = [];

  constructor(parser: Parser) {
    this.#parser = parser;
  }

  /** @returns what stands in the statement for it */
  add(expression: Node, of: PlacedColumn): Node {
    const cast = (arg: Node) => castTo(arg, withoutLength(of.type), this.#parser);
    const number = COMPUTED_PARAMETER + this.#expressions.push(cast(expression)) - 1;
    return cast({ ParamRef: { number } });
  }

  get values(): ComputedValues | undefined {
    if (this.#expressions.length === 0) return undefined;
    const select: SelectStmt = {
      targetList: this.#expressions.map((val, i) => target(val, `v${i + 1}`)),
      limitOption: 'LIMIT_OPTION_DEFAULT',
      op: 'SETOP_NONE',
    };
    return {
      query: write({ SelectStmt: select }, this.#parser),
      parameters: this.#expressions.map((_one, i) => COMPUTED_PARAMETER + i),
    };
  }
}

export function defaultOf(
  column: PlacedColumn,
  isKey: boolean,
  table: PlacedTable,
  parser: Parser,
): Node | undefined {
  if (column.default === undefined) {
    if (!isKey) return undefined;
    throw new ShardRefused(
      `A row for ${qualified(table)} has no value for its shard key ${column.name}, which has no default`,
      'Give the shard key a value of its own in each row',
    );
  }
  if (!isKey && !callsSequence(column.default)) return undefined;
  const parsed = parser.parse(`select ${column.default}`);
  const [first] = parsed.kind === 'statements' ? parsed.statements : [];
  const select = first?.stmt && 'SelectStmt' in first.stmt ? first.stmt.SelectStmt : undefined;
  const [item] = select?.targetList ?? [];
  return item && 'ResTarget' in item ? item.ResTarget.val : undefined;
}

export const callsSequence = (expression: string) => /\bnextval\(/.test(expression);
