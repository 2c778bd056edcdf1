/** Where no trigger may be made, what changes the meaning of rows is found in the catalog; what only changes where they lie is not. */
import type pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { fingerprint } from '../../../src/operate/cache/invalidator/coverage.ts';
import { TestPostgres } from '../../support/postgres.ts';

let postgres: TestPostgres;
let client: pg.PoolClient;

beforeAll(async () => {
  postgres = await TestPostgres.start();
  const pool = await postgres.pool({ connectionString: await postgres.database() });
  client = await pool.connect();
  await client.query(`
    create table items (id int primary key, name text);
    create view names as select name from items;
    create function one() returns int language sql as 'select 1';
    insert into items values (1, 'a');`);
});
afterAll(async () => {
  client?.release();
  await postgres?.remove();
});

async function isNoticed(statement: string): Promise<boolean> {
  const before = await fingerprint(client);
  await client.query(statement);
  return (await fingerprint(client)) !== before;
}

test.each([
  'alter table items add column more int',
  'alter table items rename to things',
  'alter table things rename to items',
  'alter table items rename column more to less',
  'create or replace view names as select upper(name) as name from items',
  "create or replace function one() returns int language sql as 'select 2'",
  'alter table items enable row level security',
  'create policy own on items using (id = 1)',
  'alter policy own on items using (id = 2)',
  'create table others (id int primary key)',
  'drop table others',
])('%s is noticed', async statement => {
  expect(await isNoticed(statement)).toBe(true);
});

test.each([
  'truncate items',
  "insert into items values (2, 'b')",
  'analyze items',
  'reindex table items',
  'vacuum full items',
])('%s is none', async statement => {
  expect(await isNoticed(statement)).toBe(false);
});
