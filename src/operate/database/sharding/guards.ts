/**
 * The guard: a CHECK constraint on each sharded table of each shard, by which no row can be where it does not
 * belong, whoever writes it: the application with an old map, `psql`, a migration.
 *
 * Holds true here: a table's guard is changed in one transaction that looks at all of its rows, so a table is
 * guarded as it was or as it shall be, and every row fits. That takes a lock that keeps writers out for as long as the
 * look takes; a table that was just made is empty.
 */

import pg from 'pg';
import { hashExpression, type KeyType } from '../../../app/database/shards/hash.ts';
import { GUARD } from '../../../app/database/shards/misplaced.ts';
import type { HashRange } from '../../../app/database/shards/ranges.ts';
import { sqlName } from '../../../app/database/sql-name.ts';
import { BanyanError, hasCode } from '../../../errors.ts';

/** A lock that is not to be had in this time is held by a long transaction, and all others would queue behind us. */
const LOCK_TIMEOUT_MS = 10_000;

export interface Guarded {
  schema: string;
  name: string;
  key: string;
  keyType: KeyType;
}

/** Rows are on a shard that does not own them, so the table cannot be placed as declared. */
export class MisplacedRows extends BanyanError {
  constructor(table: string, key: string, shard: number, rows: number) {
    super('MISPLACED_ROWS', {
      what: `${table} cannot be sharded by ${key}: ${rows} of its rows on shard ${shard + 1} belong to other shards`,
      where: 'database.tables',
      remedy:
        'This version does not move rows between shards. Declare tables before they have rows; in a migration, which runs on every shard, leave rows of sharded tables out',
    });
  }
}

/**
 * Guards these tables on one shard, and no others.
 * @param client the owner's
 * @returns the names of those that were changed
 * @throws MisplacedRows
 */
export async function guardShard(
  client: pg.ClientBase,
  shard: number,
  range: HashRange,
  tables: Guarded[],
): Promise<string[]> {
  const present = await guardsOf(client);
  const changed: string[] = [];
  for (const table of tables) {
    const name = `${table.schema}.${table.name}`;
    const before = present.get(name);
    present.delete(name);
    if (before !== undefined && isSame(before, table, range)) continue;
    await replaceGuard(client, shard, range, table, before !== undefined);
    changed.push(name);
  }
  for (const name of present.keys()) {
    const [schema, table] = name.split('.');
    await client.query(`alter table ${sqlName(schema!, table!)} drop constraint ${GUARD}`);
    changed.push(name);
  }
  return changed;
}

/** What guards there are, as PostgreSQL shows them; of partitioned tables the root's. */
export async function guardsOf(client: Pick<pg.ClientBase, 'query'>): Promise<Map<string, string>> {
  const { rows } = await client.query<{ name: string; definition: string }>(
    `select n.nspname || '.' || c.relname as name, pg_get_constraintdef(x.oid) as definition
     from pg_constraint x join pg_class c on c.oid = x.conrelid join pg_namespace n on n.oid = c.relnamespace
     where x.conname = $1 and x.contype = 'c' and x.coninhcount = 0`,
    [GUARD],
  );
  return new Map(rows.map(({ name, definition }) => [name, definition]));
}

/** Whether a guard, as PostgreSQL shows it, is the one that a table should have. */
export function isSame(definition: string, { key, keyType }: Guarded, range: HashRange): boolean {
  if (/NOT VALID/.test(definition)) return false;
  const [call, column] =
    /(\w+)\(\(?"?((?:[^"()]|"")+)"?\)?(?:::\w+)?, /.exec(definition)?.slice(1) ?? [];
  const numbers = [...definition.matchAll(/[<>]= '?(-?\d+)'?/g)].map(([, number]) => number);
  return (
    hashExpression(keyType, '').startsWith(`${call}(`) &&
    column?.replaceAll('""', '"') === key &&
    numbers.length === 2 &&
    numbers[0] === range.from &&
    numbers[1] === range.to
  );
}

async function replaceGuard(
  client: pg.ClientBase,
  shard: number,
  range: HashRange,
  { schema, name, key, keyType }: Guarded,
  isThere: boolean,
): Promise<void> {
  const table = sqlName(schema, name);
  const condition = guardCondition(keyType, key, range);
  await client.query('begin');
  try {
    await client.query(`set local lock_timeout = ${LOCK_TIMEOUT_MS}`);
    await client.query(
      `alter table ${table} ${isThere ? `drop constraint ${GUARD}, ` : ''}add constraint ${GUARD} check (${condition})`,
    );
    await client.query('commit');
  } catch (error) {
    await client.query('rollback');
    if (!hasCode(error, '23514')) throw error;
    const { rows } = await client.query<{ count: number }>(
      `select count(*)::int as count from ${table} where not (${condition})`,
    );
    throw new MisplacedRows(`${schema}.${name}`, key, shard, rows[0]!.count);
  }
}

/** SQL that is true of the keys that a shard owns. The numbers are in quotes: the lowest has no other form. */
export function guardCondition(keyType: KeyType, key: string, { from, to }: HashRange): string {
  const hash = hashExpression(keyType, pg.escapeIdentifier(key));
  return `${hash} >= '${from}'::bigint and ${hash} <= '${to}'::bigint`;
}
