/**
 * What stands in the way of a move by logical replication, looked for before anything is touched; and what is made
 * ready for it.
 */

import type pg from 'pg';
import { sqlName } from '../../../app/database/sql-name.ts';
import { BanyanError } from '../../../errors.ts';

/** Whatever runs a query: a client or a pool. */
export type Queryable = Pick<pg.Client, 'query'>;

export interface MovedTable {
  schema: string;
  name: string;
  /** Columns that tell its rows apart; none when only the whole row does. */
  key: string[];
}

export class NotMovable extends BanyanError {
  constructor(obstacles: string[]) {
    super('NOT_MOVABLE', {
      what: `The database cannot be moved as it is: ${obstacles.join('; ')}`,
      where: 'the database that serves now',
      remedy: 'Nothing was changed. Change these, and try again',
    });
  }
}

/** Each query gives the obstacles of one kind, a line each. `from` to `below`: majors of source and target. */
const OBSTACLES: { query: string; olderTargetThan?: number }[] = [
  {
    query: `select 'it holds ' || count(*) || ' large objects (lo_create), which do not travel; keep them as bytea'
            from pg_largeobject_metadata having count(*) > 0`,
  },
  {
    query: `select format('the transaction %L is prepared and not finished (COMMIT PREPARED, ROLLBACK PREPARED)', gid)
            from pg_prepared_xacts where database = current_database()`,
  },
  {
    query: `select format('%I.%I is a foreign table, which the other server may not reach', n.nspname, c.relname)
            from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.relkind = 'f'`,
  },
  {
    query: `select format('%I.%I is unlogged and would arrive empty', n.nspname, c.relname)
            from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where c.relkind in ('r', 'm') and c.relpersistence = 'u'`,
  },
  {
    olderTargetThan: 18,
    query: `select format('%I.%I.%I is a virtual generated column, which PostgreSQL has from 18 on', n.nspname, c.relname, a.attname)
            from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
            where a.attgenerated = 'v'`,
  },
  {
    olderTargetThan: 18,
    query: `select format('the constraint %I of %I.%I is NOT ENFORCED or WITHOUT OVERLAPS, which PostgreSQL has from 18 on', k.conname, n.nspname, c.relname)
            from pg_constraint k join pg_class c on c.oid = k.conrelid join pg_namespace n on n.oid = c.relnamespace
            where coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true) = false
               or coalesce((to_jsonb(k) ->> 'conperiod')::boolean, false)`,
  },
  {
    olderTargetThan: 17,
    query: `select format('%I.%I.%I is an identity column of a partitioned table, which PostgreSQL has from 17 on', n.nspname, c.relname, a.attname)
            from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
            where a.attidentity <> '' and c.relkind = 'p'`,
  },
];

/**
 * @throws NotMovable
 */
export async function requireMovable(
  source: Queryable,
  target: Queryable,
  targetMajor: number,
): Promise<void> {
  const obstacles: string[] = [];
  for (const { query, olderTargetThan = Number.POSITIVE_INFINITY } of OBSTACLES) {
    if (targetMajor >= olderTargetThan) continue;
    const { rows } = await source.query({ text: query, rowMode: 'array' });
    obstacles.push(...rows.flat().map(String));
  }
  const installed = await source.query<{ name: string }>(
    'select extname as name from pg_extension order by 1',
  );
  const available = await target.query<{ name: string }>(
    'select name from pg_available_extensions',
  );
  const has = new Set(available.rows.map(({ name }) => name));
  for (const { name } of installed.rows) {
    if (!has.has(name))
      obstacles.push(`the extension ${name} is not installed for the other PostgreSQL`);
  }
  if (obstacles.length > 0) throw new NotMovable(obstacles);
}

/** All tables with rows of their own, partitions and not the tables that they are parts of. */
export async function tablesOf(source: Queryable): Promise<MovedTable[]> {
  const { rows } = await source.query<MovedTable>(
    `select n.nspname as schema, c.relname as name,
            coalesce((select array_agg(a.attname::text order by a.attnum)
                      from pg_index i join pg_attribute a
                        on a.attrelid = i.indrelid and a.attnum = any (i.indkey::int2[])
                      where i.indrelid = c.oid and i.indisprimary), '{}') as key
     from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relkind = 'r' and c.relpersistence = 'p'
       and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname not like 'pg\\_%'
       and not exists (select from pg_depend d
                       where d.objid = c.oid and d.classid = 'pg_class'::regclass and d.deptype = 'e')
     order by 1, 2`,
  );
  return rows;
}

/**
 * Tables that changes cannot be followed in, since nothing tells their rows apart, get the whole row for it.
 * Without that, UPDATE and DELETE on them would fail from the moment of the publication on.
 */
export async function giveIdentities(source: Queryable): Promise<void> {
  const { rows } = await source.query<{ name: string }>(
    `select c.oid::regclass::text as name
     from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relkind = 'r' and c.relpersistence = 'p'
       and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname not like 'pg\\_%'
       and (c.relreplident = 'n' or (c.relreplident = 'd' and not exists (
             select from pg_index i where i.indrelid = c.oid and i.indisprimary)))`,
  );
  for (const { name } of rows) await source.query(`alter table ${name} replica identity full`);
}

/** As SQL names it. */
export function nameOf({ schema, name }: MovedTable): string {
  return sqlName(schema, name);
}
