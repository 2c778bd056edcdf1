/** Every statement of cases.txt is what it says there, by the catalog of a real server of 15 and of 18. */
import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Catalog } from '../../../../src/app/database/route/catalog.ts';
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
  const database = await postgres15.primary.query('create database cases').then(() => 'cases');
  const older = postgres18.adopt(postgres15.poolTo(database));
  catalogs.set(15, await load(older));
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
