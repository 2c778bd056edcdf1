import type pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { Catalog } from '../../../../src/app/database/route/catalog.ts';
import {
  CatalogKeeper,
  type CatalogKeeperOptions,
  type CatalogSource,
} from '../../../../src/app/database/route/catalog-keeper.ts';
import { classify } from '../../../../src/app/database/route/classify.ts';
import { openParser, type Parser } from '../../../../src/app/database/route/parser.ts';
import { TestPostgres } from '../../../support/postgres.ts';
import { until } from '../../../support/until.ts';

let postgres: TestPostgres;
let parser: Parser;
let pool: pg.Pool;
let errors: unknown[];
const keepers: CatalogKeeper[] = [];

beforeAll(async () => {
  [postgres, parser] = await Promise.all([TestPostgres.start(), openParser()]);
});
afterAll(() => postgres?.remove());
beforeEach(async () => {
  errors = [];
  pool = await postgres.pool();
  await pool.query('create table a (id int)');
});
afterEach(() => {
  for (const keeper of keepers.splice(0)) keeper.close();
});

function keep(source: CatalogSource = pool, options: Partial<CatalogKeeperOptions> = {}) {
  const keeper = new CatalogKeeper(source, { onError: error => errors.push(error), ...options });
  keepers.push(keeper);
  return keeper;
}

const facts = (text: string, keeper: CatalogKeeper) => classify(parser.parse(text), keeper.current);

/** Passes queries on, counts them, and holds those of the user's part until `open` is called. */
class Gate implements CatalogSource {
  queries = 0;
  #open = Promise.resolve();
  open = () => {};

  close(): void {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#open = promise;
    this.open = resolve;
  }

  async query(text: string): Promise<unknown> {
    this.queries++;
    const results = await pool.query(text);
    await this.#open;
    return results;
  }
}

test('before the first load nothing is known; after it the tables are', async () => {
  const keeper = keep();
  expect(keeper.current).toBe(Catalog.EMPTY);
  await keeper.refresh();
  expect(keeper.current.searchPath).toEqual(['pg_catalog', 'public']);
  expect(facts('select * from a', keeper).access).toBe('read');
  expect(errors).toEqual([]);
});

test('as long as nothing changes it stays the same object', async () => {
  const keeper = keep();
  await keeper.refresh();
  const { current } = keeper;
  await keeper.refresh();
  expect(keeper.current).toBe(current);
  await pool.query('insert into a values (1)');
  await keeper.refresh();
  expect(keeper.current).toBe(current);
});

test('a change of the schema made elsewhere is noticed by the timer', async () => {
  const keeper = keep(pool, { refreshIntervalMs: 20 });
  await keeper.refresh();
  const { version } = keeper.current;
  await pool.query('alter table a set unlogged');
  await until(() => facts('select * from a', keeper).access === 'write');
  expect(keeper.current.version).toBeGreaterThan(version);
});

test('an unknown name leads to a load, a thousand of them to one', async () => {
  const gate = new Gate();
  const keeper = keep(gate, { unknownPauseMs: 0 });
  await keeper.refresh();
  await pool.query('create table b (id int)');
  const before = gate.queries;
  for (let n = 0; n < 1_000; n++) keeper.noticed(facts('select * from b', keeper));
  await until(() => facts('select * from b', keeper).access === 'read');
  expect(gate.queries).toBe(before + 1);
});

test('a name that does not exist does not lead to a load each time', async () => {
  const gate = new Gate();
  const keeper = keep(gate, { unknownPauseMs: 60_000 });
  await keeper.refresh();
  const before = gate.queries;
  for (let n = 0; n < 100; n++) keeper.noticed(facts('select * from nothing', keeper));
  expect(gate.queries).toBe(before);
});

describe('after a change of the schema by this process', () => {
  test('nothing is taken for known until it has been loaded anew', async () => {
    const keeper = keep();
    await keeper.refresh();
    const { version } = keeper.current;
    await pool.query('alter table a set unlogged');
    const changed = keeper.changed();
    expect(keeper.current.version).not.toBe(version);
    expect(facts('select * from a', keeper).access).toBe('write');
    await changed;
    expect(facts('select * from a', keeper).reasons).toMatchObject([{ kind: 'unlogged' }]);
  });

  test('a load that looked before the change does not count', async () => {
    const gate = new Gate();
    const keeper = keep(gate);
    await keeper.refresh();
    gate.close();
    const before = gate.queries;
    const early = keeper.refresh();
    await until(() => gate.queries === before + 1);
    // It has been asked before the table became unlogged, and answers after.
    await until(async () => pool.idleCount > 0);
    await pool.query('alter table a set unlogged');
    const changed = keeper.changed();
    gate.open();
    await early;
    expect(facts('select * from a', keeper).access).toBe('write');
    await changed;
    expect(facts('select * from a', keeper).reasons).toMatchObject([{ kind: 'unlogged' }]);
  });
});

test('when a load fails, what was known stays, and it is told', async () => {
  let isDown = false;
  const keeper = keep({
    query: text => (isDown ? Promise.reject(new Error('it is away')) : pool.query(text)),
  });
  await keeper.refresh();
  const { current } = keeper;
  isDown = true;
  await keeper.refresh();
  expect(keeper.current).toBe(current);
  expect(errors).toMatchObject([{ message: 'it is away' }]);
});

test('an ordinary role can load it', async () => {
  await pool.query(`create role app login password 'x'`);
  const { host, port } = postgres;
  const { rows } = await pool.query<{ name: string }>('select current_database() as name');
  const own = postgres.adopt(
    await postgres.pool({
      connectionString: `postgres://app:x@${host}:${port}/${rows[0]!.name}`,
    }),
  );
  const keeper = keep(own);
  await keeper.refresh();
  expect(errors).toEqual([]);
  expect(facts('select * from pg_stat_activity', keeper).access).toBe('write');
});

test('a cast that no text shows, if it calls a volatile function, leaves no read', async () => {
  await pool.query(`
    create type mood as enum ('good');
    create function mood_number(mood) returns int language sql as 'select 1';
    create cast (mood as int) with function mood_number(mood) as implicit`);
  const keeper = keep();
  await keeper.refresh();
  expect(facts('select * from a', keeper).reasons).toMatchObject([
    {
      kind: 'volatile-function',
      text: 'may cast mood to integer by mood_number, which no text shows',
    },
  ]);
  expect(facts('begin read only', keeper).access).toBe('read');
});

test('names with quotes, and what is named like them, are no way in', async () => {
  await pool.query(`
    create schema "it's";
    create view "it's"."a ""view""" as select count(*) from pg_stat_activity;
    create function "it's"."f'""x"() returns int language sql as 'select 1'`);
  const keeper = keep();
  await keeper.refresh();
  await keeper.refresh();
  expect(errors).toEqual([]);
  expect(facts(`select * from "it's"."a ""view"""`, keeper).reasons).toMatchObject([
    { kind: 'server-state' },
  ]);
  expect(facts(`select "it's"."f'""x"()`, keeper).reasons).toMatchObject([
    { kind: 'volatile-function' },
  ]);
});
