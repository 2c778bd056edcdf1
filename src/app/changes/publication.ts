/**
 * Makes the publication: which tables the log is read of.
 *
 * Holds true here:
 * - **A table without an identity is never published as it is**: from that moment on its UPDATEs and DELETEs would
 *   fail, though CREATE PUBLICATION succeeds.
 * - What is right already is left alone: ALTER PUBLICATION locks tables for a moment.
 * - The changes of a partitioned table are told under its own name, not under its partitions'.
 */
import type pg from 'pg';
import { escapeIdentifier } from 'pg';
import { sqlName } from '../database/sql-name.ts';
import { NoIdentity, NoSuchTable } from './errors.ts';

export interface PublicationOptions {
  readonly name: string;
  /** By `schema.table`, as the map names them; or all of the database's own that are there now. */
  readonly tables: readonly string[] | 'all';
  /**
   * What to do with tables that have no identity. `full`: the log is told all of the old row, which is right and
   * makes more log. `skip`: leave them out, of `all` alone. Default: `refuse`.
   */
  readonly withoutIdentity?: 'refuse' | 'full' | 'skip';
  /** Beside `all`: tables of Banyan's own, whose `schema.table` matches one of these regular expressions. */
  readonly also?: readonly string[];
}

interface Table {
  schema: string;
  name: string;
  identified: boolean;
}

/** Tables that can be published: permanent, no partition, not Banyan's own and not an extension's. */
const TABLES = `
  select n.nspname as schema, c.relname as name,
    case c.relreplident
      when 'f' then true
      when 'n' then false
      when 'i' then exists (select from pg_index where indrelid = c.oid and indisreplident)
      else exists (select from pg_index where indrelid = c.oid and indisprimary) end as identified
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where c.relkind in ('r', 'p') and c.relpersistence = 'p' and not c.relispartition
    and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_toast'
    and ($1::text[] is not null or n.nspname <> 'banyan' or n.nspname || '.' || c.relname ~ any ($2::text[]))
    and ($1::text[] is null or n.nspname || '.' || c.relname = any ($1))
    and not exists (select from pg_depend
      where classid = 'pg_class'::regclass and objid = c.oid and deptype = 'e')
  order by 1, 2`;

const PUBLISHED = `
  select n.nspname as schema, c.relname as name
  from pg_publication p join pg_publication_rel r on r.prpubid = p.oid
    join pg_class c on c.oid = r.prrelid join pg_namespace n on n.oid = c.relnamespace
  where p.pubname = $1`;

/**
 * Makes the publication if it is absent, and its tables what they should be.
 * @param client to the primary, as the owner of the tables or a superuser
 * @param where for errors
 * @returns whether anything was changed
 * @throws NoIdentity, NoSuchTable; what the queries throw
 */
export async function preparePublication(
  client: pg.ClientBase,
  options: PublicationOptions,
  where: string,
): Promise<boolean> {
  const { name, tables, withoutIdentity = 'refuse', also = [] } = options;
  const wanted = await wantedTables(client, tables, also, withoutIdentity, where);
  const publication = escapeIdentifier(name);
  const exists = await client.query('select from pg_publication where pubname = $1', [name]);
  if (exists.rowCount === 0) {
    const list = wanted.length > 0 ? ` for table ${listOf(wanted)}` : '';
    try {
      await client.query(
        `create publication ${publication}${list} with (publish_via_partition_root = true)`,
      );
      return true;
    } catch (error) {
      // Another process was quicker.
      if ((error as { code?: string }).code !== '42710') throw error;
    }
  }
  const { rows } = await client.query<Table>(PUBLISHED, [name]);
  const there = new Set(rows.map(titleOf));
  const should = new Set(wanted.map(titleOf));
  const missing = wanted.filter(table => !there.has(titleOf(table)));
  const surplus = rows.filter(table => !should.has(titleOf(table)));
  if (missing.length > 0) {
    await client.query(`alter publication ${publication} add table ${listOf(missing)}`);
  }
  if (surplus.length > 0) {
    await client.query(`alter publication ${publication} drop table ${listOf(surplus)}`);
  }
  return missing.length + surplus.length > 0;
}

async function wantedTables(
  client: pg.ClientBase,
  tables: readonly string[] | 'all',
  also: readonly string[],
  withoutIdentity: 'refuse' | 'full' | 'skip',
  where: string,
): Promise<Table[]> {
  const { rows } = await client.query<Table>(TABLES, [tables === 'all' ? null : tables, also]);
  if (tables !== 'all') {
    const found = new Set(rows.map(titleOf));
    const absent = tables.filter(table => !found.has(table));
    if (absent.length > 0) throw new NoSuchTable(where, absent);
  }
  const nameless = rows.filter(({ identified }) => !identified);
  if (nameless.length === 0) return rows;
  if (withoutIdentity === 'skip' && tables === 'all') return rows.filter(each => each.identified);
  if (withoutIdentity !== 'full') throw new NoIdentity(where, nameless.map(titleOf));
  for (const table of nameless) {
    await client.query(`alter table ${listOf([table])} replica identity full`);
  }
  return rows;
}

function titleOf({ schema, name }: Pick<Table, 'schema' | 'name'>): string {
  return `${schema}.${name}`;
}

function listOf(tables: readonly Pick<Table, 'schema' | 'name'>[]): string {
  return tables.map(({ schema, name }) => sqlName(schema, name)).join(', ');
}
