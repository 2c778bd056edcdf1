/** What the doctor proposes for schemas that exist, and which statements would cross shards then. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import type pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openParser } from '../../../src/app/database/route/parser.ts';
import { readSchema } from '../../../src/app/database/shards/declaration/schema.ts';
import { crossingStatements } from '../../../src/operate/doctor/crossing.ts';
import { proposeSharding, type TableUse } from '../../../src/operate/doctor/propose-sharding.ts';
import { describe } from '../../../src/operate/doctor/sharding.ts';
import { REPOSITORY } from '../../support/deployment.ts';
import { TestPostgres } from '../../support/postgres.ts';

let postgres: TestPostgres;
beforeAll(async () => {
  postgres = await TestPostgres.start();
});
afterAll(() => postgres?.remove());

async function schemaOf(sql: string) {
  const pool: pg.Pool = await postgres.pool();
  await pool.query(sql);
  return readSchema(pool);
}

const used = (uses: Record<string, Partial<TableUse>>): Map<string, TableUse> =>
  new Map(
    Object.entries(uses).map(([name, use]) => [
      `public.${name}`,
      { rows: 0, reads: 0, writes: 0, ...use },
    ]),
  );

test('Conduit is sharded by its people', async () => {
  const file = path.join(REPOSITORY, 'examples/conduit/migrations/0001_conduit.sql');
  const schema = await schemaOf(readFileSync(file, 'utf8'));
  const proposal = proposeSharding(
    schema,
    used({
      users: { rows: 50_000, reads: 1e6, writes: 60_000 },
      articles: { rows: 200_000, reads: 1e6, writes: 300_000 },
      tags: { rows: 500, reads: 1_000, writes: 90_000 },
      article_totals: { rows: 16, reads: 10, writes: 200_000 },
      follows: { rows: 1e6, reads: 1e6, writes: 1e6 },
    }),
  )!;
  expect(proposal.declaration).toEqual({
    tables: {
      'public.users': { kind: 'sharded', key: 'id' },
      'public.avatars': { kind: 'sharded', key: 'user_id' },
      'public.articles': { kind: 'sharded', key: 'author_id' },
      'public.article_tags': { kind: 'sharded', key: 'author_id' },
      'public.comments': { kind: 'sharded', key: 'article_author_id' },
      'public.favorites': { kind: 'sharded', key: 'user_id' },
    },
    unique: ['public.articles.slug', 'public.users.email', 'public.users.username_key'],
  });
  expect(proposal.problems.filter(({ severity }) => severity === 'failed')).toEqual([]);
  expect(proposal.reasons['public.follows']).toContain('belongs to nothing that is sharded');
  expect(describe(proposal)).toContain("articles: { shardBy: 'author_id' }");

  const statement = (text: string, calls: number) => ({ text, calls });
  const crossing = crossingStatements(
    [
      statement('select * from articles where author_id = $1', 100),
      statement('select * from articles order by created_at desc limit 20', 7),
      statement('select * from articles a join users u on u.id = a.author_id where u.id = $1', 5),
      statement('select 1 from users where email = $1', 9),
      statement('insert into favorites (user_id, article_id) values ($1, $2)', 50),
      statement('update articles set title = $1 where author_id in ($2, $3)', 3),
      statement('delete from comments where id = $1', 1),
      statement('select * from tags where name = $1', 1_000),
      statement('this is no sql', 5_000),
    ],
    proposal.declaration,
    await openParser(),
  );
  expect(crossing.map(({ text, tables }) => [text, tables.join()])).toEqual([
    ['select 1 from users where email = $1', 'public.users'],
    ['select * from articles order by created_at desc limit 20', 'public.articles'],
    ['delete from comments where id = $1', 'public.comments'],
  ]);
});

test('what carries no key is told which column it lacks; small tables are on every shard', async () => {
  const schema = await schemaOf(`
    create table accounts (id uuid primary key, plan text);
    create table plans (name text primary key, price int);
    alter table accounts add foreign key (plan) references plans;
    create table orders (
      id bigint primary key, account_id uuid not null references accounts (id));
    create table items (
      id bigint primary key, order_id bigint references orders (id), plan text references plans);
  `);
  const proposal = proposeSharding(
    schema,
    used({
      accounts: { rows: 1e5 },
      orders: { rows: 1e6 },
      items: { rows: 1e7 },
      plans: { rows: 5 },
    }),
  )!;
  expect(proposal.declaration.tables).toEqual({
    'public.accounts': { kind: 'sharded', key: 'id' },
    'public.orders': { kind: 'sharded', key: 'account_id' },
    'public.plans': { kind: 'reference' },
  });
  expect(proposal.reasons['public.items']).toContain('with a column account_id in its primary key');
  expect(proposal.problems.map(({ table, what }) => `${table}: ${what}`)).toEqual([
    expect.stringContaining('public.orders: its primary key (id) has not the shard key account_id'),
    expect.stringContaining('public.items: it is not declared'),
  ]);
});

test('tables that have nothing in common are left alone', async () => {
  const schema = await schemaOf('create table a (id int primary key); create table b (x text);');
  expect(proposeSharding(schema, new Map())).toBeUndefined();
});
