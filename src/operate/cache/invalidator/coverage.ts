/**
 * Which tables the log tells of, and by which columns; and how a change of the schema comes to be known.
 *
 * Holds true here:
 * - A table that is published from now on is told as covered only when all transactions that ran at that moment have ended: what
 *   they had done before is not in the log for us.
 * - **A change of the schema may change what rows mean** (a view, a function, a type, a policy), and no row shows it. An event
 *   trigger writes a row into `banyan.schema_changes`, which comes through the log in its place. Where we may not make one
 *   (an external database), the catalog's fingerprint is compared every few seconds.
 */
import type pg from 'pg';
import type { ColumnFamily, Coverages } from '../../../app/cache/tags.ts';
import { LOOKUP_TABLES } from '../../../app/database/shards/unique/columns.ts';
import { hasCode } from '../../../errors.ts';

export const SCHEMA_CHANGES = 'banyan.schema_changes';

/** Banyan's own tables of which the log tells: that one, and those by which a row is found on its shard. */
export const OWN_TABLES = ['^banyan\\.schema_changes$', LOOKUP_TABLES];

interface Row {
  table: string;
  key: string[];
  columns: Record<string, ColumnFamily>;
}

/**
 * Values of these types have one text for each value. A collation that is not deterministic has several texts for equal
 * values, of which a tag would know one.
 */
const COVERAGE = `
  with published as (
    select c.oid, n.nspname || '.' || c.relname as table, c.relreplident
    from pg_publication p join pg_publication_rel r on r.prpubid = p.oid
      join pg_class c on c.oid = r.prrelid join pg_namespace n on n.oid = c.relnamespace
    where p.pubname = $1 and n.nspname || '.' || c.relname <> '${SCHEMA_CHANGES}'
  ), usable as (
    select p.oid, a.attnum, a.attname::text as name,
      case a.atttypid when 'uuid'::regtype then 'uuid' when 'text'::regtype then 'text' when 'varchar'::regtype then 'text'
        else 'integer' end as family
    from published p
      join pg_attribute a on a.attrelid = p.oid and a.attnum > 0 and not a.attisdropped
      left join pg_collation l on l.oid = a.attcollation
    where a.atttypid in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'text'::regtype, 'varchar'::regtype,
      'uuid'::regtype) and coalesce(l.collisdeterministic, true) and a.attgenerated = ''
  ), identity as (
    select p.oid, u.name, u.family, array_position(i.indkey::int2[], u.attnum) as place
    from published p join usable u on u.oid = p.oid
      left join pg_index i on i.indrelid = p.oid and u.attnum = any (i.indkey)
        and (p.relreplident = 'i' and i.indisreplident or p.relreplident = 'd' and i.indisprimary)
    where p.relreplident = 'f' or i.indrelid is not null
  ), first_columns as (
    select distinct i.indrelid as oid, u.name, u.family from pg_index i
      join usable u on u.oid = i.indrelid and u.attnum = i.indkey[0]
  )
  select p.table,
    coalesce((select array_agg(name order by place, name) from identity where oid = p.oid), '{}') as key,
    coalesce((select jsonb_object_agg(name, family) from
      (select oid, name, family from identity union select * from first_columns) covered where oid = p.oid), '{}') as columns
  from published p order by 1`;

export async function readCoverage(client: pg.ClientBase, publication: string): Promise<Coverages> {
  const { rows } = await client.query<Row>(COVERAGE, [publication]);
  return Object.fromEntries(rows.map(({ table, key, columns }) => [table, { key, columns }]));
}

/** Where the log ends now. */
export async function logEnd(client: pg.ClientBase): Promise<string> {
  const { rows } = await client.query<{ lsn: string }>(
    'select pg_current_wal_insert_lsn()::text as lsn',
  );
  return rows[0]!.lsn;
}

/** Banyan's own objects are no concern of what the application reads, the queue's neither; nor are temporary ones. */
const TRIGGER = `
  create schema if not exists banyan;
  create table if not exists ${SCHEMA_CHANGES} (id bigint generated always as identity primary key, tag text, at timestamptz not null default now());
  create or replace function banyan.note_schema_change() returns event_trigger
  language plpgsql security definer set search_path = pg_catalog as $body$
  declare concerns boolean;
  begin
    if tg_event = 'sql_drop' then
      select bool_or(not is_temporary and coalesce(schema_name, '') not in ('banyan', 'banyan_queue', 'pg_toast')) into concerns
      from pg_event_trigger_dropped_objects();
    else
      select bool_or(coalesce(schema_name, '') not in ('banyan', 'banyan_queue', 'pg_temp', 'pg_toast')
          and not (object_type = 'schema' and object_identity = 'banyan_queue') and schema_name is distinct from 'pg_temp'
          and command_tag not in ('COMMENT', 'CREATE PUBLICATION', 'ALTER PUBLICATION', 'CREATE SUBSCRIPTION', 'ALTER SUBSCRIPTION'))
      into concerns from pg_event_trigger_ddl_commands();
    end if;
    if concerns then
      delete from banyan.schema_changes where at < now() - interval '1 hour';
      insert into banyan.schema_changes (tag) values (tg_tag);
    end if;
  -- A statement of the application never fails because of this.
  exception when undefined_table then return;
  end $body$;
  drop event trigger if exists banyan_schema_change;
  drop event trigger if exists banyan_schema_drop;
  create event trigger banyan_schema_change on ddl_command_end execute function banyan.note_schema_change();
  create event trigger banyan_schema_drop on sql_drop execute function banyan.note_schema_change();
`;

const TRIGGER_STANDS = `
  select to_regclass('${SCHEMA_CHANGES}') is not null
    and (select count(*) = 2 from pg_event_trigger where evtname in ('banyan_schema_change', 'banyan_schema_drop')
      and evtenabled <> 'D') as stands`;

/** @returns whether changes of the schema come through the log; false where we may not make the trigger */
export async function watchSchema(client: pg.ClientBase): Promise<boolean> {
  const { rows } = await client.query<{ stands: boolean }>(TRIGGER_STANDS);
  if (rows[0]!.stands) return true;
  try {
    await client.query(`begin; ${TRIGGER} commit`);
    return true;
  } catch (error) {
    await client.query('rollback').catch(() => {});
    if (hasCode(error, '42501', '23505', '42P07', '42710', 'XX000')) return false;
    throw error;
  }
}

/** Takes the trigger away again. */
export const STOP_WATCHING = `
  drop event trigger if exists banyan_schema_change;
  drop event trigger if exists banyan_schema_drop;
  drop function if exists banyan.note_schema_change();
  drop table if exists ${SCHEMA_CHANGES};`;

/**
 * Each row of these catalogs has the number of the transaction that last changed it. Of `pg_class` that says too much: TRUNCATE, REINDEX and
 * VACUUM FULL write there as well, and change nothing that the log does not tell.
 */
const FINGERPRINT = `
  select md5(string_agg(part, ',' order by part)) as print from (
    select concat_ws('.', 'c', c.oid, c.relname, c.relnamespace, c.relkind, c.relowner, c.relpersistence, c.relreplident,
      c.relrowsecurity, c.relforcerowsecurity, c.relispartition, c.relhassubclass) as part from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where c.relpersistence <> 't' and n.nspname not in ('banyan', 'pg_catalog', 'information_schema') and n.nspname !~ '^pg_'
    union all
    select 'a' || a.attrelid || '.' || a.attnum || '.' || a.xmin from pg_attribute a join pg_class c on c.oid = a.attrelid
      join pg_namespace n on n.oid = c.relnamespace
      where a.attnum > 0 and c.relpersistence <> 't' and n.nspname not in ('banyan', 'pg_catalog', 'information_schema')
        and n.nspname !~ '^pg_'
    union all
    select 'p' || p.oid || '.' || p.xmin from pg_proc p join pg_namespace n on n.oid = p.pronamespace
      where n.nspname not in ('banyan', 'pg_catalog', 'information_schema')
    union all
    select 'r' || r.oid || '.' || r.xmin from pg_rewrite r where r.oid >= 16384
    union all
    select 'y' || oid || '.' || xmin from pg_policy
  ) parts`;

export async function fingerprint(client: pg.ClientBase): Promise<string> {
  const { rows } = await client.query<{ print: string | null }>(FINGERPRINT);
  return rows[0]!.print ?? '';
}
