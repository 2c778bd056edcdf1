/**
 * What keeps a column unique across shards, in each shard's database: the lookup table, a trigger that notes which
 * values a statement claims and releases, and a guard. Pure text.
 *
 * Holds true here:
 * - **The database says what changed, not the statement's text**: so an UPDATE, a cascade, a trigger of the
 *   application's and COPY are seen as well. The trigger notes it in a setting of the transaction, which a savepoint
 *   takes back with all else; the pool reads it and writes the lookup tables (`keeper.ts`).
 * - **Whoever writes the table without the pool cannot commit**: the guard, a deferred constraint trigger, finds the
 *   note unread (`UNREAD`). Who has to (a restore) turns triggers off: `session_replication_role = replica`, as
 *   logical replication does by itself.
 */
import pg from 'pg';
import type { UniqueColumn } from './columns.ts';

/** Of the guard. */
export const UNREAD = 'BNY01';

/** The setting with the notes: JSON objects, each with a comma before it. */
const NOTES = 'banyan.unique_notes';

/** Reads the notes of a transaction, and marks them as read. */
export const READ_NOTES = `select current_setting('${NOTES}', true) as notes, set_config('${NOTES}', '', true)`;

/** What one statement changed of one column: values and keys, as text. */
export interface Note {
  readonly lookup: string;
  readonly claimed: [value: string, key: string][] | null;
  readonly released: [value: string, key: string][] | null;
  readonly truncated?: boolean;
}

/** @param notes what `READ_NOTES` gave */
export function parseNotes(notes: string | null): Note[] {
  return notes ? (JSON.parse(`[${notes.slice(1)}]`) as Note[]) : [];
}

export function lookupTable({ lookup }: Pick<UniqueColumn, 'lookup'>): string {
  return `banyan.${pg.escapeIdentifier(lookup)}`;
}

/**
 * SQL that makes all of it on a shard; may be run again.
 * @param role whose the lookup table is to be; default: who runs it
 */
export function uniqueTables(column: UniqueColumn, role?: string): string {
  return uniqueNotes(column, role) + uniqueGuard(column);
}

/** The same without the guard: who does not claim may still write. */
export function uniqueNotes(column: UniqueColumn, role?: string): string {
  const id = pg.escapeIdentifier;
  const table = `${id(column.schema)}.${id(column.table)}`;
  const lookup = lookupTable(column);
  const note = `banyan.${id(`${column.lookup}_note`)}`;
  const trigger = (suffix: string) => id(`banyan_${column.lookup.slice(-10)}_${suffix}`);
  const pairs = `pg_catalog.json_agg(pg_catalog.json_build_array(${id(column.column)}::text, ${id(column.key)}::text))`;
  const rows = (from: string) =>
    `select ${id(column.column)}, ${id(column.key)} from ${from} where ${id(column.column)} is not null`;
  const statementTrigger = (event: string, tables: string) => `
create or replace trigger ${trigger(event)} after ${event} on ${table} ${tables}
  for each statement execute function ${note}();`;
  return `
create schema if not exists banyan;
create table if not exists ${lookup} (value ${column.type} primary key, key ${column.keyDeclared} not null);
${role ? `alter table ${lookup} owner to ${id(role)};` : ''}

create or replace function ${note}() returns trigger language plpgsql as $note$
declare
  claimed json;
  released json;
begin
  if tg_op = 'INSERT' then
    select ${pairs} into claimed from (${rows('fresh')}) changed;
  elsif tg_op = 'DELETE' then
    select ${pairs} into released from (${rows('stale')}) changed;
  elsif tg_op = 'UPDATE' then
    select ${pairs} into claimed from (${rows('fresh')} except all ${rows('stale')}) changed;
    select ${pairs} into released from (${rows('stale')} except all ${rows('fresh')}) changed;
  end if;
  if claimed is not null or released is not null or tg_op = 'TRUNCATE' then
    perform pg_catalog.set_config('${NOTES}',
      coalesce(pg_catalog.current_setting('${NOTES}', true), '') || ',' || pg_catalog.json_build_object(
        'lookup', ${pg.escapeLiteral(column.lookup)}, 'claimed', claimed, 'released', released,
        'truncated', tg_op = 'TRUNCATE')::text, true);
  end if;
  return null;
end
$note$;
${statementTrigger('insert', 'referencing new table as fresh')}
${statementTrigger('update', 'referencing old table as stale new table as fresh')}
${statementTrigger('delete', 'referencing old table as stale')}
${statementTrigger('truncate', '')}
`;
}

/** The guard alone. Its lock waits for who is writing the table. */
export function uniqueGuard(column: UniqueColumn): string {
  const id = pg.escapeIdentifier;
  const table = `${id(column.schema)}.${id(column.table)}`;
  const trigger = id(guardName(column.lookup));
  return `
create or replace function banyan.unique_guard() returns trigger language plpgsql as $guard$
begin
  if coalesce(pg_catalog.current_setting('${NOTES}', true), '') <> '' then
    raise exception 'a value that is unique across shards was changed without Banyan''s pool'
      using errcode = '${UNREAD}', table = tg_table_name, schema = tg_table_schema,
        hint = 'Nothing was kept. Write the table through createPool(); to restore it set session_replication_role = replica';
  end if;
  return null;
end
$guard$;
drop trigger if exists ${trigger} on ${table};
create constraint trigger ${trigger} after insert or delete or update of ${id(column.column)} on ${table}
  deferrable initially deferred for each row execute function banyan.unique_guard();
`;
}

function guardName(lookup: string): string {
  return `banyan_${lookup.slice(-10)}_guard`;
}

/** SQL that takes the guard away: the lookup table is not complete any more. @param lookup its name */
export function dropUniqueGuard(lookup: string): string {
  const guard = pg.escapeLiteral(guardName(lookup));
  return `
begin;
comment on table ${lookupTable({ lookup })} is null;
do $drop$
declare
  guarded regclass;
begin
  select tgrelid::regclass into guarded from pg_trigger where tgname = ${guard};
  if found then execute format('drop trigger %I on %s', ${guard}, guarded); end if;
end
$drop$;
commit`;
}

/** SQL that takes the rest away. @param lookup the lookup table's name */
export function dropUniqueTables(lookup: string): string {
  const note = `banyan.${pg.escapeIdentifier(`${lookup}_note`)}`;
  return `
begin;
drop function if exists ${note}() cascade;
drop table if exists ${lookupTable({ lookup })};
commit`;
}
