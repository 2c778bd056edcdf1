/**
 * Puts columns under uniqueness across shards, and takes them out of it: the lookup tables, their triggers, and the
 * values of the rows that are there.
 *
 * Holds true here:
 * - A column counts as unique, in the map, only after all values that were there are in its lookup table, each once.
 * - It may be done again at any time: what is there is completed.
 * - From when the guard is there until the map says so, writes of that column by an application that runs are refused
 *   (`BNY01`): nothing is written that nobody would know of. For a table without rows that is a moment.
 */
import { createHash } from 'node:crypto';
import type pg from 'pg';
import type { Schema } from '../../../app/database/shards/declaration/schema.ts';
import { Ranges } from '../../../app/database/shards/ranges.ts';
import { type UniqueColumn, uniqueColumns } from '../../../app/database/shards/unique/columns.ts';
import {
  dropUniqueTables,
  lookupTable,
  uniqueTables,
} from '../../../app/database/shards/unique/tables.ts';
import { BanyanError } from '../../../errors.ts';
import type { RuntimeMap } from '../../../map/runtime-map.ts';
import { withClient } from '../provision.ts';

/** Rows that are copied at once. */
const BATCH = 5_000;

/** Two rows, on different shards, have the same value. */
export class ValuesNotUnique extends BanyanError {
  constructor({ schema, table, column }: UniqueColumn, value: string) {
    super('VALUES_NOT_UNIQUE', {
      what: `${schema}.${table}.${column} cannot be unique across shards: more than one row has the value ${value}`,
      where: 'database.unique',
      remedy:
        'Change one of the rows and run the command again, or take the column out of `unique`',
    });
  }
}

/**
 * @param urls the owner's, to the primary of each shard in the map's order
 * @param database as the map will say it
 * @throws ValuesNotUnique, UnusableUniqueColumn
 */
export async function keepUnique(
  urls: readonly string[],
  database: RuntimeMap['database'],
  schema: Schema,
): Promise<void> {
  const columns = uniqueColumns(database, schema);
  const mark = markOf(database);
  const wanted = new Set(columns.map(({ lookup }) => lookup));
  const present = await Promise.all(urls.map(url => withClient(url, lookupsOf)));
  for (const [shard, url] of urls.entries()) {
    const others = [...present[shard]!.keys()].filter(lookup => !wanted.has(lookup));
    await withClient(url, async client => {
      for (const lookup of others) await client.query(dropUniqueTables(lookup));
    });
  }
  const ranges = new Ranges(database.shards.map(({ range }) => range));
  for (const column of columns) {
    if (present.every(lookups => lookups.get(column.lookup) === mark)) continue;
    for (const url of urls) {
      await withClient(url, client => client.query(`begin; ${uniqueTables(column)} commit`));
    }
    for (const url of urls) await fill(urls, url, column, ranges);
    for (const url of urls) {
      await withClient(url, client =>
        client.query(`comment on table ${lookupTable(column)} is '${mark}'`),
      );
    }
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

/** The values of one shard's rows, into the lookup tables of all. */
async function fill(
  urls: readonly string[],
  from: string,
  column: UniqueColumn,
  ranges: Ranges,
): Promise<void> {
  const [value, key, table, schema] = [column.column, column.key, column.table, column.schema].map(
    name => `"${name.replaceAll('"', '""')}"`,
  );
  await withClient(from, async client => {
    await client.query('begin isolation level repeatable read read only');
    await client.query(`declare here no scroll cursor for
      select ${value}::text as value, ${key}::text as key from ${schema}.${table} where ${value} is not null`);
    for (;;) {
      const { rows } = await client.query<{ value: string; key: string }>(
        `fetch ${BATCH} from here`,
      );
      if (rows.length === 0) break;
      for (const [shard, url] of urls.entries()) {
        const own = rows.filter(row => ranges.shardOfKey(column.valueType, row.value) === shard);
        if (own.length > 0) await withClient(url, at => claim(at, column, own));
      }
    }
    await client.query('rollback');
  });
}

async function claim(
  client: pg.ClientBase,
  column: UniqueColumn,
  rows: { value: string; key: string }[],
): Promise<void> {
  const lookup = lookupTable(column);
  const values = [rows.map(({ value }) => value), rows.map(({ key }) => key)];
  const type = (declared: string) => declared.replace(/\(\d+\)$/, '');
  const given = `select * from unnest($1::${type(column.type)}[], $2::${type(column.keyDeclared)}[]) as t(value, key)`;
  await client.query(
    `insert into ${lookup} (value, key) ${given} on conflict (value) do nothing`,
    values,
  );
  const { rows: taken } = await client.query<{ value: string }>(
    `select given.value::text from (${given}) given join ${lookup} known using (value)
     where known.key <> given.key limit 1`,
    values,
  );
  if (taken[0]) throw new ValuesNotUnique(column, taken[0].value);
}
