/**
 * The values of the rows that are there, into the lookup tables of a column that is to be unique across shards, while
 * rows are written.
 *
 * Holds true here:
 * - A row is locked against change from when its value is read until it is claimed: whoever changes it then releases the
 *   claim that is there. The guard is set, so every other change claims and releases by itself.
 * - Who holds a claim that the fill waits for may wait for the row that the fill holds, on another server, where nobody
 *   sees the circle. So the fill waits only a moment, lets its rows go, and begins them again.
 * - A value counts as taken twice only when two rows have it: a claim may be stale from before the guard was there.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { escapeIdentifier as id } from 'pg';
import { untilAllEnded } from '../../../app/changes/settle.ts';
import type { Ranges } from '../../../app/database/shards/ranges.ts';
import type { UniqueColumn } from '../../../app/database/shards/unique/columns.ts';
import { lookupTable } from '../../../app/database/shards/unique/tables.ts';
import { sqlName } from '../../../app/database/sql-name.ts';
import { BanyanError, hasCode } from '../../../errors.ts';
import { withClient } from '../provision.ts';

/** Rows that are held at once: a few milliseconds. */
const BATCH = 500;
/** Far below what anyone would take for a deadlock. */
const LOCK_TIMEOUT_MS = 200;
const PAUSE_MS = 50;
/** A lock that is not to be had for this long is somebody's who has forgotten it. */
const PATIENCE_MS = 60_000;
const MOST_TOLD = 5;

/** Rows on different shards have the same value. */
export class ValuesNotUnique extends BanyanError {
  constructor({ schema, table, column }: UniqueColumn, values: readonly string[]) {
    const told = values.slice(0, MOST_TOLD).join(', ');
    const more = values.length > MOST_TOLD ? ', and others' : '';
    super('VALUES_NOT_UNIQUE', {
      what: `${schema}.${table}.${column} cannot be unique across shards: more than one row has the value ${told}${more}`,
      where: 'database.unique',
      remedy:
        'Change one of the rows and run the command again, or take the column out of `unique`',
    });
  }
}

/** A claim has no row that can be seen: that may come with the rest of its transaction. Not waited for with rows held. */
class MayBeUnderWay extends Error {
  readonly url: string;

  constructor(url: string) {
    super('a claim may be under way');
    this.url = url;
  }
}

interface Claim {
  value: string;
  key: string;
}

/** @throws ValuesNotUnique */
export async function fillLookups(
  urls: readonly string[],
  column: UniqueColumn,
  ranges: Ranges,
): Promise<void> {
  const twice: string[] = [];
  for (const url of urls)
    await withClient(url, client => fillFrom(client, urls, column, ranges, twice));
  if (twice.length > 0) throw new ValuesNotUnique(column, twice);
}

async function fillFrom(
  client: pg.ClientBase,
  urls: readonly string[],
  column: UniqueColumn,
  ranges: Ranges,
  twice: string[],
): Promise<void> {
  let last: string | null = null;
  let deadline = performance.now() + PATIENCE_MS;
  /** Claims that had no row, before all that ran then had ended. */
  const suspects = new Set<string>();
  while (twice.length <= MOST_TOLD) {
    await client.query(`begin; set local lock_timeout = ${LOCK_TIMEOUT_MS}`);
    try {
      const rows = await heldRows(client, column, last);
      for (const [shard, url] of urls.entries()) {
        const own = rows.filter(
          ({ value }) => ranges.shardOfKey(column.valueType, value) === shard,
        );
        if (own.length === 0) continue;
        const taken = await withClient(url, at => claim(at, column, own));
        for (const { value, key } of taken) {
          const other = urls[ranges.shardOfKey(column.keyType, key)!]!;
          if (await withClient(other, at => hasRow(at, column, { value, key }))) twice.push(value);
          else if (suspects.has(`${key} ${value}`)) {
            await withClient(url, at => forget(at, column, [{ value, key }]));
          } else {
            suspects.add(`${key} ${value}`);
            throw new MayBeUnderWay(other);
          }
        }
        // What was stale has made room.
        const rest = own.filter(({ value }) => !twice.includes(value));
        if (taken.length > 0) await withClient(url, at => claim(at, column, rest));
      }
      await client.query('commit');
      if (rows.length < BATCH) return;
      last = rows.at(-1)!.value;
      deadline = performance.now() + PATIENCE_MS;
    } catch (error) {
      await client.query('rollback').catch(() => {});
      if (error instanceof MayBeUnderWay) await withClient(error.url, untilEnded);
      else if (!hasCode(error, '55P03', '40P01') || performance.now() > deadline) throw error;
      else await delay(PAUSE_MS);
    }
  }
}

/** In the order of the values. A row that was changed while its lock was waited for may come out of it, which is no matter. */
async function heldRows(
  client: pg.ClientBase,
  column: UniqueColumn,
  last: string | null,
): Promise<Claim[]> {
  const value = id(column.column);
  const { rows } = await client.query<Claim>(
    `select ${value}::text as value, ${id(column.key)}::text as key from ${tableOf(column)}
     where ${value} is not null and ($1::text is null or ${value} > $1::text::${column.type})
     order by ${value} limit ${BATCH} for share`,
    [last],
  );
  return rows.toSorted((a, b) => (a.value < b.value ? -1 : 1));
}

/** @returns claims of the same values by other keys */
async function claim(
  client: pg.ClientBase,
  column: UniqueColumn,
  rows: readonly Claim[],
): Promise<Claim[]> {
  const lookup = lookupTable(column);
  const given = givenOf(column);
  const values = listsOf(rows);
  await client.query(`set lock_timeout = ${LOCK_TIMEOUT_MS}`);
  await client.query(
    `insert into ${lookup} (value, key) ${given} order by 1 on conflict (value) do nothing`,
    values,
  );
  const { rows: taken } = await client.query<Claim>(
    `select known.value::text, known.key::text from (${given}) given join ${lookup} known using (value)
     where known.key <> given.key`,
    values,
  );
  return taken;
}

async function hasRow(
  client: pg.ClientBase,
  column: UniqueColumn,
  { value, key }: Claim,
): Promise<boolean> {
  const { rowCount } = await client.query(
    `select from ${tableOf(column)} where ${id(column.key)} = $1 and ${id(column.column)} = $2`,
    [key, value],
  );
  return rowCount !== 0;
}

async function forget(
  client: pg.ClientBase,
  column: UniqueColumn,
  claims: readonly Claim[],
): Promise<void> {
  await client.query(
    `delete from ${lookupTable(column)} where (value, key) in (${givenOf(column)})`,
    listsOf(claims),
  );
}

/**
 * Takes out claims of values that no row has: of rows that somebody changed who did not know yet, before the guard was
 * there. A claim may be seen a moment before its row, so what is missing is looked at again when all that runs has ended.
 */
export async function forgetStaleClaims(
  urls: readonly string[],
  column: UniqueColumn,
  ranges: Ranges,
): Promise<void> {
  const suspects = await missingRows(urls, column, ranges, undefined);
  if (suspects.every(list => list.length === 0)) return;
  for (const url of urls) await withClient(url, untilEnded);
  const stale = await missingRows(urls, column, ranges, suspects);
  for (const [shard, url] of urls.entries()) {
    const own = stale[shard]!;
    if (own.length > 0) await withClient(url, client => forget(client, column, own));
  }
}

/** Claims without a row, by the shard whose lookup table has them. @param among undefined: all of them */
async function missingRows(
  urls: readonly string[],
  column: UniqueColumn,
  ranges: Ranges,
  among: Claim[][] | undefined,
): Promise<Claim[][]> {
  const missing: Claim[][] = [];
  for (const [shard, url] of urls.entries()) {
    const found: Claim[] = [];
    for (let last: string | null = null; ; ) {
      const claims: Claim[] = await withClient(url, async client => {
        const { rows } = await client.query<Claim>(
          `select value::text, key::text from ${lookupTable(column)}
           as known where ($1::text is null or known.value > $1::text::${column.type})
           order by known.value limit ${BATCH}`,
          [last],
        );
        return rows;
      });
      const looked = among
        ? claims.filter(one => among[shard]!.some(other => other.value === one.value))
        : claims;
      found.push(...(await withoutRow(urls, column, ranges, looked)));
      if (claims.length < BATCH) break;
      last = claims.at(-1)!.value;
    }
    missing.push(found);
  }
  return missing;
}

async function withoutRow(
  urls: readonly string[],
  column: UniqueColumn,
  ranges: Ranges,
  claims: readonly Claim[],
): Promise<Claim[]> {
  const missing: Claim[] = [];
  for (const [shard, url] of urls.entries()) {
    const own = claims.filter(({ key }) => ranges.shardOfKey(column.keyType, key) === shard);
    if (own.length === 0) continue;
    const { rows } = await withClient(url, client =>
      client.query<Claim>(
        `select given.value::text, given.key::text from (${givenOf(column)}) given
         where not exists (select from ${tableOf(column)} t
           where t.${id(column.key)} = given.key and t.${id(column.column)} = given.value)`,
        listsOf(own),
      ),
    );
    missing.push(...rows);
  }
  return missing;
}

async function untilEnded(client: pg.ClientBase): Promise<void> {
  await untilAllEnded(text => client.query(text));
}

function tableOf({ schema, table }: UniqueColumn): string {
  return sqlName(schema, table);
}

/** `$1`: values, `$2`: keys. A length in the type would cut them, silently. */
function givenOf({ type, keyDeclared }: UniqueColumn): string {
  const plain = (declared: string) => declared.replace(/\(\d+\)$/, '');
  return `select * from unnest($1::${plain(type)}[], $2::${plain(keyDeclared)}[]) as t(value, key)`;
}

function listsOf(claims: readonly Claim[]): [string[], string[]] {
  return [claims.map(({ value }) => value), claims.map(({ key }) => key)];
}
