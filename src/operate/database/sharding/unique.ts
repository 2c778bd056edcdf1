/**
 * Makes columns unique across shards: their lookup tables and triggers on every shard (`app/database/shards/unique`),
 * filled from the rows that are there, and takes them away when they are declared no more.
 *
 * Holds true here: a lookup table is marked as whole only when it has every value of every shard. While it is filled
 * nobody writes the column's table; a fill that was cut short is done again.
 */
import pg from 'pg';
import type { HashRange } from '../../../app/database/shards/ranges.ts';
import type { UniqueColumn } from '../../../app/database/shards/unique/columns.ts';
import { lookupTable, uniqueTables } from '../../../app/database/shards/unique/tables.ts';
import { BanyanError } from '../../../errors.ts';
import { guardCondition } from './guards.ts';

/** A lock that is not to be had in this time is held by a long transaction, and all others would queue behind us. */
const LOCK_TIMEOUT_MS = 10_000;
const BATCH = 5_000;
/** The comment on a lookup table that is filled. */
const WHOLE = 'Banyan: every value is here';
const DIGEST_CHARACTERS = 10;

/** Two rows of different shards have the same value. */
export class DuplicateAcrossShards extends BanyanError {
  constructor({ schema, table, column }: UniqueColumn, value: string) {
    super('DUPLICATE_ACROSS_SHARDS', {
      what: `${schema}.${table}.${column} cannot be unique: the value ${JSON.stringify(value)} is in rows of several shards`,
      where: 'database.unique',
      remedy:
        'Change one of the rows, and run the command again; or take the column out of `unique`',
    });
  }
}

/**
 * @param clients the owner's, one for each shard
 * @returns how many columns were made unique
 * @throws DuplicateAcrossShards
 */
export async function keepUnique(
  clients: pg.ClientBase[],
  ranges: HashRange[],
  columns: UniqueColumn[],
): Promise<number> {
  const wanted = new Set(columns.map(({ lookup }) => lookup));
  for (const client of clients) {
    for (const lookup of await lookupsOf(client)) {
      if (!wanted.has(lookup)) await forget(client, lookup);
    }
  }
  let made = 0;
  for (const column of columns) {
    if (await isWhole(clients, column)) continue;
    await fill(clients, ranges, column);
    made++;
  }
  return made;
}

async function isWhole(clients: pg.ClientBase[], column: UniqueColumn): Promise<boolean> {
  for (const client of clients) {
    const { rows } = await client.query<{ comment: string | null }>(
      `select obj_description(to_regclass($1), 'pg_class') as comment`,
      [lookupTable(column)],
    );
    if (rows[0]?.comment !== WHOLE) return false;
  }
  return true;
}

async function fill(
  clients: pg.ClientBase[],
  ranges: HashRange[],
  column: UniqueColumn,
): Promise<void> {
  const lookup = lookupTable(column);
  const table = `${pg.escapeIdentifier(column.schema)}.${pg.escapeIdentifier(column.table)}`;
  try {
    for (const client of clients) {
      await client.query('begin');
      await client.query(`set local lock_timeout = ${LOCK_TIMEOUT_MS}`);
      await client.query(uniqueTables(column));
      await client.query(`lock table ${table} in share row exclusive mode`);
      await client.query(`delete from ${lookup}`);
    }
    for (const from of clients) {
      for (const [shard, to] of clients.entries()) await copy(from, to, ranges[shard]!, column);
    }
    for (const client of clients) {
      await client.query(`comment on table ${lookup} is ${pg.escapeLiteral(WHOLE)}`);
    }
    for (const client of clients) await client.query('commit');
  } catch (error) {
    await Promise.all(clients.map(client => client.query('rollback').catch(() => {})));
    throw error;
  }
}

/** The values of one shard's rows whose place is on another, or on the same. */
async function copy(
  from: pg.ClientBase,
  to: pg.ClientBase,
  range: HashRange,
  column: UniqueColumn,
): Promise<void> {
  const id = pg.escapeIdentifier;
  const name = id(column.column);
  await from.query(
    `declare banyan_values no scroll cursor for
     select ${name}::text as value, ${id(column.key)}::text as key from ${id(column.schema)}.${id(column.table)}
     where ${name} is not null and ${guardCondition(column.valueType, column.column, range)}`,
  );
  for (;;) {
    const { rows } = await from.query<{ value: string; key: string }>(
      `fetch ${BATCH} from banyan_values`,
    );
    if (rows.length === 0) break;
    const values = [rows.map(({ value }) => value), rows.map(({ key }) => key)];
    const { rowCount } = await to.query(
      `insert into ${lookupTable(column)} (value, key)
       select value::${column.type}, key::${column.keyDeclared} from unnest($1::text[], $2::text[]) as f(value, key)
       on conflict do nothing`,
      values,
    );
    if (rowCount !== rows.length) throw await duplicate(to, column, rows);
  }
  await from.query('close banyan_values');
}

async function duplicate(
  client: pg.ClientBase,
  column: UniqueColumn,
  rows: { value: string; key: string }[],
): Promise<DuplicateAcrossShards> {
  const found = await client.query<{ value: string }>(
    `select f.value from unnest($1::text[], $2::text[]) as f(value, key)
     join ${lookupTable(column)} there on there.value = f.value::${column.type}
     where there.key::text <> f.key limit 1`,
    [rows.map(({ value }) => value), rows.map(({ key }) => key)],
  );
  return new DuplicateAcrossShards(column, found.rows[0]?.value ?? rows[0]!.value);
}

async function lookupsOf(client: pg.ClientBase): Promise<string[]> {
  const { rows } = await client.query<{ name: string }>(
    `select c.relname as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where n.nspname = 'banyan' and c.relkind = 'r' and c.relname ~ '_unique_[0-9a-f]{${DIGEST_CHARACTERS}}$'`,
  );
  return rows.map(({ name }) => name);
}

/** Nobody claims its values any more. */
async function forget(client: pg.ClientBase, lookup: string): Promise<void> {
  const guard = `banyan_${lookup.slice(-DIGEST_CHARACTERS)}_guard`;
  const { rows } = await client.query<{ table: string }>(
    'select tgrelid::regclass::text as table from pg_trigger where tgname = $1',
    [guard],
  );
  await client.query('begin');
  try {
    for (const { table } of rows) {
      await client.query(`drop trigger ${pg.escapeIdentifier(guard)} on ${table}`);
    }
    await client.query(
      `drop function if exists banyan.${pg.escapeIdentifier(`${lookup}_note`)}() cascade`,
    );
    await client.query(`drop table ${lookupTable({ lookup })}`);
    await client.query('commit');
  } catch (error) {
    await client.query('rollback');
    throw error;
  }
}
