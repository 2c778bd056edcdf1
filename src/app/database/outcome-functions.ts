/**
 * What `outcome.ts` has to ask and an ordinary role may not: two functions that Banyan makes as superuser
 * when it sets a database up. Pure text.
 *
 * Holds true here:
 * - They run as the superuser who made them, with a fixed search path, and only the application's role may
 *   call them. They read the log's folder alone, and the names in it are made of numbers.
 * - `timeline_history` gives away where timelines were left. `log_holds` gives away yes or no: whether 16
 *   given bytes end a record at a given place. Neither shows data.
 *
 * A database that Banyan does not run has none of this. Then the outcome of a COMMIT is known as long as the
 * server was not started anew, and else unknown.
 */
import pg from 'pg';

/**
 * How far before the end of the marker's record its token is looked for, in bytes: the 16 of the token,
 * up to 7 that align the record, and a page's header when the record spans two.
 */
const WINDOW_BYTES = 128;

/** A page's header where no segment begins (`SizeOfXLogShortPHD`, src/include/access/xlog_internal.h). */
const PAGE_HEADER_BYTES = 24;

/**
 * SQL that makes the functions in the database that it is run in, as superuser; may be run again.
 * @param role the application's
 */
export function outcomeFunctions(role: string): string {
  const grantee = pg.escapeIdentifier(role);
  return `
create schema if not exists banyan;
grant usage on schema banyan to ${grantee};

create or replace function banyan.timeline_history(timeline integer) returns text
language sql volatile strict security definer set search_path = pg_catalog, pg_temp
as $$
  select pg_read_file('pg_wal/' || upper(lpad(to_hex(timeline), 8, '0')) || '.history', 0, 1048576, true)
$$;

-- Null when that part of the log is no longer there. The newest timeline's file is the one that this server
-- goes by, so the timelines are given from the newest to the oldest.
create or replace function banyan.log_holds(record_end pg_lsn, timelines integer[], token bytea)
returns boolean
language plpgsql volatile strict security definer set search_path = pg_catalog, pg_temp
as $$
declare
  segment_size constant bigint := pg_size_bytes(current_setting('wal_segment_size'));
  page_size constant bigint := current_setting('wal_block_size')::bigint;
  end_at constant bigint := (record_end - '0/0'::pg_lsn)::bigint;
  segment constant bigint := (end_at - 1) / segment_size;
  start_at constant bigint := end_at - ${WINDOW_BYTES};
  page_at constant bigint := (end_at - 1) / page_size * page_size;
  per_id constant bigint := 4294967296 / segment_size;
  file text;
  found bytea;
  timeline integer;
begin
  if octet_length(token) <> 16 then
    raise exception 'a token has 16 bytes' using errcode = 'invalid_parameter_value';
  end if;
  if record_end > pg_current_wal_flush_lsn() then return false; end if;
  -- The record may begin in the segment before.
  if start_at < segment * segment_size then return null; end if;
  foreach timeline in array timelines loop
    file := upper(lpad(to_hex(timeline), 8, '0') || lpad(to_hex(segment / per_id), 8, '0')
      || lpad(to_hex(segment % per_id), 8, '0'));
    found := pg_read_binary_file('pg_wal/' || file, start_at - segment * segment_size,
      ${WINDOW_BYTES}, true);
    continue when found is null or octet_length(found) < ${WINDOW_BYTES};
    if page_at > start_at then
      found := substring(found from 1 for (page_at - start_at)::integer)
        || substring(found from (page_at - start_at)::integer + ${PAGE_HEADER_BYTES + 1});
    end if;
    return position(token in found) > 0;
  end loop;
  return null;
end
$$;

revoke all on function banyan.timeline_history(integer),
  banyan.log_holds(pg_lsn, integer[], bytea) from public;
grant execute on function banyan.timeline_history(integer),
  banyan.log_holds(pg_lsn, integer[], bytea) to ${grantee};
`;
}
