/** What may be declared as a copy: against a schema. */
import { expect, test } from 'vitest';
import type { Column, Relation } from '../../../../src/app/database/shards/declaration/schema.ts';
import { resolveCopies } from '../../../../src/operate/database/copies/copies.ts';
import { parseCopy } from '../../../../src/topology/columns.ts';

const column = (name: string, baseType: string, more: Partial<Column> = {}): Column => ({
  name,
  type: { int4: 'integer', int8: 'bigint' }[baseType] ?? baseType,
  baseType,
  collation: undefined,
  notNull: false,
  default: undefined,
  isNumbered: false,
  isIdentity: false,
  isGenerated: false,
  ...more,
});
const table = (name: string, primaryKey: string[], columns: Column[]): Relation => ({
  schema: 'public',
  name,
  kind: 'table',
  root: undefined,
  parents: [],
  columns,
  primaryKey,
  uniqueIndexes: [],
  foreignKeys: [],
});
const SCHEMA = {
  encoding: 'UTF8',
  searchPath: ['public'],
  relations: [
    table(
      'users',
      ['id'],
      [
        column('id', 'int8', { notNull: true }),
        column('name', 'text'),
        column('data', 'json'),
        column('age', 'int4'),
      ],
    ),
    table('tags', ['a', 'b'], [column('a', 'int4'), column('b', 'int4'), column('name', 'text')]),
    table(
      'articles',
      ['id', 'author_id'],
      [
        column('id', 'int8'),
        column('author_id', 'int4'),
        column('slug', 'text'),
        column('author_name', 'text'),
        column('must', 'text', { notNull: true }),
        column('data', 'json'),
        column('upper', 'text', { isGenerated: true }),
      ],
    ),
  ],
};
const TABLES = {
  'public.users': { kind: 'sharded', key: 'id' },
  'public.articles': { kind: 'sharded', key: 'id' },
} as const;

const resolve = (target: string, text: string, more: Record<string, string> = {}) =>
  resolveCopies(
    {
      denormalize: Object.fromEntries(
        Object.entries({ ...more, [target]: text }).map(([name, copy]) => [
          `public.${name}`,
          parseCopy(copy)!,
        ]),
      ),
      tables: TABLES,
      unique: ['public.articles.slug'],
    },
    SCHEMA,
  );

test('a declaration is read', () => {
  expect(parseCopy('users.name via author_id')).toEqual({
    from: 'public.users.name',
    via: 'author_id',
  });
  expect(parseCopy('app.users.name  via  author_id')?.from).toBe('app.users.name');
  for (const wrong of ['users.name', 'name via author_id', 'users.name via', 'a.b.c.d via e', '']) {
    expect(parseCopy(wrong)).toBeUndefined();
  }
});

test('a copy that fits is resolved', () => {
  const { copies, problems } = resolve('articles.author_name', 'users.name via author_id');
  expect(problems).toEqual([]);
  expect(copies).toMatchObject([
    {
      name: 'public.articles.author_name',
      target: { schema: 'public', table: 'articles', home: 'sharded' },
      via: { name: 'author_id', type: 'integer' },
      key: [{ name: 'id' }, { name: 'author_id' }],
      sourceKey: { name: 'id', type: 'bigint' },
      sourceKeyType: 'int8',
    },
  ]);
});

test.each([
  ['articles.nothing', 'users.name via author_id', /has no column nothing/],
  ['articles.author_name', 'users.nothing via author_id', /users has no column nothing/],
  ['articles.author_name', 'users.name via nothing', /has no column nothing/],
  ['articles.author_name', 'users.age via author_id', /of the type text, and .* of integer/],
  ['articles.author_name', 'users.name via slug', /slug is of the type text/],
  ['articles.author_name', 'tags.name via author_id', /no primary key of one column/],
  ['articles.must', 'users.name via author_id', /may not be null/],
  ['articles.slug', 'users.name via author_id', /is a key/],
  ['articles.upper', 'users.name via author_id', /computed by the database/],
  ['articles.data', 'users.data via author_id', /cannot be compared/],
])('%s from %s is refused', (target, text, message) => {
  const { copies, problems } = resolve(target, text);
  expect(copies).toEqual([]);
  expect(problems).toHaveLength(1);
  expect(problems[0]).toMatchObject({ severity: 'failed', table: 'public.articles' });
  expect(problems[0]!.what).toMatch(message);
});

test('a table that is not there yet is only warned of', () => {
  const { copies, problems } = resolve('later.author_name', 'users.name via author_id');
  expect(copies).toEqual([]);
  expect(problems).toMatchObject([{ severity: 'warning' }]);
});

test('a circle of copies is refused', () => {
  const { problems } = resolve('articles.author_name', 'users.name via author_id', {
    'users.name': 'articles.author_name via age',
  });
  expect(problems.some(({ what }) => /a copy of itself/.test(what))).toBe(true);
});
