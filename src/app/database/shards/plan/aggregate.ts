/**
 * Groups that have rows on several shards: what each shard computes, and the query that makes the whole of it.
 *
 * Holds true here:
 * - The last step is a query that PostgreSQL runs over the partial results, so its HAVING, ORDER BY, DISTINCT,
 *   window functions and expressions over aggregates are PostgreSQL's own.
 * - Partial results are used of aggregates whose results can be combined exactly. When there is any other (a
 *   median, a standard deviation, an aggregate of the user's), the rows themselves are sent, without the columns
 *   that are not needed.
 * - `count(distinct x)` groups by `x` as well, so that each shard sends each value once.
 */
import type { FuncCall, Node, SelectStmt } from 'libpg-query';
import type { Parser } from '../../route/parser.ts';
import { groupExpression } from './across.ts';
import { emptyGroup, functionName, hasColumn, isCombinable, isJson } from './aggregate-calls.ts';
import type { Analysis } from './analysis.ts';
import { isAggregateCall } from './expressions.ts';
import { Level } from './level.ts';
import { outputName } from './output-name.ts';
import { LIMIT_PARAMETER, type QueryMerge, type Slot } from './plan.ts';
import { ShardRefused } from './refused.ts';
import { limitsOf, nameOf, positionOf } from './select.ts';
import {
  clone,
  column,
  keyOf,
  namesOf,
  nodeOf,
  replaceNodes,
  stringOf,
  target,
  type Written,
  walk,
  write,
} from './tree.ts';

interface Split {
  readonly partial: Written;
  readonly merge: QueryMerge;
}

export function splitGroups(level: Level, analysis: Analysis, parser: Parser, text: string): Split {
  const exact = new GroupSplitter(level, analysis, parser, text, 'rows');
  const partials = new GroupSplitter(level, analysis, parser, text, 'partial results');
  if (!partials.isCombinable) return exact.split(undefined);
  // A sum of float4 is rounded at each step, so its average cannot be made of it; and who knows what a
  // user's sum is.
  return partials.split(partials.needsTypes ? exact.split(undefined) : undefined);
}

class GroupSplitter {
  readonly #level: Level;
  readonly #analysis: Analysis;
  readonly #parser: Parser;
  readonly #prefix: string;
  readonly #sends: 'rows' | 'partial results';
  /** By what they mean. */
  readonly #groups = new Set<string>();
  /** What each shard sends, by what it means; with whether it groups by it. */
  readonly #columns = new Map<string, { node: Node; place: number; isGroup: boolean }>();
  readonly #slots: Slot[] = [];

  constructor(
    level: Level,
    analysis: Analysis,
    parser: Parser,
    text: string,
    sends: 'rows' | 'partial results',
  ) {
    this.#level = level;
    this.#analysis = analysis;
    this.#parser = parser;
    this.#sends = sends;
    let prefix = 'bx_';
    for (let i = 0; text.includes(prefix); i++) prefix = `bx${i}_`;
    this.#prefix = prefix;
    for (const node of level.select.groupClause ?? []) this.#readGroup(node);
  }

  /** Whether every aggregate can be made of partial results. */
  get isCombinable(): boolean {
    if (this.#hasGroupingSets) return false;
    return this.#aggregates().every(([type, call]) => type === 'FuncCall' && isCombinable(call));
  }

  get needsTypes(): boolean {
    return this.#aggregates().some(([, call]) => {
      const name = functionName(call);
      return (name === 'avg' || name === 'sum') && !call.agg_distinct;
    });
  }

  get #hasGroupingSets(): boolean {
    return (this.#level.select.groupClause ?? []).some(node => 'GroupingSet' in node);
  }

  split(exact: Split | undefined): Split {
    const { select } = this.#level;
    if (select.lockingClause) {
      throw new ShardRefused(
        'FOR UPDATE is not allowed with aggregates',
        'Lock the rows in a statement of its own',
      );
    }
    limitsOf(select);
    const final: SelectStmt = {
      targetList: (select.targetList ?? []).map(node => this.#target(node)),
      fromClause: [
        { RangeVar: { relname: `${this.#prefix}p`, inh: true, relpersistence: 'p', location: 0 } },
      ],
      limitOption: select.limitOption ?? 'LIMIT_OPTION_DEFAULT',
      op: 'SETOP_NONE',
    };
    if (select.groupClause) {
      final.groupClause = select.groupClause.map(node => this.#groupItem(node));
    }
    if (select.groupDistinct) final.groupDistinct = true;
    if (select.havingClause) final.havingClause = this.#rewrite(select.havingClause);
    if (select.windowClause) final.windowClause = this.#rewriteAll(select.windowClause);
    if (select.distinctClause) {
      final.distinctClause = select.distinctClause.map(node =>
        Object.keys(node).length ? this.#sortItem(node) : node,
      );
    }
    if (select.sortClause) {
      final.sortClause = select.sortClause.map(node =>
        'SortBy' in node && node.SortBy.node
          ? { SortBy: { ...node.SortBy, node: this.#sortItem(node.SortBy.node) } }
          : node,
      );
    }
    if (select.limitCount) final.limitCount = select.limitCount;
    if (select.limitOffset) final.limitOffset = select.limitOffset;
    const written = write({ SelectStmt: final }, this.#parser);
    return {
      partial: this.#partial(),
      merge: {
        kind: 'query',
        final: written,
        prefix: this.#prefix,
        slots: this.#slots,
        plain: this.#plain(final),
        exact: exact && { partial: exact.partial, merge: exact.merge },
      },
    };
  }

  /** `select count(*), max(x) from …`: one row of aggregates as they are. */
  #plain(final: SelectStmt): QueryMerge['plain'] {
    const { groupClause, havingClause, sortClause, distinctClause, limitCount, limitOffset } =
      final;
    if (groupClause || havingClause || sortClause || distinctClause) return undefined;
    if (limitCount || limitOffset || this.#sends === 'rows') return undefined;
    // Grouped all the same, for the values of DISTINCT.
    if ([...this.#columns.values()].some(({ isGroup }) => isGroup)) return undefined;
    const plain: { name: string; slot: number }[] = [];
    for (const item of final.targetList ?? []) {
      if (!('ResTarget' in item)) return undefined;
      const { val, name = '' } = item.ResTarget;
      const slot = val && 'ColumnRef' in val ? stringOf(val.ColumnRef.fields?.[0]) : undefined;
      if (!slot?.startsWith(`${this.#prefix}s`)) return undefined;
      plain.push({ name, slot: Number(slot.slice(this.#prefix.length + 1)) });
    }
    return plain;
  }

  #partial(): Written {
    const { select } = this.#level;
    // Rows without columns cannot be sent.
    if (this.#sends === 'rows' && this.#columns.size === 0) {
      this.#column({ A_Const: { ival: { ival: 1 } } }, false);
    }
    const columns = [...this.#columns.values()];
    const partial: SelectStmt = {
      targetList: columns.map(({ node, place }) => target(node, `${this.#prefix}c${place}`)),
      limitOption: 'LIMIT_OPTION_DEFAULT',
      op: 'SETOP_NONE',
    };
    // One more than may be merged.
    partial.limitCount = { ParamRef: { number: LIMIT_PARAMETER } };
    partial.limitOption = 'LIMIT_OPTION_COUNT';
    if (select.withClause) partial.withClause = select.withClause;
    if (select.fromClause) partial.fromClause = select.fromClause;
    if (select.whereClause) partial.whereClause = select.whereClause;
    if (this.#sends === 'partial results') {
      const groups = columns.filter(({ isGroup }) => isGroup);
      if (groups.length > 0) {
        partial.groupClause = groups.map(({ place }) => ({
          A_Const: { ival: { ival: place + 1 } },
        }));
      } else if (select.groupClause) partial.groupClause = [emptyGroup()];
      // Without aggregates, and ungrouped, it would give a row for each row.
      else if (columns.length === 0) partial.targetList = [target(this.#call('count', []), 'n')];
    }
    return write(clone({ SelectStmt: partial }), this.#parser);
  }

  /** @param inSet it is part of ROLLUP, CUBE or GROUPING SETS */
  #readGroup(node: Node, inSet = false): void {
    if ('GroupingSet' in node) {
      for (const item of node.GroupingSet.content ?? []) this.#readGroup(item, true);
      return;
    }
    if ('RowExpr' in node && node.RowExpr.row_format === 'COERCE_IMPLICIT_CAST') {
      for (const item of node.RowExpr.args ?? []) this.#readGroup(item, inSet);
      return;
    }
    const expression = groupExpression(this.#level, node) ?? node;
    // Before version 18 PostgreSQL computes it beforehand, and does not make it NULL where it is left out.
    if (inSet && !hasColumn(expression)) {
      throw new ShardRefused(
        'A grouping set over several shards has an expression that is the same for all rows',
        'Leave it out of GROUP BY',
      );
    }
    this.#groups.add(this.#meaningOf(expression));
  }

  #groupItem(node: Node): Node {
    if ('GroupingSet' in node) {
      const { content } = node.GroupingSet;
      return {
        GroupingSet: {
          ...node.GroupingSet,
          ...(content ? { content: content.map(item => this.#groupItem(item)) } : {}),
        },
      };
    }
    if ('RowExpr' in node && node.RowExpr.row_format === 'COERCE_IMPLICIT_CAST') {
      const args = (node.RowExpr.args ?? []).map(item => this.#groupItem(item));
      return { RowExpr: { ...node.RowExpr, args } };
    }
    return this.#groupSlot(groupExpression(this.#level, node) ?? node);
  }

  #target(node: Node): Node {
    if (!('ResTarget' in node) || !node.ResTarget.val) return node;
    const { val, name } = node.ResTarget;
    return target(this.#rewrite(val), name ?? outputName(val));
  }

  /** Positions and names of the output stay what they are. */
  #sortItem(node: Node): Node {
    if (positionOf(node) !== undefined) return node;
    const name = nameOf(node);
    const isOutput = (this.#level.select.targetList ?? []).some(
      item =>
        'ResTarget' in item &&
        name !== undefined &&
        (item.ResTarget.name ?? outputName(item.ResTarget.val)) === name,
    );
    return isOutput ? node : this.#rewrite(node);
  }

  #rewriteAll(nodes: Node[]): Node[] {
    return nodes.map(node => this.#rewrite(node));
  }

  #rewrite(tree: Node): Node {
    const replace = (node: Node): Node | undefined => {
      if (this.#groups.has(this.#meaningOf(node))) return this.#groupSlot(node);
      const [type, fields] = nodeOf(node);
      if (isAggregateCall(type, fields, this.#isAggregate)) {
        return this.#sends === 'rows' ? this.#overRows(node) : this.#combined(fields as FuncCall);
      }
      if ('ColumnRef' in node) {
        const name = namesOf(node.ColumnRef.fields)?.join('.') ?? '*';
        throw new ShardRefused(
          `${name} is neither aggregated nor in the GROUP BY of a statement that goes to several shards`,
          `Put ${name} into the GROUP BY`,
        );
      }
      if ('SubLink' in node) this.#checkSubLink(node);
      return 'SubLink' in node ? node : undefined;
    };
    return replace(tree) ?? replaceNodes(tree, replace);
  }

  readonly #isAggregate = (name: string) => this.#analysis.placement.isAggregate(name);

  /** It stays in the last step, which knows no row outside of it. */
  #checkSubLink(node: Extract<Node, { SubLink: unknown }>): void {
    const { subselect } = node.SubLink;
    if (!subselect || !('SelectStmt' in subselect)) return;
    const { scope, ctes } = this.#level;
    const inner = new Level(this.#analysis, subselect.SelectStmt, scope, ctes);
    if (inner.isCorrelated || ctes.size > 0) {
      throw new ShardRefused(
        'A subquery beside aggregates over several shards looks at the group outside of it',
        'Select the aggregates in a subquery in FROM, and join it',
      );
    }
  }

  #groupSlot(node: Node): Node {
    return this.#slot({ kind: 'value', columns: [this.#column(node, true)] });
  }

  #combined(call: FuncCall): Node {
    const name = functionName(call);
    if (call.agg_distinct) {
      const args = (call.args ?? []).map(arg => this.#groupSlot(arg));
      return { FuncCall: { ...call, args } };
    }
    const whole = { FuncCall: call };
    if (name === 'count')
      return this.#slot({ kind: 'count', columns: [this.#column(whole, false)] });
    if (name === 'sum') return this.#slot({ kind: 'sum', columns: [this.#column(whole, false)] });
    if (name === 'avg') {
      const part = (other: string) =>
        this.#column({ FuncCall: { ...call, funcname: [{ String: { sval: other } }] } }, false);
      return this.#slot({ kind: 'average', columns: [part('sum'), part('count')] });
    }
    return this.#slot({ kind: 'same', name, columns: [this.#column(whole, false)] });
  }

  /** The aggregate as it is, over columns of the rows. */
  #overRows(node: Node): Node {
    const [type, fields] = nodeOf(node);
    const over = (tree: unknown): unknown => {
      if (Array.isArray(tree)) return tree.map(over);
      if (typeof tree !== 'object' || tree === null) return tree;
      const [name, inner] = nodeOf(tree);
      if (name === undefined || name === 'SortBy' || name === 'NamedArgExpr' || isJson(name)) {
        const changed = Object.fromEntries(
          Object.entries(inner).map(([field, value]) => [field, over(value)]),
        );
        return name === undefined ? changed : { [name]: changed };
      }
      return hasColumn(tree) ? this.#groupSlot(tree as Node) : tree;
    };
    const changed = Object.fromEntries(
      Object.entries(fields).map(([name, value]) => [
        name,
        name === 'funcname' ? value : over(value),
      ]),
    );
    return { [type!]: changed } as unknown as Node;
  }

  #slot(slot: Slot): Node {
    const same = this.#slots.findIndex(one => keyOf(one) === keyOf(slot));
    const index = same >= 0 ? same : this.#slots.push(slot) - 1;
    return column(`${this.#prefix}s${index}`);
  }

  #column(node: Node, isGroup: boolean): number {
    const key = this.#meaningOf(node);
    const known = this.#columns.get(key);
    if (known) return known.place;
    const place = this.#columns.size;
    this.#columns.set(key, { node, place, isGroup });
    return place;
  }

  /** The same for trees that mean the same: `tag` and `t.tag` may be one column, and Drizzle writes both of it. */
  #meaningOf(tree: Node): string {
    const { resolve } = this.#level.scope;
    const named = (node: Node): Node | undefined => {
      // Its names are not of this level.
      if ('SubLink' in node) return node;
      const found = 'ColumnRef' in node ? resolve(node.ColumnRef.fields) : undefined;
      return found && { ColumnRef: { fields: [{ Integer: { ival: found.id } }] } };
    };
    return keyOf(named(tree) ?? replaceNodes(tree, named));
  }

  #call(name: string, args: Node[]): Node {
    return {
      FuncCall: {
        funcname: [{ String: { sval: name } }],
        ...(args.length ? { args } : { agg_star: true }),
        funcformat: 'COERCE_EXPLICIT_CALL',
      },
    };
  }

  #aggregates(): [type: string, call: FuncCall][] {
    const { targetList, havingClause, sortClause, windowClause } = this.#level.select;
    const found: [string, FuncCall][] = [];
    walk([targetList, havingClause, sortClause, windowClause], (type, fields) => {
      if (type === 'SubLink') return false;
      if (!isAggregateCall(type, fields, this.#isAggregate)) return true;
      found.push([type!, fields as FuncCall]);
      return false;
    });
    return found;
  }
}
