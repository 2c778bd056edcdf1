/** An EXPLAIN is taken apart as PostgreSQL's own parser reads it. */
import { beforeAll, expect, test } from 'vitest';
import { openParser, type Parser } from '../../../../src/app/database/route/parser.ts';
import {
  isExplain,
  readExplain,
} from '../../../../src/app/database/shards/explain/explain-text.ts';

let parser: Parser;
beforeAll(async () => {
  parser = await openParser();
});

function read(text: string) {
  return readExplain(text, given => {
    const parsed = parser.parse(given);
    return parsed.kind === 'statements'
      ? parsed.statements.flatMap(({ stmt }) => stmt ?? [])
      : undefined;
  });
}

const EXPLAINS = [
  'explain',
  'EXPLAIN  ',
  'explain verbose',
  'explain (costs off)',
  '-- why\nexplain',
];
const RUNNING = [
  'explain analyze',
  'explain analyse verbose',
  'explain (analyze)',
  'explain ( analyze true , buffers off )',
  '/* now */ Explain(Analyze, Format Text)',
];
const STATEMENTS = [
  'select 1',
  '(select 1)',
  '((select 1) union (select 2))',
  "insert into t values ('(analyze)')",
  'with a as (select 1) select * from a',
  'update "verbose" set x = 1',
  'values (1)',
];

test.each([...EXPLAINS, ...RUNNING])('%s, before any statement', prefix => {
  for (const statement of STATEMENTS) {
    const text = `${prefix} ${statement}`;
    expect(isExplain(text)).toBe(true);
    const found = read(text);
    expect({ text, statement: found?.statement }).toEqual({ text, statement });
    expect(found).toMatchObject({ runs: RUNNING.includes(prefix), isForPeople: true });
    expect(found!.prefix).toMatch(/^explain/i);
  }
});

test('formats for programs are told; what is no EXPLAIN, or is several, is not taken', () => {
  expect(read('explain (format json) select 1')).toMatchObject({ isForPeople: false });
  expect(read('explain (analyze off) select 1')).toMatchObject({ runs: false });
  expect(read('explain select 1; select 2')).toBeUndefined();
  expect(read('select 1')).toBeUndefined();
  expect(read('explain selec 1')).toBeUndefined();
  expect(isExplain('select * from explain')).toBe(false);
  expect(isExplain('explained')).toBe(false);
});
