/**
 * Puts columns under uniqueness across shards, and takes them out of it: the lookup tables, their triggers, and the
 * values of the rows that are there.
 *
 * Holds true here:
 * - A column counts as unique, in the map, only after all values that were there are in its lookup table, each once.
 * - It may be done again at any time: what is there is completed.
 * - **While the application writes**, the map says first that the column is *being filled*: from then on every pool
 *   claims and releases its values, and reads by it still ask all shards. When all pools know, the guard is set: its lock
 *   waits for who has written without claims, and whoever still would is refused. Only then are rows filled in, each
 *   held while its value is claimed. So a row's value is claimed by its writer, or by the fill, or it is refused.
 * - It is taken away in the reverse order: reads ask all shards, then nobody claims, then nothing is there.
 */
import { createHash } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import type { Schema } from '../../../app/database/shards/declaration/schema.ts';
import { Ranges } from '../../../app/database/shards/ranges.ts';
import { lookupName, uniqueColumns } from '../../../app/database/shards/unique/columns.ts';
import {
  dropUniqueGuard,
  dropUniqueTables,
  lookupTable,
  uniqueGuard,
  uniqueNotes,
} from '../../../app/database/shards/unique/tables.ts';
import { MAP_SEEN_MS } from '../../../map/map-file.ts';
import type { RuntimeMap } from '../../../map/runtime-map.ts';
import { withClient } from '../provision.ts';
import { fillLookups, forgetStaleClaims } from './unique-fill.ts';

/** For a database that an application uses meanwhile. */
export interface Online {
  /** What the map says is unique, before. */
  readonly before: readonly string[];
  /** Publishes the map with these; `filling` are those of them that reads are not to go by. */
  announce(unique: readonly string[], filling: readonly string[]): Promise<void>;
}

/**
 * @param urls the owner's, to the primary of each shard in the map's order
 * @param database as the map will say it
 * @param online undefined: nobody uses the database
 * @throws ValuesNotUnique, UnusableUniqueColumn; nothing is changed then
 */
export async function keepUnique(
  urls: readonly string[],
  database: RuntimeMap['database'],
  schema: Schema,
  online?: Online,
): Promise<void> {
  const columns = uniqueColumns(database, schema);
  const mark = markOf(database);
  const present = await Promise.all(urls.map(url => withClient(url, lookupsOf)));
  const wanted = new Set(columns.map(({ lookup }) => lookup));
  const gone = new Set(present.flatMap(lookups => [...lookups.keys()]));
  for (const lookup of wanted) gone.delete(lookup);
  const unique = database.unique ?? [];
  const kept = online?.before.filter(name => unique.includes(name)) ?? [];
  await take(urls, [...gone], kept, online);
  const missing = columns.filter(
    ({ lookup }) => !present.every(lookups => lookups.get(lookup) === mark),
  );
  if (missing.length === 0) return;
  await each(urls, missing, column => `begin; ${uniqueNotes(column)} commit`);
  try {
    const names = unique.filter(name => missing.some(({ lookup }) => lookup === lookupName(name)));
    if (online) {
      await online.announce([...new Set([...kept, ...names])], names);
      await delay(MAP_SEEN_MS);
    }
    await each(urls, missing, column => `begin; ${uniqueGuard(column)} commit`);
    const ranges = new Ranges(database.shards.map(({ range }) => range));
    for (const column of missing) {
      await fillLookups(urls, column, ranges);
      if (online) await forgetStaleClaims(urls, column, ranges);
    }
  } catch (error) {
    // As it was: a guard without claims would refuse every write.
    const lookups = missing.map(({ lookup }) => lookup);
    await take(urls, lookups, kept, online && { ...online, before: [...kept, ...unique] });
    throw error;
  }
  await each(urls, missing, column => `comment on table ${lookupTable(column)} is '${mark}'`);
}

/** @param kept what stays unique, in the map */
async function take(
  urls: readonly string[],
  lookups: readonly string[],
  kept: readonly string[],
  online: Online | undefined,
): Promise<void> {
  if (lookups.length === 0) return;
  if (online) {
    const going = online.before.filter(name => lookups.includes(lookupName(name)));
    await online.announce([...new Set([...kept, ...going])], going);
    await delay(MAP_SEEN_MS);
  }
  await each(urls, lookups, dropUniqueGuard);
  if (online) {
    await online.announce(kept, []);
    await delay(MAP_SEEN_MS);
  }
  await each(urls, lookups, dropUniqueTables);
}

async function each<T>(
  urls: readonly string[],
  list: readonly T[],
  text: (item: T) => string,
): Promise<void> {
  for (const url of urls) {
    await withClient(url, async client => {
      for (const item of list) await client.query(text(item));
    });
  }
}

/** What a lookup table says of itself when it has all values, each on the shard that owns it. */
function markOf({ shards }: RuntimeMap['database']): string {
  const ranges = JSON.stringify(shards.map(({ range }) => range));
  return `complete for ${createHash('sha256').update(ranges).digest('hex')}`;
}

/** The lookup tables of a shard, with what they say of themselves. */
async function lookupsOf(client: pg.ClientBase): Promise<Map<string, string | null>> {
  const { rows } = await client.query<{ name: string; mark: string | null }>(
    `select relname as name, obj_description(c.oid, 'pg_class') as mark from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where n.nspname = 'banyan' and relkind = 'r' and relname ~ '_unique_[0-9a-f]{10}$'`,
  );
  return new Map(rows.map(({ name, mark }) => [name, mark]));
}
