import { mkdir, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import fc from 'fast-check';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  MigrationChanged,
  MigrationFailed,
  MigrationMissing,
  MigrationOutOfOrder,
  MigrationsFolderMissing,
  migrate,
  pendingMigrations,
} from '../../../src/app/database/migrate.ts';
import { temporaryFolder } from '../../support/deployment.ts';
import { TestPostgres } from '../../support/postgres.ts';
import { until } from '../../support/until.ts';

let postgres: TestPostgres;
let root: string;
beforeAll(async () => {
  root = temporaryFolder();
  postgres = await TestPostgres.start();
});
afterAll(async () => {
  await postgres.remove();
  await rm(root, { recursive: true });
});

let folders = 0;
/** A new folder with these files. */
async function folderOf(files: Record<string, string>): Promise<string> {
  const folder = path.join(root, String(++folders));
  await mkdir(folder);
  await write(folder, files);
  return folder;
}

async function write(folder: string, files: Record<string, string>): Promise<void> {
  for (const [name, sql] of Object.entries(files)) await writeFile(path.join(folder, name), sql);
}

async function tablesOf(pool: pg.Pool): Promise<string[]> {
  const { rows } = await pool.query<{ name: string }>(
    `select tablename as name from pg_tables where schemaname = 'public' order by 1`,
  );
  return rows.map(({ name }) => name);
}

test('files run once each, in the order of their names', async () => {
  const pool = await postgres.pool();
  const folder = await folderOf({
    '002.sql': 'alter table a add column b int; insert into a values (1, 2);',
    '001.sql': 'create table a (x int);',
    'README.md': 'not SQL',
  });
  expect(await migrate(pool, folder)).toEqual({ applied: ['001.sql', '002.sql'], already: 0 });
  expect(await migrate(pool, folder)).toEqual({ applied: [], already: 2 });
  await write(folder, { '003.sql': 'insert into a values (3, 4)' });
  expect(await migrate(pool, folder)).toEqual({ applied: ['003.sql'], already: 2 });
  expect((await pool.query('select * from a order by x')).rows).toEqual([
    { x: 1, b: 2 },
    { x: 3, b: 4 },
  ]);
});

test('of ten that start together one migrates, and all return when it is done', async () => {
  const url = await postgres.database();
  const folder = await folderOf({
    '1.sql': 'create table once (id int); select pg_sleep(0.05);',
    '2.sql': 'insert into once values (1);',
  });
  const results = await Promise.all(
    Array.from({ length: 10 }, async () => {
      const pool = await postgres.pool({ connectionString: url, max: 1 });
      const result = await migrate(pool, folder);
      expect((await pool.query('select * from once')).rows).toEqual([{ id: 1 }]);
      return result;
    }),
  );
  expect(results.flatMap(({ applied }) => applied).sort()).toEqual(['1.sql', '2.sql']);
});

test('an index is built concurrently while others wait for their turn', async () => {
  const url = await postgres.database();
  const folder = await folderOf({
    '1.sql': 'create table t (x int); insert into t select generate_series(1, 1000);',
    '2.sql': '-- banyan: no transaction\ncreate index concurrently t_x on t (x);',
  });
  const results = await Promise.all(
    Array.from({ length: 5 }, async () =>
      migrate(await postgres.pool({ connectionString: url, max: 1 }), folder),
    ),
  );
  expect(results.flatMap(({ applied }) => applied)).toHaveLength(2);
});

test('a process that dies in the middle leaves nothing, and the next one does it all', async () => {
  const url = await postgres.database();
  const folder = await folderOf({
    '1.sql': `create table half (x int);
      insert into half select 1 from pg_sleep(case when current_setting('application_name') = 'dying' then 60 else 0 end);`,
  });
  const dying = await postgres.pool({ connectionString: url, application_name: 'dying' });
  const failure = migrate(dying, folder).catch(error => error);
  const other = await postgres.pool({ connectionString: url });
  // The server notices a client that is gone when it next talks to it; this is what it then does.
  await until(async () => {
    const { rowCount } = await other.query(
      `select pg_terminate_backend(pid) from pg_stat_activity
       where application_name = 'dying' and query like '%pg_sleep%' and state = 'active'`,
    );
    return rowCount === 1;
  });
  expect(await failure).toBeInstanceOf(MigrationFailed);
  expect(await tablesOf(other)).toEqual([]);
  expect(await migrate(other, folder)).toEqual({ applied: ['1.sql'], already: 0 });
});

describe('a file that fails', () => {
  test('leaves nothing of itself, keeps those before it, and can be run again when corrected', async () => {
    const pool = await postgres.pool();
    const folder = await folderOf({
      '1.sql': 'create table one ();',
      '2.sql': 'create table two ();\nselect 1;\nselect nothing;\n',
      '3.sql': 'create table three ();',
    });
    const error = await migrate(pool, folder).catch(e => e);
    expect(error).toBeInstanceOf(MigrationFailed);
    expect(error).toMatchObject({
      code: 'MIGRATION_FAILED',
      what: '2.sql failed in line 3: column "nothing" does not exist',
      where: path.join(folder, '2.sql'),
      remedy: expect.stringContaining('Nothing of this file was kept'),
    });
    expect(await tablesOf(pool)).toEqual(['one']);
    await write(folder, { '2.sql': 'create table two ();' });
    expect((await migrate(pool, folder)).applied).toEqual(['2.sql', '3.sql']);
  });

  test('is told by its line, also behind characters of more than one byte or unit', async () => {
    const pool = await postgres.pool();
    const folder = await folderOf({
      '1.sql': `-- ${'🌳é'.repeat(40)}\nselect 1;\n-- 🌳\n\nselect x;`,
    });
    await expect(migrate(pool, folder)).rejects.toThrow('1.sql failed in line 5: column "x"');
  });

  test('a statement that needs no transaction is sent to a file of its own', async () => {
    const pool = await postgres.pool();
    const folder = await folderOf({
      '1.sql': 'create table t (x int); create index concurrently i on t (x);',
    });
    await expect(migrate(pool, folder)).rejects.toThrow('begins with the line `-- banyan: no');
    expect(await tablesOf(pool)).toEqual([]);
    await write(folder, {
      '1.sql':
        '-- banyan: no transaction\ncreate table t (x int); create index concurrently i on t (x);',
    });
    await expect(migrate(pool, folder)).rejects.toThrow('give each a file of its own');
    expect(await tablesOf(pool)).toEqual([]);
  });

  test('the words further down, in a string, change nothing', async () => {
    const pool = await postgres.pool();
    const folder = await folderOf({
      '1.sql': `create table t (x text);\ninsert into t values ('\n-- banyan: no transaction\n');\nselect oops;`,
    });
    await expect(migrate(pool, folder)).rejects.toThrow('Nothing of this file was kept');
    expect(await tablesOf(pool)).toEqual([]);
  });

  test('that had a commit of its own does not claim that nothing was kept', async () => {
    const pool = await postgres.pool();
    const folder = await folderOf({ '1.sql': 'create table t ();\ncommit;\nselect oops;' });
    await expect(migrate(pool, folder)).rejects.toThrow('a part of it may have been applied');
    expect(await tablesOf(pool)).toEqual(['t']);
  });

  test('that leaves a transaction open is not taken for applied', async () => {
    const pool = await postgres.pool();
    const folder = await folderOf({
      '1.sql': '-- banyan: no transaction\nbegin; create table t ();',
    });
    await expect(migrate(pool, folder)).rejects.toThrow('it leaves a transaction open');
    expect(await tablesOf(pool)).toEqual([]);
  });
});

describe('history', () => {
  test('a changed file is an error before anything runs', async () => {
    const pool = await postgres.pool();
    const folder = await folderOf({ '1.sql': 'create table one ();' });
    await migrate(pool, folder);
    await write(folder, { '1.sql': 'create table uno ();', '2.sql': 'create table two ();' });
    await expect(migrate(pool, folder)).rejects.toThrow(MigrationChanged);
    expect(await tablesOf(pool)).toEqual(['one']);
  });

  test('other line ends are no change', async () => {
    const pool = await postgres.pool();
    const folder = await folderOf({ '1.sql': 'create table one ();\nselect 1;\n' });
    await migrate(pool, folder);
    await write(folder, { '1.sql': 'create table one ();\r\nselect 1;\r\n' });
    expect(await migrate(pool, folder)).toEqual({ applied: [], already: 1 });
  });

  test('a file that is gone is an error that names it', async () => {
    const pool = await postgres.pool();
    const folder = await folderOf({ '1.sql': 'select 1', '2.sql': 'select 2' });
    await migrate(pool, folder);
    await rm(path.join(folder, '1.sql'));
    await expect(migrate(pool, folder)).rejects.toThrow(MigrationMissing);
    await expect(migrate(pool, folder)).rejects.toThrow('1.sql');
  });

  test('a new file that sorts before an applied one is an error', async () => {
    const pool = await postgres.pool();
    const folder = await folderOf({ '2.sql': 'create table two ();' });
    await migrate(pool, folder);
    await write(folder, { '1.sql': 'create table one ();' });
    await expect(migrate(pool, folder)).rejects.toThrow(MigrationOutOfOrder);
    expect(await tablesOf(pool)).toEqual(['two']);
  });

  test('a folder that is not there is an error of its own', async () => {
    const pool = await postgres.pool();
    await expect(migrate(pool, path.join(root, 'nowhere'))).rejects.toThrow(
      MigrationsFolderMissing,
    );
  });

  test('property: files are either refused or run in order, each once', () => {
    const names = fc.uniqueArray(fc.integer({ min: 0, max: 99 }).map(String), { maxLength: 12 });
    const migrations = names.map(list =>
      list.sort().map(name => ({ name, checksum: `of ${name}` })),
    );
    fc.assert(
      fc.property(migrations, fc.nat(12), (files, count) => {
        const applied = files.slice(0, count);
        const pending = pendingMigrations(files, applied, 'folder');
        expect([...applied, ...pending]).toEqual(files);
      }),
    );
  });
});

test('the lock is gone with the connection: the pool can be used on', async () => {
  const pool = await postgres.pool({ max: 1 });
  await migrate(pool, await folderOf({ '1.sql': 'select 1' }));
  const { rows } = await pool.query(
    `select count(*)::int as locks from pg_locks where locktype = 'advisory'`,
  );
  expect(rows).toEqual([{ locks: 0 }]);
});

test('works with a client of another pool class, and leaves it open', async () => {
  const pool = postgres.adopt(new pg.Pool({ connectionString: await postgres.database(), max: 2 }));
  await migrate(pool, await folderOf({ '1.sql': 'select 1' }));
  expect(pool.ended).toBe(false);
});
