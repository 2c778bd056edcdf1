/**
 * The name that PostgreSQL gives to a column of a result for which the statement gives none.
 *
 * Source: FigureColname of src/backend/parser/parse_target.c.
 */
import type { Node } from 'libpg-query';
import { stringOf } from './tree.ts';

const NAMELESS = '?column?';

export function outputName(node: Node | undefined): string {
  return figure(node)[0] ?? NAMELESS;
}

/** With its strength: a cast's type gives way to the name of what is cast. */
function figure(node: Node | undefined): [name: string | undefined, strength: 0 | 1 | 2] {
  if (!node) return [undefined, 0];
  if ('ColumnRef' in node) {
    const names = (node.ColumnRef.fields ?? []).map(stringOf).filter(name => name !== undefined);
    return named(names.at(-1));
  }
  if ('A_Indirection' in node) {
    const names = (node.A_Indirection.indirection ?? [])
      .map(stringOf)
      .filter(name => name !== undefined);
    return names.length ? named(names.at(-1)) : figure(node.A_Indirection.arg);
  }
  if ('FuncCall' in node) return named(stringOf(node.FuncCall.funcname?.at(-1)));
  if ('A_Expr' in node)
    return node.A_Expr.kind === 'AEXPR_NULLIF' ? named('nullif') : [undefined, 0];
  if ('TypeCast' in node) {
    const inner = figure(node.TypeCast.arg);
    if (inner[1] > 1) return inner;
    const type = stringOf(node.TypeCast.typeName?.names?.at(-1));
    return type === undefined ? inner : [type, 1];
  }
  if ('CollateClause' in node) return figure(node.CollateClause.arg);
  if ('GroupingFunc' in node) return named('grouping');
  if ('SubLink' in node) {
    const { subLinkType, subselect } = node.SubLink;
    if (subLinkType === 'EXISTS_SUBLINK') return named('exists');
    if (subLinkType === 'ARRAY_SUBLINK') return named('array');
    if (subLinkType !== 'EXPR_SUBLINK' || !subselect || !('SelectStmt' in subselect))
      return [undefined, 0];
    let select = subselect.SelectStmt;
    while (select.larg) select = select.larg;
    const [first] = select.targetList ?? [];
    if (!first || !('ResTarget' in first)) return [undefined, 0];
    return first.ResTarget.name ? named(first.ResTarget.name) : figure(first.ResTarget.val);
  }
  if ('CaseExpr' in node) {
    const inner = figure(node.CaseExpr.defresult);
    return inner[1] <= 1 ? ['case', 1] : inner;
  }
  if ('A_ArrayExpr' in node) return named('array');
  if ('RowExpr' in node) return named('row');
  if ('CoalesceExpr' in node) return named('coalesce');
  if ('MinMaxExpr' in node) return named(node.MinMaxExpr.op === 'IS_LEAST' ? 'least' : 'greatest');
  if ('SQLValueFunction' in node) {
    const name = (node.SQLValueFunction.op ?? '').replace(/^SVFOP_/, '').replace(/_N$/, '');
    return named(name.toLowerCase());
  }
  if ('XmlExpr' in node) return [undefined, 2];
  if ('XmlSerialize' in node) return named('xmlserialize');
  return [undefined, 0];
}

function named(name: string | undefined): [string | undefined, 0 | 2] {
  return name === undefined ? [undefined, 0] : [name, 2];
}
