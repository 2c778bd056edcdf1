/** Migrations of several databases that are to have the same schema. */
import { readFileSync } from 'node:fs';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { withClient } from '../../src/operate/database/provision.ts';
import { MigrationCommandFailed, runMigrations } from '../../src/operate/migrations.ts';
import type { CompleteTopology } from '../../src/topology/complete.ts';
import { temporaryFolder } from '../support/deployment.ts';
import { TestPostgres } from '../support/postgres.ts';

let postgres: TestPostgres;
let folder: string;
let urls: string[];
beforeAll(async () => {
  postgres = await TestPostgres.start();
});
afterAll(() => postgres?.remove());
beforeEach(async () => {
  folder = temporaryFolder();
  urls = [await postgres.database(), await postgres.database(), await postgres.database()];
  return () => rm(folder, { recursive: true, force: true });
});

const tier = (more: Partial<CompleteTopology['database']>) => more as CompleteTopology['database'];

const run = (more: Partial<CompleteTopology['database']>, env: NodeJS.ProcessEnv = process.env) =>
  runMigrations(folder, tier(more), urls, env, () => {});

async function file(name: string, sql: string): Promise<void> {
  await mkdir(path.join(folder, 'migrations'), { recursive: true });
  await writeFile(path.join(folder, 'migrations', name), sql);
}

const on = <T>(shard: number, sql: string): Promise<T[]> =>
  withClient(
    urls[shard]!,
    async client => (await client.query({ text: sql, rowMode: 'array' })).rows.flat() as T[],
  );

const tables = async () =>
  Promise.all(
    urls.map(async (_url, shard) =>
      (
        await on<string>(
          shard,
          `select relname::text from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace order by 1`,
        )
      ).join(),
    ),
  );

const MIGRATIONS = { migrations: 'migrations' };

test('each file runs on all, and once', async () => {
  await file('1.sql', 'create table a (id int)');
  await file('2.sql', '-- banyan: no transaction\ncreate index concurrently on a (id)');
  expect(await run(MIGRATIONS)).toBe('2 applied on 3 shards: 1.sql, 2.sql');
  expect(await tables()).toEqual(['a', 'a', 'a']);
  expect(await run(MIGRATIONS)).toBe('up to date, 2 applied earlier');
});

test('a file that fails on one is kept on none, and those before it on all', async () => {
  await on(1, 'create table c (id int)');
  await file('1.sql', 'create table a (id int)');
  await file('2.sql', 'create table b (id int); create table c (id int)');
  await expect(run(MIGRATIONS)).rejects.toMatchObject({
    code: 'MIGRATION_FAILED',
    what: '2.sql failed on shard 2: relation "c" already exists',
    remedy: expect.stringContaining('Nothing of this file was kept'),
  });
  expect(await tables()).toEqual(['a', 'a,c', 'a']);
  await on(1, 'drop table c');
  expect(await run(MIGRATIONS)).toBe('1 applied on 3 shards: 2.sql');
  expect(await tables()).toEqual(['a,b,c', 'a,b,c', 'a,b,c']);
});

test('what fails at COMMIT on one is told as perhaps kept on others, and the next run makes up for it', async () => {
  await file(
    '1.sql',
    'create table a (id int primary key, b int references a deferrable initially deferred)',
  );
  await run(MIGRATIONS);
  await on(2, 'insert into a values (7, null)');
  await file(
    '2.sql',
    'insert into a select 1, max(id) + 1 from a having count(*) > 0; create table b (id int)',
  );
  await expect(run(MIGRATIONS)).rejects.toMatchObject({
    what: expect.stringContaining('on shard 3'),
    remedy: expect.stringContaining('a part of it may have been applied'),
  });
  expect(await tables()).toEqual(['a,b', 'a,b', 'a']);
  await on(2, 'delete from a');
  expect(await run(MIGRATIONS)).toBe('1 applied on 3 shards: 2.sql');
  expect(await tables()).toEqual(['a,b', 'a,b', 'a,b']);
});

test("the user's own command runs for each shard, without the map that leads to all", async () => {
  const seen = path.join(folder, 'seen');
  await writeFile(
    path.join(folder, 'migrate.js'),
    `const { appendFileSync } = require('node:fs');
     const { DATABASE_URL, BANYAN_MAP } = process.env;
     appendFileSync(${JSON.stringify(seen)}, DATABASE_URL + ' ' + BANYAN_MAP + '\\n');
     if (DATABASE_URL === process.env.FAILS_ON) process.exit(3);`,
  );
  const env = { ...process.env, BANYAN_MAP: '/somewhere/map.json' };
  const migrate = `${process.execPath} migrate.js`;
  expect(await run({ migrate }, env)).toBe(`\`${migrate}\` done on 3 shards`);
  expect(readFileSync(seen, 'utf8')).toBe(urls.map(url => `${url} undefined\n`).join(''));
  const failing = run({ migrate }, { ...env, FAILS_ON: urls[1] });
  await expect(failing).rejects.toThrow(MigrationCommandFailed);
  await expect(failing).rejects.toThrow('ended with exit code 3 on shard 2 of 3');
});
