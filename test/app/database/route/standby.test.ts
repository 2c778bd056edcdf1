/**
 * The facts held against a real primary and a real standby: what is called a read runs on the standby and
 * gives what the primary gives; what the standby refuses, or answers otherwise, is not called a read.
 */
import fc from 'fast-check';
import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CatalogKeeper } from '../../../../src/app/database/route/catalog-keeper.ts';
import { openParser } from '../../../../src/app/database/route/parser.ts';
import { StatementCache } from '../../../../src/app/database/route/statement-cache.ts';
import { StandbyPair } from '../../../support/standby.ts';
import { CASES, SCHEMA } from './cases.ts';
import { statements } from './grammar.ts';

/** What a standby says to what it does not do. */
function isRefusal({ sqlstate, message }: Outcome): boolean {
  return (
    sqlstate === '25006' || // read_only_sql_transaction
    sqlstate === '0A000' || // feature_not_supported: unlogged tables, SERIALIZABLE
    // object_not_in_prerequisite_state, which has other uses as well
    (sqlstate === '55000' && message.includes('recovery'))
  );
}

/** Differs from run to run on one server as well. */
const VARIES =
  /age\(|random|uuid|clock|timeofday|now\(|current_time|localtime|_timestamp\(|tablesample|\bdice\b|explain \(?analyze/i;

let pair: StandbyPair;
let primary: pg.Pool;
let standby: pg.Pool;
let cache: StatementCache;

beforeAll(async () => {
  pair = await StandbyPair.start();
  await pair.primary.query('create database cases');
  await pair.primary.query('alter database cases set search_path = app, public');
  primary = pair.poolTo('cases');
  standby = pair.poolTo('cases', 'standby');
  await primary.query(SCHEMA);
  await pair.caughtUp();
  const keeper = new CatalogKeeper(primary, {
    onError: error => {
      throw error;
    },
  });
  await keeper.refresh();
  keeper.close();
  const parser = await openParser();
  cache = new StatementCache(parser, () => keeper.current);
});
afterAll(() => pair?.remove());

interface Outcome {
  sqlstate: string | undefined;
  message: string;
  rows: unknown;
}

/** Runs a text as a client would, in a read-only transaction unless it makes its own. */
async function run(pool: pg.Pool, text: string, alone = false): Promise<Outcome> {
  const client = await pool.connect();
  try {
    await client.query("set statement_timeout = '10s'");
    if (!alone) {
      await client.query(
        'begin read only; declare cur cursor for select 1; savepoint sp; prepare p as select $1::int',
      );
    }
    const count = new Set(text.match(/\$\d+/g)).size;
    const result = count
      ? await client.query({ text, values: Array(count).fill(null), rowMode: 'array' })
      : await client.query({ text, rowMode: 'array' });
    const results = (Array.isArray(result) ? result : [result]) as pg.QueryResult[];
    return { sqlstate: undefined, message: '', rows: results.map(({ rows }) => rows) };
  } catch (error) {
    const { code, message } = error as pg.DatabaseError;
    return { sqlstate: code ?? 'none', message, rows: undefined };
  } finally {
    // As new for the next one.
    await client.query('rollback');
    await client.query('discard all');
    client.release();
  }
}

/** The promise itself. */
async function expectRightAbout(text: string, { alone = false, fails = false } = {}) {
  const { access } = cache.facts(text);
  const there = await run(standby, text, alone);
  if (access === 'write') return there;
  if (!fails) expect(there, text).toMatchObject({ sqlstate: undefined });
  const here = await run(primary, text, alone);
  expect(there.sqlstate, text).toBe(here.sqlstate);
  if (!VARIES.test(text)) expect(there.rows, text).toEqual(here.rows);
  return there;
}

describe('the cases', () => {
  const known = CASES.filter(({ since }) => since <= 15);

  test.each(known.filter(({ access }) => access === 'read').map(one => [one.text, one] as const))(
    'a standby runs: %s',
    async (text, { alone, fails }) => {
      await expectRightAbout(text, { alone, fails });
    },
  );

  test('what the standby refuses is a write', async () => {
    let refused = 0;
    for (const { text, alone, access } of known) {
      const outcome = await run(standby, text, alone);
      if (!isRefusal(outcome)) continue;
      refused++;
      expect(access, `${text}: ${outcome.message}`).toBe('write');
    }
    expect(refused).toBeGreaterThan(100);
  });
});

test('every function of pg_catalog without arguments: a read is answered alike by both', async () => {
  const { rows } = await primary.query<{ name: string }>(`
    select distinct proname as name from pg_proc
    where pronamespace = 'pg_catalog'::regnamespace and pronargs = 0 and prokind = 'f'
      and prorettype not in ('trigger'::regtype, 'event_trigger'::regtype, 'internal'::regtype)
    order by 1`);
  const reads = rows
    .map(({ name }) => name)
    .filter(name => cache.facts(`select ${name}()`).access === 'read');
  expect(reads.length).toBeGreaterThan(20);
  for (const name of reads) {
    const text = `select ${name}()`;
    const [there, here] = [await run(standby, text), await run(primary, text)];
    expect(there.sqlstate, `${name}: ${there.message}`).toBe(here.sqlstate);
    if (!VARIES.test(text)) expect(there.rows, name).toEqual(here.rows);
  }
});

test('every view of the system: a read is answered alike by both', async () => {
  const { rows } = await primary.query<{ name: string }>(`
    select oid::regclass::text as name from pg_class where relkind = 'v' and oid < 16384 order by 1`);
  let reads = 0;
  for (const { name } of rows) {
    const text = `select * from ${name} limit 50`;
    if (cache.facts(text).access === 'write') continue;
    reads++;
    await expectRightAbout(text, { fails: true });
  }
  expect(reads).toBeGreaterThan(60);
});

test('generated statements: a read runs on the standby as on the primary, what it refuses is a write', async () => {
  const seen = { read: 0, refused: 0 };
  await fc.assert(
    fc.asyncProperty(statements, async text => {
      const outcome = await expectRightAbout(text);
      if (cache.facts(text).access === 'read') seen.read++;
      else if (isRefusal(outcome)) seen.refused++;
    }),
    { numRuns: 3_000 },
  );
  // Both sides of the promise were tried.
  expect(seen.read).toBeGreaterThan(60);
  expect(seen.refused).toBeGreaterThan(60);
}, 120_000);

test('a function that is marked stable and writes is refused, and is a write from then on', async () => {
  const text = 'select lies()';
  expect(cache.facts(text).access).toBe('read');
  const { sqlstate } = await run(standby, text);
  expect(sqlstate).toBe('25006');
  cache.refused(text, sqlstate!);
  expect(cache.facts(text)).toMatchObject({ access: 'write', repeatable: false });
});
