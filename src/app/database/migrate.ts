/**
 * Migrations as SQL files: each runs once, in the order of the files' names.
 *
 * Holds true here:
 * - However many processes migrate at the same time, one does and the others wait for it: a session
 *   advisory lock, which PostgreSQL gives back by itself when its holder dies.
 * - A file and the note that it ran commit together, so a crash leaves neither or both. A file that
 *   cannot run in a transaction says so in its first line: `-- banyan: no transaction`. It holds one
 *   statement, since PostgreSQL makes a transaction of several that are sent together.
 * - What ran is never changed quietly: a file that differs from what was applied, or that is gone, or
 *   that would run before one already applied, is an error before anything runs.
 */
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { BanyanError, hasCode } from '../../errors.ts';

/** Names the lock in `pg_locks`. The number is arbitrary and ours alone. */
const LOCK = 7_233_402_118_530n;

/** How often a process that waits for another's migrations asks for the lock. */
const LOCK_PAUSE_MS = 100;

/** The first line alone: further down the words may be part of a string. */
const NO_TRANSACTION = /^\uFEFF?\s*--[ \t]*banyan:[ \t]*no transaction[ \t]*(?:\n|$)/i;

/** SQLSTATE of a statement that must not run in a transaction and did. */
const ACTIVE_TRANSACTION = '25001';

export interface MigrationResult {
  /** Names of the files that ran now. */
  applied: string[];
  /** How many had run before. */
  already: number;
}

interface Migration {
  name: string;
  sql: string;
  checksum: string;
}

interface AppliedMigration {
  name: string;
  checksum: string;
}

export class MigrationsFolderMissing extends BanyanError {
  constructor(folder: string, cause: unknown) {
    super('MIGRATIONS_FOLDER_MISSING', {
      what: 'The folder with the migrations is not there',
      where: folder,
      remedy: 'Correct the path, or make the folder',
      cause,
    });
  }
}

export class MigrationMissing extends BanyanError {
  constructor(names: string[], folder: string) {
    super('MIGRATION_MISSING', {
      what: `The database has had ${names.length === 1 ? 'a migration' : 'migrations'} for which there is no file: ${names.join(', ')}`,
      where: folder,
      remedy:
        'Nothing was changed. The code here is older than the database, or the file was deleted or renamed: get it back from version control',
    });
  }
}

export class MigrationChanged extends BanyanError {
  constructor(name: string, folder: string) {
    super('MIGRATION_CHANGED', {
      what: `${name} was changed after it had been applied to this database`,
      where: folder,
      remedy:
        'Nothing was changed. Put the file back as it was, and write the change as a new migration',
    });
  }
}

export class MigrationOutOfOrder extends BanyanError {
  constructor(name: string, last: string, folder: string) {
    super('MIGRATION_OUT_OF_ORDER', {
      what: `${name} is new, and its name sorts before ${last}, which has been applied`,
      where: folder,
      remedy: 'Nothing was changed. Give the new file a name that sorts last',
    });
  }
}

export class MigrationFailed extends BanyanError {
  /**
   * @param kept whether a part of the file may have been applied all the same
   * @param place of several databases, the one on which it failed
   */
  constructor(
    migration: Migration,
    folder: string,
    kept: boolean,
    cause: unknown,
    place: string | undefined,
  ) {
    const { message = String(cause), position } = cause as { message?: string; position?: string };
    const line =
      position === undefined ? '' : ` in line ${lineOf(migration.sql, Number(position))}`;
    super('MIGRATION_FAILED', {
      what: `${migration.name} failed${line}${place ? ` on ${place}` : ''}: ${message}`,
      where: path.join(folder, migration.name),
      remedy: remedyFor(migration.sql, kept, cause),
      cause,
    });
  }
}

function remedyFor(sql: string, kept: boolean, cause: unknown): string {
  if (hasCode(cause, ACTIVE_TRANSACTION)) {
    return NO_TRANSACTION.test(sql)
      ? 'Nothing of this file was kept. A file without a transaction may hold one statement: give each a file of its own'
      : 'Nothing of this file was kept. Put this statement into a file of its own that begins with the line `-- banyan: no transaction`';
  }
  return kept
    ? 'It does not run in one transaction, so a part of it may have been applied. Correct what is left of it and run the command again'
    : 'Nothing of this file was kept; those before it were applied. Correct it and run the command again';
}

/**
 * Applies the migrations of a folder that have not been applied yet; over several shards on all of them, as
 * `migrateAll` does.
 * @param pool to the database, as the role that owns it
 * @param folder whose `.sql` files are the migrations
 * @throws MigrationsFolderMissing, MigrationMissing, MigrationChanged, MigrationOutOfOrder,
 *   MigrationFailed
 */
export function migrate(pool: pg.Pool, folder: string): Promise<MigrationResult> {
  return SHARDS in pool ? (pool as Sharded)[SHARDS].migrate(folder) : migrateAll([pool], folder);
}

/** A pool over several databases has this: they are to have the same schema. */
export const SHARDS = Symbol('migrates its shards');

interface Sharded {
  readonly [SHARDS]: { migrate(folder: string): Promise<MigrationResult> };
}

/**
 * The same for several databases that are to have the same schema. Each file is run on all of them before the next, and
 * kept on none when it fails on one. What a crash between their commits leaves is made up for by the next call:
 * each database knows what it has.
 * @param pools the first one's lock is that of all
 * @param places what an error calls them. Default: `shard 1` and so on
 * @returns what ran on any of them
 */
export async function migrateAll(
  pools: pg.Pool[],
  folder: string,
  places?: readonly string[],
): Promise<MigrationResult> {
  const files = await readMigrations(folder);
  const databases: Database[] = [];
  try {
    for (const pool of pools) {
      const name = places?.[databases.length] ?? `shard ${databases.length + 1}`;
      const place = pools.length > 1 ? name : undefined;
      databases.push(await connect(pool, place));
    }
    await waitForLock(databases[0]!.client, LOCK);
    const applied = await Promise.all(databases.map(({ client }) => appliedTo(client)));
    const pending = applied.map(rows => new Set(pendingMigrations(files, rows, folder)));
    const due = files.filter(file => pending.some(each => each.has(file)));
    for (const migration of due) {
      const those = databases.filter((_database, index) => pending[index]!.has(migration));
      await apply(those, migration, folder);
    }
    const already = Math.min(...applied.map(rows => rows.length));
    return { applied: due.map(({ name }) => name), already };
  } finally {
    // Ended, not released: the lock belongs to the session and must go with it whatever happens.
    for (const { client, broken } of databases) client.release(broken ?? true);
  }
}

interface Database {
  client: pg.PoolClient;
  /** For people; undefined when it is the only one. */
  place: string | undefined;
  broken: Error | undefined;
}

async function connect(pool: pg.Pool, place: string | undefined): Promise<Database> {
  const client = await pool.connect();
  const database: Database = { client, place, broken: undefined };
  client.on('error', error => {
    database.broken = error;
  });
  return database;
}

async function appliedTo(client: pg.PoolClient): Promise<AppliedMigration[]> {
  await client.query(`
    create schema if not exists banyan;
    create table if not exists banyan.migrations (
      name text primary key,
      checksum text not null,
      applied_at timestamptz not null default now()
    )`);
  const { rows } = await client.query<AppliedMigration>(
    'select name, checksum from banyan.migrations order by name collate "C"',
  );
  return rows;
}

/**
 * Which files have still to run. Pure.
 * @throws MigrationMissing, MigrationChanged, MigrationOutOfOrder
 */
export function pendingMigrations<T extends AppliedMigration>(
  files: T[],
  applied: AppliedMigration[],
  folder: string,
): T[] {
  const byName = new Map(files.map(file => [file.name, file]));
  const missing = applied.filter(({ name }) => !byName.has(name));
  if (missing.length > 0)
    throw new MigrationMissing(
      missing.map(({ name }) => name),
      folder,
    );
  for (const { name, checksum } of applied) {
    if (byName.get(name)?.checksum !== checksum) throw new MigrationChanged(name, folder);
  }
  const done = new Set(applied.map(({ name }) => name));
  const pending = files.filter(({ name }) => !done.has(name));
  const last = applied.at(-1)?.name;
  const early = pending.find(({ name }) => last !== undefined && name < last);
  if (early && last) throw new MigrationOutOfOrder(early.name, last, folder);
  return pending;
}

/**
 * Asks again and again instead of waiting in `pg_advisory_lock`: a statement that waits holds a snapshot,
 * and `create index concurrently`, in a migration of the process that has the lock, waits for all
 * snapshots. The two would wait for each other. There is no limit to it: a migration takes as long as it
 * takes, and the lock is free as soon as its holder is gone.
 * @param lock an advisory lock of the session
 */
export async function waitForLock(client: pg.ClientBase, lock: bigint): Promise<void> {
  for (;;) {
    const { rows } = await client.query<{ taken: boolean }>(
      'select pg_try_advisory_lock($1) as taken',
      [lock],
    );
    if (rows[0]?.taken) return;
    await delay(LOCK_PAUSE_MS);
  }
}

async function readMigrations(folder: string): Promise<Migration[]> {
  const entries = await readdir(folder).catch(error => {
    throw hasCode(error, 'ENOENT', 'ENOTDIR') ? new MigrationsFolderMissing(folder, error) : error;
  });
  const names = entries.filter(name => name.endsWith('.sql')).sort();
  return Promise.all(
    names.map(async name => {
      // A checkout on Windows may have other line ends; that is no change.
      const sql = (await readFile(path.join(folder, name), 'utf8')).replaceAll('\r\n', '\n');
      return { name, sql, checksum: createHash('sha256').update(sql).digest('hex') };
    }),
  );
}

/** On all of these databases or, unless the file runs without a transaction, on none. */
async function apply(databases: Database[], migration: Migration, folder: string): Promise<void> {
  const isAtomic = !NO_TRANSACTION.test(migration.sql);
  // One after the other where nothing can be taken back: the first that fails keeps the others from it.
  const results = isAtomic
    ? await Promise.allSettled(databases.map(({ client }) => run(client, migration, isAtomic)))
    : await untilRejected(databases, ({ client }) => run(client, migration, isAtomic));
  const failed = results.findIndex(({ status }) => status === 'rejected');
  if (failed >= 0) {
    const kept = await Promise.all(databases.map(({ client }) => takeBack(client)));
    const { reason } = results[failed] as PromiseRejectedResult;
    const { place } = databases[failed]!;
    throw new MigrationFailed(migration, folder, !isAtomic || kept.includes(true), reason, place);
  }
  if (!isAtomic) return;
  for (const { client, place } of databases) {
    try {
      await client.query('commit');
    } catch (error) {
      await Promise.all(databases.map(each => takeBack(each.client)));
      throw new MigrationFailed(migration, folder, true, error, place);
    }
  }
}

async function run(
  client: pg.PoolClient,
  { name, sql, checksum }: Migration,
  isAtomic: boolean,
): Promise<void> {
  if (isAtomic) await client.query('begin');
  await client.query(sql);
  if (!isAtomic && client.getTransactionStatus() !== 'I') {
    throw new Error('it leaves a transaction open');
  }
  await client.query('insert into banyan.migrations (name, checksum) values ($1, $2)', [
    name,
    checksum,
  ]);
}

/** @returns whether there was nothing to take back: a file with a `commit` of its own has ended the transaction */
async function takeBack(client: pg.PoolClient): Promise<boolean> {
  // The server tells whether it is in a transaction after the error, so one more word is waited for.
  await client.query('').catch(() => {});
  if (client.getTransactionStatus() === 'I') return true;
  await client.query('rollback').catch(() => {});
  return false;
}

async function untilRejected<T>(
  items: T[],
  body: (item: T) => Promise<void>,
): Promise<PromiseSettledResult<void>[]> {
  const results: PromiseSettledResult<void>[] = [];
  for (const item of items) {
    const [result] = await Promise.allSettled([body(item)]);
    results.push(result!);
    if (result!.status === 'rejected') break;
  }
  return results;
}

/** @param position of a character as PostgreSQL counts: whole ones, from 1 */
function lineOf(sql: string, position: number): number {
  return [...sql].slice(0, position - 1).filter(character => character === '\n').length + 1;
}
