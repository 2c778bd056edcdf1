/**
 * What a query reads, against PostgreSQL itself: random queries, random changes. Whenever a change makes the result another one,
 * the tags of the change and those of the query must meet.
 */
import fc from 'fast-check';
import type pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { DatabaseReads } from '../../../src/app/cache/reads/database-reads.ts';
import { type Coverages, type RowTexts, tagsOfChange } from '../../../src/app/cache/tags.ts';
import { createPool, type Pool } from '../../../src/app/database/pool.ts';
import { hasCode } from '../../../src/errors.ts';
import { TestPostgres } from '../../support/postgres.ts';

let postgres: TestPostgres;
let pool: Pool;
let client: pg.PoolClient;
let reads: DatabaseReads;

/** As the invalidator tells it: the primary keys, and leading columns of indexes. */
const COVERAGES: Coverages = {
  'public.a': { key: ['id'], columns: { id: 'integer', slug: 'text', author: 'integer' } },
  'public.u': { key: ['id'], columns: { id: 'integer', name: 'text' } },
  'public.g': { key: ['aid', 'tag'], columns: { aid: 'integer', tag: 'text' } },
};

beforeAll(async () => {
  postgres = await TestPostgres.start();
  const url = await postgres.database();
  pool = createPool({ connectionString: url, max: 3 });
  await pool.query(`
    create table u (id int primary key, name text);
    create table a (id int primary key, slug text, author int, title text);
    create table g (aid int, tag text, primary key (aid, tag));
    create view v as select a.id, a.title, u.name from a left join u on u.id = a.author;
    insert into u values (1, 'x'), (2, 'y'), (3, null);
    insert into a values (1, 'x', 1, 't1'), (2, 'y', 2, 't2'), (3, 'x', 1, 't3'), (4, null, null, 't4');
    insert into g values (1, 'x'), (1, 'y'), (2, 'x'), (4, 'z');
  `);
  reads = new DatabaseReads(pool);
  await reads.ready();
  client = await pool.connect();
});

afterAll(async () => {
  client?.release();
  reads?.close();
  await pool?.end();
  await postgres?.remove();
});

const number = fc.integer({ min: 1, max: 5 });
const word = fc.constantFrom('x', 'y', 'z');

/** Columns by their type, of each table. */
const COLUMNS = {
  a: { numbers: ['id', 'author'], words: ['slug', 'title'] },
  u: { numbers: ['id'], words: ['name'] },
  g: { numbers: ['aid'], words: ['tag'] },
} as const;
type Table = keyof typeof COLUMNS;
const table = fc.constantFrom<Table>('a', 'u', 'g');

interface Alias {
  table: Table;
  as: string;
}

function condition({ table: of, as }: Alias, depth = 0): fc.Arbitrary<string> {
  const { numbers, words } = COLUMNS[of];
  const n = fc.constantFrom(...numbers).map(column => `${as}.${column}`);
  const w = fc.constantFrom(...words).map(column => `${as}.${column}`);
  return fc.oneof(
    { weight: 4, arbitrary: fc.tuple(n, number).map(([c, v]) => `${c} = ${v}`) },
    { weight: 4, arbitrary: fc.tuple(w, word).map(([c, v]) => `${c} = '${v}'`) },
    fc.tuple(n, number).map(([c, v]) => `${v}::int = ${c}`),
    fc.tuple(n, number, number).map(([c, v, x]) => `${c} in (${v}, ${x})`),
    fc.tuple(n, number, number).map(([c, v, x]) => `${c} = any(array[${v}, ${x}])`),
    fc.tuple(w, word).map(([c, v]) => `${c} <> '${v}'`),
    fc.tuple(n, number).map(([c, v]) => `(${c} = ${v} or ${c} is null)`),
    fc.tuple(n, number).map(([c, v]) => `not (${c} = ${v})`),
    w.map(c => `${c} is null`),
    fc
      .tuple(fc.boolean(), table, n)
      .chain(([not, inner, c]) =>
        condition({ table: inner, as: `s${depth}` }, depth + 1).map(
          inside =>
            `${not ? 'not ' : ''}exists (select from ${inner} s${depth} where ${inside} and s${depth}.${COLUMNS[inner].numbers[0]} = ${c})`,
        ),
      ),
  );
}

const conditions = (aliases: Alias[]) =>
  fc
    .array(fc.oneof(...aliases.map(alias => condition(alias))), { maxLength: 3 })
    .map(list => list.join(' and ') || 'true');

const joined = fc.tuple(
  table,
  table,
  fc.constantFrom('join', 'left join', 'right join', 'full join'),
);

const query: fc.Arbitrary<string> = fc.oneof(
  // One table.
  {
    weight: 3,
    arbitrary: fc
      .tuple(table, fc.boolean(), fc.constantFrom('*', 'key', 'no key', 'renamed'))
      .chain(([of, alias, list]) => {
        const as = alias ? 'q' : of;
        const [key] = COLUMNS[of].numbers;
        const lists: Record<string, string> = {
          '*': '*',
          key: `${COLUMNS[of].words[0]}, ${as}.${key}`,
          'no key': COLUMNS[of].words[0],
          renamed: `${as}.${key} as k, ${COLUMNS[of].words[0]} as ${key}`,
        };
        return fc
          .tuple(
            conditions([{ table: of, as }]),
            fc.constantFrom('', ` order by ${key} limit 1`, ` order by ${key} limit 1 offset 1`),
          )
          .map(
            ([where, end]) =>
              `select ${lists[list]} from ${of} ${alias ? 'q' : ''} where ${where}${end}`,
          );
      }),
  },
  // Two, joined.
  {
    weight: 4,
    arbitrary: joined.chain(([left, right, how]) => {
      const aliases = [
        { table: left, as: 'l' },
        { table: right, as: 'r' },
      ];
      const on = `l.${COLUMNS[left].numbers.at(-1)} = r.${COLUMNS[right].numbers[0]}`;
      const more = how === 'full join' ? fc.constant('true') : conditions(aliases);
      return fc
        .tuple(
          more,
          conditions(aliases),
          fc.constantFrom('l.*', 'r.*', 'l.*, r.*', '1 as one', 'count(*)'),
        )
        .map(
          ([extra, where, list]) =>
            `select ${list} from ${left} l ${how} ${right} r on ${on} and ${extra} where ${where}`,
        );
    }),
  },
  // Three, nested.
  conditions([
    { table: 'a', as: 'l' },
    { table: 'u', as: 'm' },
    { table: 'g', as: 'r' },
  ]).chain(where =>
    fc
      .tuple(
        fc.constantFrom('join', 'left join', 'right join'),
        fc.constantFrom('join', 'left join'),
        condition({ table: 'g', as: 'r' }),
      )
      .map(
        ([one, two, on]) =>
          `select l.id, m.id as u, r.aid from u m ${one} (a l ${two} g r on r.aid = l.id and ${on}) on l.author = m.id where ${where}`,
      ),
  ),
  // Aggregates, DISTINCT, windows, sets, subqueries, CTEs, a view.
  conditions([{ table: 'a', as: 'q' }]).chain(where =>
    fc.constantFrom(
      `select count(*), max(q.id) from a q where ${where}`,
      `select distinct q.author, q.id from a q where ${where}`,
      `select q.id, count(*) over () from a q where ${where} limit 1`,
      `select q.id from a q where ${where} union all select id from u where id = 1`,
      `select s.* from (select q.id, q.slug from a q where ${where}) s where s.id = 1`,
      `with q as (select * from a where id = 2), z as (select q.* from q where ${where}) select * from z`,
      `with a as (select * from u) select a.id, q.slug from a, (select * from public.a) q where ${where}`,
      `select (select max(name) from u where u.id = q.author) from a q where ${where}`,
      `select v.title, q.id from v, a q where v.id = q.id and ${where}`,
      `select id, title from v where id = 1`,
    ),
  ),
);

type Change =
  | { kind: 'insert'; table: Table; values: unknown[] }
  | { kind: 'update'; table: Table; row: number; column: number; value: unknown }
  | { kind: 'delete'; table: Table; row: number };

const NAMES = { a: ['id', 'slug', 'author', 'title'], u: ['id', 'name'], g: ['aid', 'tag'] };
const IS_NUMBER = new Set(['id', 'author', 'aid']);
const valueFor = (column: string) =>
  IS_NUMBER.has(column) ? fc.integer({ min: 1, max: 9 }) : fc.oneof(word, fc.constant(null));

const change: fc.Arbitrary<Change> = table.chain(of =>
  fc.oneof(
    fc
      .tuple(...NAMES[of].map(valueFor))
      .map(values => ({ kind: 'insert' as const, table: of, values })),
    {
      weight: 3,
      arbitrary: fc.tuple(fc.nat(5), fc.nat(NAMES[of].length - 1)).chain(([row, column]) =>
        valueFor(NAMES[of][column]!).map(value => ({
          kind: 'update' as const,
          table: of,
          row,
          column,
          value,
        })),
      ),
    },
    fc.nat(5).map(row => ({ kind: 'delete' as const, table: of, row })),
  ),
);

const texts = (row: Record<string, unknown>): RowTexts =>
  Object.fromEntries(
    Object.entries(row).map(([name, value]) => [name, value === null ? null : String(value)]),
  );

/** Makes the change. @returns its tags, as the log tells them by the replica identity; undefined: it could not be made */
async function make(made: Change): Promise<string[] | undefined> {
  const name = `public.${made.table}`;
  const coverage = COVERAGES[name]!;
  const keyOf = (row: Record<string, unknown>) =>
    texts(Object.fromEntries(coverage.key.map(column => [column, row[column]])));
  await client.query('savepoint made');
  try {
    if (made.kind === 'insert') {
      const places = made.values.map((_value, i) => `$${i + 1}`).join(', ');
      const { rows } = await client.query(
        `insert into ${name} values (${places}) returning *`,
        made.values,
      );
      return tagsOfChange('public', made.table, coverage, undefined, texts(rows[0]));
    }
    const all = (await client.query(`select * from ${name} order by 1, 2`)).rows;
    const old = all[made.row % all.length];
    const isIt = coverage.key.map((column, i) => `${column} = $${i + 2}`).join(' and ');
    const key = coverage.key.map(column => old[column]);
    if (made.kind === 'delete') {
      await client.query(`delete from ${name} where $1::int is null and ${isIt}`, [null, ...key]);
      return tagsOfChange('public', made.table, coverage, keyOf(old), undefined);
    }
    const column = NAMES[made.table][made.column]!;
    const { rows } = await client.query(
      `update ${name} set ${column} = $1 where ${isIt} returning *`,
      [made.value, ...key],
    );
    const before = coverage.key.includes(column) ? keyOf(old) : undefined;
    return tagsOfChange('public', made.table, coverage, before, texts(rows[0]));
  } catch {
    // A key that is there already, or NULL in one.
    await client.query('rollback to made');
    return undefined;
  }
}

const asSet = (rows: unknown[]) => rows.map(row => JSON.stringify(row)).sort();

test('of a key of several columns the last tells: before it stands whose it is', () => {
  const tagsOf = (text: string, result?: object) =>
    reads.tagsOf(text, [], result, COVERAGES) as { tags: readonly string[] };
  expect(tagsOf("select 1 from g where aid = 1 and tag = 'x'").tags).toEqual([
    'public.g!',
    'public.g#tag=x',
  ]);
  expect(tagsOf("select 1 from g where tag = 'x' and aid = 1").tags).toEqual([
    'public.g!',
    'public.g#tag=x',
  ]);
  // Fewer values are better still.
  expect(tagsOf("select 1 from g where aid = 1 and tag in ('x', 'y')").tags).toEqual([
    'public.g!',
    'public.g#aid=1',
  ]);
});

test('a change that makes a result another one has a tag that the result has', async () => {
  let narrow = 0;
  await fc.assert(
    fc.asyncProperty(
      query,
      fc.array(change, { minLength: 1, maxLength: 3 }),
      async (text, changes) => {
        await client.query('begin');
        try {
          // A WITH of the grammar may hide a table that a condition means.
          const result = await client.query(text).catch(error => {
            if (!hasCode(error, '42703')) throw error;
          });
          if (!result) return;
          const found = reads.tagsOf(text, [], result, COVERAGES);
          if (found.kind === 'refused') throw new Error(`${text}: it ${found.why}`);
          if (found.tags.some(tag => tag.includes('#'))) narrow++;
          for (const each of changes) {
            const tags = await make(each);
            if (!tags) continue;
            const after = await client.query(text);
            const isSame = JSON.stringify(asSet(after.rows)) === JSON.stringify(asSet(result.rows));
            if (found.tags.some(tag => tags.includes(tag))) return;
            if (isSame) continue;
            expect.fail(`${text}\n${JSON.stringify(each)}\n${found.tags}\n${tags}`);
          }
        } finally {
          await client.query('rollback');
        }
      },
    ),
    { numRuns: 600 },
  );
  // It is about something: a good part of the queries have tags of values.
  expect(narrow).toBeGreaterThan(100);
});

/** By statement: the tags that it has. */
const CASES: [text: string, values: unknown[], tags: string[] | 'refused'][] = [
  ['select * from a where id = $1', ['05'], ['public.a!', 'public.a#id=5']],
  ['select * from a where id = $1', ['5.0'], ['public.a!', 'public.a']],
  ['select * from a where id = any($1)', [[1, 2]], ['public.a!', 'public.a#id=1', 'public.a#id=2']],
  ['select * from a where id = any($1)', ['{1,2}'], ['public.a!', 'public.a']],
  ['select * from a where id = null', [], ['public.a!']],
  ['select title from a where slug = $1', ['x'], ['public.a!', 'public.a']],
  ['select id, title from a where slug = $1', ['none'], ['public.a!', 'public.a#slug=none']],
  ['select tag from g where aid = 1', [], ['public.g!', 'public.g#aid=1']],
  ['select count(*) from g where aid = 1', [], ['public.g!', 'public.g#aid=1']],
  ['select 1', [], []],
  ['select now() from a where id = 1', [], ['public.a!', 'public.a#id=1']],
  ['select title from v where id = 1', [], ['public.a!', 'public.a', 'public.u!', 'public.u']],
  ['insert into u values (9)', [], 'refused'],
  ['select * from a for update', [], 'refused'],
  ['select * from unknown', [], 'refused'],
  ['select nonsense from', [], 'refused'],
  ['begin read only', [], []],
];

test.each(CASES)('%s', (text, values, tags) => {
  const result = { rows: [], fields: [{ name: 'id' }, { name: 'title' }] };
  const found = reads.tagsOf(text, values, result, COVERAGES);
  if (tags === 'refused') expect(found.kind).toBe('refused');
  else expect(found.kind === 'tags' && found.tags.toSorted()).toEqual(tags.toSorted());
});
