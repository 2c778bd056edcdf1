/** UPDATE and DELETE as the query of the same tables and conditions. */
import type { DeleteStmt, SelectStmt, UpdateStmt } from 'libpg-query';

export type Change = { UpdateStmt: UpdateStmt } | { DeleteStmt: DeleteStmt };

/**
 * Its tables and conditions as a query.
 * @param schema of the table that it writes, which no WITH query can hide
 */
export function asQuery(change: Change, schema: string): SelectStmt {
  const statement = 'UpdateStmt' in change ? change.UpdateStmt : change.DeleteStmt;
  const more =
    'UpdateStmt' in change ? change.UpdateStmt.fromClause : change.DeleteStmt.usingClause;
  const sets = 'UpdateStmt' in change ? (change.UpdateStmt.targetList ?? []) : [];
  const { withClause, relation, whereClause, returningClause } = statement;
  return {
    ...(withClause ? { withClause } : {}),
    targetList: [...sets, ...(returningClause?.exprs ?? [])],
    fromClause: [
      ...(relation
        ? [{ RangeVar: { ...relation, ...(schema ? { schemaname: schema } : {}) } }]
        : []),
      ...(more ?? []),
    ],
    ...(whereClause ? { whereClause } : {}),
    limitOption: 'LIMIT_OPTION_DEFAULT',
    op: 'SETOP_NONE',
  };
}
