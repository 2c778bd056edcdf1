/**
 * Migrations as SQL files: each runs once, in the order of the files' names.
 *
 * Holds true here:
 * - However many processes migrate at the same time, one does and the others wait for it: a session
 *   advisory lock, which PostgreSQL gives back by itself when its holder dies.
 * - A file and the note that it ran commit together, so a crash leaves neither or both. A file that
 *   cannot run in a transaction says so in its first line: `-- banyan: no transaction`.
 * - What ran is never changed quietly: a file that differs from what was applied, or that is gone, or
 *   that would run before one already applied, is an error before anything runs.
 */
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import type pg from 'pg';
import { BanyanError } from '../../errors.ts';

/** Names the lock in `pg_locks`. The number is arbitrary and ours alone. */
const LOCK = 7_233_402_118_530n;

const NO_TRANSACTION = /^\s*--\s*banyan:\s*no transaction\s*$/im;

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
  constructor(migration: Migration, folder: string, cause: unknown) {
    const { message = String(cause), position } = cause as { message?: string; position?: string };
    const line =
      position === undefined ? '' : ` in line ${lineOf(migration.sql, Number(position))}`;
    const isAtomic = !NO_TRANSACTION.test(migration.sql);
    super('MIGRATION_FAILED', {
      what: `${migration.name} failed${line}: ${message}`,
      where: path.join(folder, migration.name),
      remedy: isAtomic
        ? 'Nothing of this file was kept; those before it were applied. Correct it and run the command again'
        : 'It runs without a transaction, so a part of it may have been applied. Correct what is left of it and run the command again',
      cause,
    });
  }
}

/**
 * Applies the migrations of a folder that have not been applied yet.
 * @param pool to the database, as the role that owns it
 * @param folder whose `.sql` files are the migrations
 * @throws MigrationMissing, MigrationChanged, MigrationOutOfOrder, MigrationFailed
 */
export async function migrate(pool: pg.Pool, folder: string): Promise<MigrationResult> {
  const files = await readMigrations(folder);
  const client = await pool.connect();
  // Ended, not released: the lock belongs to the session and must go with it whatever happens.
  let broken: Error | undefined;
  client.on('error', error => {
    broken = error;
  });
  try {
    await client.query('select pg_advisory_lock($1)', [LOCK]);
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
    const pending = pendingMigrations(files, rows, folder);
    for (const migration of pending) await apply(client, migration, folder);
    return { applied: pending.map(({ name }) => name), already: rows.length };
  } finally {
    client.release(broken ?? true);
  }
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

async function readMigrations(folder: string): Promise<Migration[]> {
  const names = (await readdir(folder)).filter(name => name.endsWith('.sql')).sort();
  return Promise.all(
    names.map(async name => {
      // A checkout on Windows may have other line ends; that is no change.
      const sql = (await readFile(path.join(folder, name), 'utf8')).replaceAll('\r\n', '\n');
      return { name, sql, checksum: createHash('sha256').update(sql).digest('hex') };
    }),
  );
}

async function apply(client: pg.PoolClient, migration: Migration, folder: string): Promise<void> {
  const { name, sql, checksum } = migration;
  const note = () =>
    client.query('insert into banyan.migrations (name, checksum) values ($1, $2)', [
      name,
      checksum,
    ]);
  try {
    if (NO_TRANSACTION.test(sql)) {
      await client.query(sql);
      await note();
      return;
    }
    await client.query('begin');
    await client.query(sql);
    await note();
    await client.query('commit');
  } catch (error) {
    throw new MigrationFailed(migration, folder, error);
  }
}

/** @param position of a character, counted from 1 */
function lineOf(sql: string, position: number): number {
  return sql.slice(0, position).split('\n').length;
}
