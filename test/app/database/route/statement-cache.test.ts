import fc from 'fast-check';
import { beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { Catalog } from '../../../../src/app/database/route/catalog.ts';
import type { CatalogData } from '../../../../src/app/database/route/catalog-query.ts';
import { classify } from '../../../../src/app/database/route/classify.ts';
import { openParser, type Parsed, type Parser } from '../../../../src/app/database/route/parser.ts';
import { StatementCache } from '../../../../src/app/database/route/statement-cache.ts';

/** Two tables, of which the second becomes unlogged and is logged again. */
function catalog(version: number): Catalog {
  const trouble: [string, string] | null =
    version % 2 ? ['unlogged', 'public.b is unlogged'] : null;
  const data: CatalogData = {
    searchPath: ['pg_catalog', 'public'],
    functions: { pg_catalog: ['lower'] },
    unsafeFunctions: [['pg_catalog', 'nextval', 1, 1, 'is volatile']],
    operators: { pg_catalog: ['=', '+'] },
    unsafeOperators: [],
    types: { pg_catalog: ['int4'] },
    unsafeTypes: [],
    relations: [
      [20_000, 'public', 'a', 'r', null],
      [20_001, 'public', 'b', 'r', trouble],
    ],
    unsafeRowFunctions: [],
    unsafeImplicitCast: null,
  };
  return new Catalog(version, [data]);
}

class CountingParser implements Parser {
  calls = 0;
  readonly #parser: Parser;
  constructor(parser: Parser) {
    this.#parser = parser;
  }
  parse(text: string): Parsed {
    this.calls++;
    return this.#parser.parse(text);
  }
}

let real: Parser;
let parser: CountingParser;
beforeAll(async () => {
  real = await openParser();
});
beforeEach(() => {
  parser = new CountingParser(real);
});

test('a text is parsed once, and its facts are the same object each time', () => {
  const now = catalog(2);
  const cache = new StatementCache(parser, () => now);
  const first = cache.facts('select * from a where id = $1');
  expect(cache.facts('select * from a where id = $1')).toBe(first);
  expect(Object.isFrozen(first)).toBe(true);
  expect(parser.calls).toBe(1);
});

test('whatever is asked in whatever order, while the catalog changes: facts are those of now, and the bounds hold', () => {
  const texts = [
    ...['select * from a', 'select * from b', 'select * from c', 'insert into a values (1)'],
    ...['selec', 'begin', "select nextval('x')", `select '${'x'.repeat(4_000)}'`, ''],
  ];
  const step = fc.oneof(
    { weight: 9, arbitrary: fc.constantFrom(...texts) },
    { weight: 1, arbitrary: fc.constant(null) },
  );
  fc.assert(
    fc.property(
      fc.array(step, { maxLength: 60 }),
      fc.integer({ min: 1, max: 6 }),
      fc.integer({ min: 2_000, max: 18_000 }),
      (steps, maxEntries, maxBytes) => {
        let now = catalog(1);
        const cache = new StatementCache(real, () => now, { maxEntries, maxBytes });
        for (const text of steps) {
          if (text === null) now = catalog(now.version + 1);
          else expect(cache.facts(text)).toEqual(classify(real.parse(text), now));
          expect(cache.size).toBeLessThanOrEqual(maxEntries);
          expect(cache.bytes).toBeLessThanOrEqual(maxBytes);
        }
      },
    ),
    { numRuns: 500 },
  );
});

test('ten thousand different texts take no more than their bound', () => {
  const now = catalog(2);
  const cache = new StatementCache(parser, () => now, { maxEntries: 100 });
  for (let n = 0; n < 10_000; n++) cache.facts(`select ${n}`);
  expect(cache.size).toBe(100);
});

test('what comes while the parser is made anew is a write now and parsed again later', () => {
  const now = catalog(2);
  let isThere = false;
  const coming: Parser = {
    parse: text => (isThere ? real.parse(text) : { kind: 'unavailable' }),
  };
  const cache = new StatementCache(coming, () => now);
  expect(cache.facts('select 1').access).toBe('write');
  isThere = true;
  expect(cache.facts('select 1').access).toBe('read');
});

describe('a read that a standby refused', () => {
  test('is a write until the catalog changes, and may not be repeated', () => {
    let now = catalog(2);
    const cache = new StatementCache(parser, () => now);
    cache.refused('select * from a', '25006');
    expect(cache.facts('select * from a')).toMatchObject({
      access: 'write',
      repeatable: false,
      reasons: [{ kind: 'refused', text: 'was refused by a standby (25006)' }],
    });
    now = catalog(4);
    expect(cache.facts('select * from a').access).toBe('read');
  });
});

test('a tree deeper than the stack is a write', () => {
  const stmt = JSON.parse(`${'{"A_Expr":{"lexpr":'.repeat(20_000)}{}${'}}'.repeat(20_000)}`);
  const facts = classify(
    { kind: 'statements', statements: [{ stmt: { SelectStmt: { whereClause: stmt } } }] },
    catalog(2),
  );
  expect(facts).toMatchObject({ access: 'write', reasons: [{ kind: 'not-parsed' }] });
});

test('before anything is known of the database only what names nothing is a read', () => {
  const reads = (text: string) => classify(real.parse(text), Catalog.EMPTY).access === 'read';
  expect(reads('select 1')).toBe(true);
  expect(reads('begin read only')).toBe(true);
  expect(reads('select 1 + 1')).toBe(false);
  expect(reads('select now()')).toBe(false);
  expect(reads('select * from pg_class')).toBe(false);
});
