/** INSERT into a reference table: made once, on the first shard, and copied. */
import type { InsertStmt } from 'libpg-query';
import type { Parser } from '../../route/parser.ts';
import { type PlacedTable, qualified } from './placement.ts';
import type { CopiedInsertAction } from './plan.ts';
import { ShardRefused } from './refused.ts';
import { clone, column, quote, target, write } from './tree.ts';

/** An INSERT into a reference table. */
export function planCopiedInsert(
  insert: InsertStmt,
  table: PlacedTable,
  parser: Parser,
): CopiedInsertAction {
  const columns = table.columns.filter(({ isGenerated }) => !isGenerated);
  const list = columns.map(({ name }) => quote(name)).join(', ');
  const { action } = insert.onConflictClause ?? {};
  let conflict = '';
  if (action === 'ONCONFLICT_UPDATE') {
    const { primaryKey } = table;
    const changesKey = (insert.onConflictClause?.targetList ?? []).some(
      item => 'ResTarget' in item && primaryKey.includes(item.ResTarget.name ?? ''),
    );
    if (primaryKey.length === 0 || changesKey) {
      throw new ShardRefused(
        `ON CONFLICT DO UPDATE on the reference table ${qualified(table)} needs a primary key that it does not change`,
        'Use UPDATE and INSERT in a transaction',
      );
    }
    const others = columns.filter(({ name }) => !primaryKey.includes(name));
    const sets = others.map(({ name }) => `${quote(name)} = excluded.${quote(name)}`).join(', ');
    conflict = ` on conflict (${primaryKey.map(quote).join(', ')}) do ${sets ? `update set ${sets}` : 'nothing'}`;
  }
  const own = insert.relation?.alias?.aliasname ?? insert.relation?.relname ?? table.name;
  const returning = columns.map(({ name }, i) => target(column(own, name), `c${i + 1}`));
  const first: InsertStmt = {
    ...insert,
    returningClause: {
      ...insert.returningClause,
      exprs: [...returning, ...(insert.returningClause?.exprs ?? [])],
    },
  };
  const from = columns.map((_one, i) => `$${i + 1}::text[]`).join(', ');
  const values = columns.map(({ type }, i) => `a${i + 1}::${type}`).join(', ');
  const names = columns.map((_one, i) => `a${i + 1}`).join(', ');
  return {
    kind: 'copied insert',
    first: write({ InsertStmt: clone(first) }, parser),
    columns: columns.map(({ name, type }) => ({ name, type })),
    copy: `insert into ${quote(table.schema)}.${quote(table.name)} (${list}) overriding system value select ${values} from unnest(${from}) as u(${names})${conflict}`,
    returnsRows: insert.returningClause !== undefined,
  };
}
