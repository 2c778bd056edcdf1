/**
 * The queue's tables and the functions that work on them, in the schema `banyan_queue` of every shard.
 *
 * Holds true here:
 * - A claim of a subscription runs under its advisory lock and reads the leases after it has the lock. Leases are added under it
 *   alone; whatever takes a delivery out of a lease changes the delivery in the same transaction. So what no lease holds
 *   is free.
 * - `turn` fences: it counts up whenever a delivery is taken from a worker, and all that a worker does names the turn.
 * - Of a key, positions become visible in their order: publishers hold the key's lock until they commit.
 * - Rows are found through a LATERAL with LIMIT: a plan that was kept from when a table was empty must not read all of it.
 * - What takes things from the dead skips rows that are locked: their transaction decides, and the next look finds them.
 */
import type pg from 'pg';
import { CLAIMS } from './schema/claim.ts';
import { PUBLISH } from './schema/publish.ts';
import { SETTLES } from './schema/settle.ts';
import { TABLES } from './schema/tables.ts';
import { UPKEEP } from './schema/upkeep.ts';

/** Rises with every change below; the functions are made anew, and tables changed, when the database has a lower one. */
export const SCHEMA_VERSION = 4;

/** Names the lock under which the schema is made. Arbitrary and ours alone. */
const LOCK = 7_233_402_118_561n;

/** SQL that makes everything in the database that it is run in; may be run again, also over an older version. */
export function queueSchema(): string {
  return `${TABLES}${PUBLISH}${CLAIMS}${SETTLES}${UPKEEP}
delete from banyan_queue.version;
insert into banyan_queue.version values (${SCHEMA_VERSION});`;
}

/** Makes the schema unless it is there. Looks first: an account that may only use it need not be allowed to make it. */
export async function ensureQueueSchema(database: Pick<pg.ClientBase, 'query'>): Promise<void> {
  const { rows } = await database.query<{ found: boolean }>(
    `select to_regclass('banyan_queue.version') is not null as found`,
  );
  if (rows[0]?.found) {
    const found = await database.query<{ version: number }>(
      'select version from banyan_queue.version',
    );
    if ((found.rows[0]?.version ?? 0) >= SCHEMA_VERSION) return;
  }
  await database.query(`begin; select pg_advisory_xact_lock(${LOCK}); ${queueSchema()} commit`);
}
