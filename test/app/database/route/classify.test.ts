/** Every statement of cases.txt is what it says there, by the catalog of a real server of 15 and of 18. */
import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Catalog } from '../../../../src/app/database/route/catalog.ts';
import { CatalogKeeper } from '../../../../src/app/database/route/catalog-keeper.ts';
import { classify } from '../../../../src/app/database/route/classify.ts';
import type { StatementFacts } from '../../../../src/app/database/route/facts.ts';
import { openParser, type Parser } from '../../../../src/app/database/route/parser.ts';
import { TestPostgres } from '../../../support/postgres.ts';
import { StandbyPair } from '../../../support/standby.ts';
import { asCase, CASES, SCHEMA } from './cases.ts';

let postgres18: TestPostgres;
let postgres15: StandbyPair;
let parser: Parser;
const catalogs = new Map<number, Catalog>();

beforeAll(async () => {
  [postgres18, postgres15, parser] = await Promise.all([
    TestPostgres.start(),
    StandbyPair.start(),
    openParser(),
  ]);
  await postgres15.primary.query('create database cases');
  catalogs.set(15, await load(postgres15.poolTo('cases')));
  catalogs.set(18, await load(await postgres18.pool()));
});
afterAll(async () => {
  await postgres18?.remove();
  await postgres15?.remove();
});

async function load(pool: pg.Pool): Promise<Catalog> {
  const client = await pool.connect();
  await client.query(SCHEMA);
  return loadWith(client).finally(() => client.release());
}

async function loadWith(source: { query(text: string): Promise<unknown> }): Promise<Catalog> {
  let failure: unknown;
  const keeper = new CatalogKeeper(source, {
    onError: error => {
      failure = error;
    },
  });
  await keeper.refresh();
  keeper.close();
  if (failure) throw failure;
  return keeper.current;
}

const facts = (text: string, catalog = catalogs.get(18)!): StatementFacts =>
  classify(parser.parse(text), catalog);
const texts = (text: string, catalog?: Catalog) => facts(text, catalog).reasons.map(r => r.text);

test('there are enough cases', () => {
  expect(CASES.length).toBeGreaterThan(400);
});

describe.each([15, 18])('by the catalog of PostgreSQL %i', version => {
  test.each(CASES.filter(({ since }) => since <= version).map(one => [one.text, one] as const))(
    '%s',
    (text, expected) => {
      const found = facts(text, catalogs.get(version));
      expect(asCase(found, expected), texts(text, catalogs.get(version)).join('; ')).toEqual(
        expected,
      );
    },
  );
});

test('foreign tables may be read anywhere when that is wanted, unless something else is in the way', () => {
  const catalog = catalogs.get(18)!;
  const anywhere = (text: string) =>
    classify(parser.parse(text), catalog, { foreignTablesAnywhere: true }).access;
  expect(anywhere('select * from remote')).toBe('read');
  expect(anywhere('select * from remote_ids')).toBe('read');
  expect(anywhere('select * from remote_numbered')).toBe('write');
  expect(anywhere('insert into remote values (1)')).toBe('write');
});

test('what pins is known also while nothing is known of the database', () => {
  for (const { text, pins } of CASES) {
    expect(facts(text, Catalog.EMPTY).pins, text).toBe(pins);
  }
});

test('nothing is a read that was none, when less is known of the database', () => {
  for (const { text, access } of CASES.filter(({ access }) => access === 'write')) {
    expect(facts(text, Catalog.EMPTY).access, text).toBe(access);
  }
});

describe('modes of a transaction', () => {
  test.each([
    ['begin', {}],
    ['begin read only', { readOnly: true }],
    ['begin read write', { readOnly: false }],
    [
      'start transaction isolation level serializable, read only, deferrable',
      { isolation: 'serializable', readOnly: true, deferrable: true },
    ],
    [
      'begin isolation level repeatable read not deferrable',
      { isolation: 'repeatable read', deferrable: false },
    ],
    ['begin read only, read write', { readOnly: false }],
  ])('%s', (text, modes) => {
    expect(facts(text).transaction).toEqual([{ kind: 'begin', modes }]);
  });

  test('savepoints and prepared transactions are told with their names', () => {
    expect(facts('savepoint a; rollback to a; release a; commit and chain').transaction).toEqual([
      { kind: 'savepoint', name: 'a' },
      { kind: 'rollback to', name: 'a' },
      { kind: 'release', name: 'a' },
      { kind: 'commit', chain: true },
    ]);
    expect(facts("prepare transaction 'g'").transaction).toEqual([{ kind: 'prepare', gid: 'g' }]);
  });
});

test('a person is told why', () => {
  expect(texts("select nextval('ids')")).toEqual(['calls nextval, which advances a sequence']);
  expect(texts('select bump()')).toEqual(['calls app.bump, which is volatile']);
  expect(texts('select * from numbered_too')).toEqual([
    'uses app.numbered_too, and the view app.numbered calls nextval',
  ]);
  expect(texts('select * from logs')).toEqual(['uses app.logs, and app.logs_old is unlogged']);
  expect(texts('select 1::checked_too')).toEqual([
    'uses the type app.checked_too, and its check calls check_volatile',
  ]);
  expect(facts('listen x').pinnedBy).toBe('listens on x');
});
