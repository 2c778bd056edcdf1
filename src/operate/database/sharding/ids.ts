/**
 * `banyan.next_id()`: the default for a column that is to be unique over all shards. As `nextId()` of the application
 * (`app/ids/`), whose layout it shares: time first, so that new rows lie together in their indexes.
 *
 *     41 bits   milliseconds since 2025
 *      1 bit    1: made by a database
 *      6 bits   which shard
 *     15 bits   a counter, which goes round
 *
 * Two ids of one shard are equal only if exactly a multiple of 32,768 ids were made between them and the clock
 * said the same millisecond both times: not while the clock goes forward, since no server makes 32 million ids a
 * second; and after it was set back, or after a failover to a server that is behind, not within the next 32,767 ids.
 */
import { ID_EPOCH_MS } from '../../../app/ids/layout.ts';
import { withClient } from '../provision.ts';

/**
 * The schema `banyan` has to be there. Also with a single database: a default that is there at the first rung.
 * @param url the owner's
 */
export async function installIds(url: string, shard: number): Promise<void> {
  await withClient(url, client => client.query(nextIdFunction(shard)));
}

/** SQL that makes the function; may be run again. */
export function nextIdFunction(shard: number): string {
  return `
    create sequence if not exists banyan.id_counter as bigint minvalue 0 maxvalue 32767 start 0 cycle;
    create or replace function banyan.next_id() returns bigint language sql volatile parallel unsafe
    set search_path = pg_catalog, pg_temp as $$
      select (floor(extract(epoch from clock_timestamp()) * 1000)::bigint - ${ID_EPOCH_MS}) << 22
        | ${2 ** 21 + shard * 2 ** 15}::bigint
        | nextval('banyan.id_counter'::regclass)
    $$;`;
}
