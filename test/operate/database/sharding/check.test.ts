/** What of a declaration does not fit a schema: each rule against a real one. */
import type pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Declaration } from '../../../../src/app/database/shards/declaration/placement.ts';
import { readSchema, type Schema } from '../../../../src/app/database/shards/declaration/schema.ts';
import { evenRanges } from '../../../../src/app/database/shards/ranges.ts';
import { checkDeclaration } from '../../../../src/operate/database/sharding/check.ts';
import {
  type Guarded,
  guardShard,
  guardsOf,
  isSame,
} from '../../../../src/operate/database/sharding/guards.ts';
import { TestPostgres } from '../../../support/postgres.ts';

let postgres: TestPostgres;
let pool: pg.Pool;
let schema: Schema;
beforeAll(async () => {
  postgres = await TestPostgres.start();
  pool = await postgres.pool();
  await pool.query(`
    create collation loose (provider = icu, locale = 'und', deterministic = false);
    create table users (
      id bigint primary key, email text unique, nick text, score numeric, made timestamptz, maybe int);
    create unique index users_nick on users (lower(nick));
    create table articles (
      id bigserial, author_id int references users (id), slug text, primary key (author_id, id),
      unique (author_id, slug));
    create table comments (
      id int, author_id bigint, article_author int, article int, primary key (author_id, id),
      foreign key (article_author, article) references articles (author_id, id));
    create table follows (who uuid, whom bigint references users (id), primary key (who, whom));
    create table lonely (id int);
    create table tags (name text primary key);
    create table counted (id serial primary key);
    create table tagged (
      tag text references tags, author_id int references users (id), article int,
      primary key (author_id, article, tag));
    create table loosely (name text collate loose primary key);
    create table made (a int, b int generated always as (a + 1) stored primary key);
    create table parent (id int primary key);
    create table child () inherits (parent);
    create table log (at date, who int, primary key (at, who)) partition by range (at);
    create table log_1 partition of log for values from ('2026-01-01') to ('2027-01-01');
    create view names as select id from users;
    create table "Odd ""name""" ("Key" int primary key, "k2" varchar(9) unique);
  `);
  schema = await readSchema(pool);
});
afterAll(() => postgres?.remove());

const by = (key: string) => ({ kind: 'sharded' as const, key });
const REFERENCE = { kind: 'reference' as const };

const problems = (tables: NonNullable<Declaration['tables']>, unique: string[] = []) =>
  checkDeclaration({ tables, unique }, schema).map(
    ({ severity, table, what }) => `${severity} ${table}: ${what}`,
  );

test('a declaration that fits has no problem', () => {
  expect(
    problems({
      'public.follows': by('who'),
      'public.tags': REFERENCE,
      'public.log': by('who'),
    }).filter(text => !text.includes('follows_whom_fkey')),
  ).toEqual([]);
});

test.each<[string, NonNullable<Declaration['tables']>, string[], string]>([
  ['no table', { 'public.user': by('id') }, [], 'there is no such table'],
  ['a view', { 'public.names': by('id') }, [], 'it is a view'],
  ['a partition', { 'public.log_1': by('who') }, [], 'it is a partition of public.log'],
  ['inheritance', { 'public.parent': by('id') }, [], 'it takes part in inheritance'],
  ['no column', { 'public.users': by('uid') }, [], 'it has no column uid'],
  ['a type', { 'public.users': by('score') }, [], 'its key score is of the type numeric'],
  ['null', { 'public.users': by('maybe') }, [], 'its key maybe may be null'],
  ['collation', { 'public.loosely': by('name') }, [], 'under which texts of different bytes'],
  ['a generated key', { 'public.made': by('b') }, [], 'its key b is computed by the database'],
  [
    'a sequence as key',
    { 'public.counted': by('id') },
    [],
    'warning public.counted: id is numbered',
  ],
  ['no primary key', { 'public.lonely': by('id') }, [], 'it has no primary key'],
  [
    'key outside the primary key',
    { 'public.tagged': by('tag'), 'public.follows': by('whom'), 'public.users': by('nick') },
    [],
    'public.users: its primary key (id) has not the shard key nick in it',
  ],
  ['a unique column', { 'public.users': by('id') }, [], 'the unique index users_email_key (email)'],
  [
    'a unique expression',
    { 'public.users': by('id') },
    ['public.users.email'],
    'the unique index users_nick (an expression)',
  ],
  [
    'unique without an index',
    { 'public.users': by('id') },
    ['public.users.made'],
    '`unique` names made, which has no unique index of its own',
  ],
  ['a numbered column', { 'public.articles': by('author_id') }, [], 'id is numbered by a sequence'],
  [
    'a reference to a home table',
    { 'public.articles': by('author_id') },
    [],
    'refers to public.users, which is on the first shard alone',
  ],
  [
    'a reference by other columns',
    { 'public.articles': by('author_id'), 'public.comments': by('author_id') },
    [],
    'refers to public.articles by other columns than the shard keys',
  ],
  [
    'a reference table that refers to a sharded one',
    { 'public.follows': REFERENCE, 'public.users': by('id') },
    [],
    'refers to public.users, whose rows are each on one shard',
  ],
  [
    'a home table that refers to a sharded one',
    { 'public.users': by('id') },
    [],
    'public.tagged: it is not declared, so it is on the first shard',
  ],
  ['a reference table without a key', { 'public.lonely': REFERENCE }, [], 'no primary key'],
])('%s', (_what, tables, unique, expected) => {
  expect(problems(tables, unique).join('\n')).toContain(expected);
});

test('references by the keys of both, and to reference tables, are fine', () => {
  const found = problems({
    'public.users': by('id'),
    'public.tagged': by('author_id'),
    'public.tags': REFERENCE,
  }).filter(text => text.includes('public.tagged'));
  expect(found).toEqual([]);
});

test('a guard is told from one of other numbers, of another column, and of another kind', async () => {
  const ranges = evenRanges(3);
  const tables: Guarded[] = [
    { schema: 'public', name: 'users', key: 'id', keyType: 'int8' },
    { schema: 'public', name: 'articles', key: 'author_id', keyType: 'int4' },
    { schema: 'public', name: 'follows', key: 'who', keyType: 'uuid' },
    { schema: 'public', name: 'tags', key: 'name', keyType: 'text' },
    { schema: 'public', name: 'log', key: 'who', keyType: 'int4' },
    { schema: 'public', name: 'Odd "name"', key: 'Key', keyType: 'int4' },
  ];
  const client = await pool.connect();
  try {
    for (const shard of [0, 1, 2]) {
      const range = ranges[shard]!;
      expect((await guardShard(client, shard, range, tables)).length).toBe(tables.length);
      expect(await guardShard(client, shard, range, tables)).toEqual([]);
      const definitions = await guardsOf(client);
      for (const table of tables) {
        const definition = definitions.get(`${table.schema}.${table.name}`)!;
        expect(isSame(definition, table, range)).toBe(true);
        expect(isSame(definition, table, ranges[(shard + 1) % 3]!)).toBe(false);
        expect(isSame(definition, { ...table, key: 'other' }, range)).toBe(false);
        const keyType = table.keyType === 'uuid' ? 'text' : 'uuid';
        expect(isSame(definition, { ...table, keyType }, range)).toBe(false);
      }
    }
    const odd: Guarded = { schema: 'public', name: 'Odd "name"', key: 'k2', keyType: 'varchar' };
    expect(await guardShard(client, 2, ranges[2]!, [...tables.slice(0, 5), odd])).toEqual([
      'public.Odd "name"',
    ]);
    expect(isSame((await guardsOf(client)).get('public.Odd "name"')!, odd, ranges[2]!)).toBe(true);
    // A partition is guarded by its root, and tells the same name.
    await expect(
      client.query(`insert into log select '2026-02-02', generate_series(1, 50)`),
    ).rejects.toMatchObject({ code: '23514', constraint: 'banyan_shard_guard' });
    expect((await guardShard(client, 2, ranges[2]!, [])).length).toBe(6);
    expect((await guardsOf(client)).size).toBe(0);
  } finally {
    client.release();
  }
});
