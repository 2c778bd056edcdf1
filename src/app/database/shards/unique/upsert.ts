/**
 * ON CONFLICT by a column that is unique across shards: a row whose value is taken is updated, or left out, on the shard
 * where the row is that has it.
 *
 * Holds true here:
 * - The lookup tables say which values are taken, and by which key. Their rows are locked until the end of the
 *   transaction where a row is to be updated, so what was found is there.
 * - A row whose value is free is inserted, and its value claimed. Who claimed it in between wins, and all is done again
 *   from the look-up on: as on one server nobody is told of a conflict.
 * - A row whose value is taken is sent with the key of the row that has it: its shard's own index finds the conflict.
 * - Rows go many at a time, and where it may matter in which order they are given, one after the other: when a value
 *   is taken that another row of the statement gave up, or is taken twice.
 */
import pg from 'pg';
import { hasCode } from '../../../../errors.ts';
import { bindParameters } from '../bind.ts';
import type { LaneStatement } from '../lanes.ts';
import { addUp } from '../parallel.ts';
import type { Written } from '../plan/tree.ts';
import { textOf } from '../plan/values.ts';
import type { Result } from '../run.ts';
import type { ShardedTransaction } from '../sharded-transaction.ts';
import type { UniqueColumn } from './columns.ts';
import { type Conflict, KEY_PARAMETER, UniqueConflictRefused } from './conflict.ts';
import type { UniqueKeeper } from './keeper.ts';
import { lookupTable } from './tables.ts';

const UNIQUE_VIOLATION = '23505';
const SAVEPOINT = 'banyan_upsert';
/** Each means that another transaction claimed the value between a look-up and a claim. */
const MAX_ATTEMPTS = 10;

export interface UpsertOptions {
  readonly conflict: Conflict;
  readonly keeper: UniqueKeeper;
  readonly statement: LaneStatement;
  readonly transaction: ShardedTransaction;
  /** Runs a statement as the planner has it. */
  run(statement: LaneStatement): Promise<Result>;
}

/** @throws UniqueConflictRefused, what PostgreSQL says */
export async function upsert(options: UpsertOptions): Promise<Result> {
  const { conflict, transaction } = options;
  const texts = textsOf(options);
  let waves = wavesOf(texts, conflict);
  // What is only left out gives no value up.
  let orderMayMatter = conflict.updates && texts.length > 1;
  const oneByOne = () => {
    orderMayMatter = false;
    waves = texts.map((_, row) => [row]);
  };
  for (let attempt = 1; ; attempt++) {
    await transaction.savepoint(SAVEPOINT);
    try {
      const { result, hasHandedOver } = await runWaves(options, texts, waves);
      if (!orderMayMatter || !hasHandedOver) {
        await transaction.release(SAVEPOINT);
        return result;
      }
      await transaction.rollBackTo(SAVEPOINT);
      oneByOne();
    } catch (error) {
      const isByOrder =
        orderMayMatter && conflict.columns.length > 0 && hasCode(error, UNIQUE_VIOLATION);
      if (!isByOrder && !isClaimed(error, conflict.columns)) throw error;
      await transaction.rollBackTo(SAVEPOINT);
      if (attempt >= MAX_ATTEMPTS) throw couldNotSerialize(error);
      if (isByOrder) oneByOne();
    }
  }
}

/** Of each row, of each column; null: no conflict can come of it. */
function textsOf({ conflict, statement }: UpsertOptions): (string | null)[][] {
  return conflict.rows.map(row =>
    row.map((source, i) => {
      if (!source || source.kind === 'elements') return null;
      const value =
        source.kind === 'constant' ? source.text : statement.values?.[source.number - 1];
      const text = textOf(value);
      if (text !== undefined) return text;
      throw new UniqueConflictRefused(
        conflict.columns[i]!,
        'The value is an object',
        'Pass it as a string, a number or a bigint',
      );
    }),
  );
}

/** Rows with the same value one after the other: what comes of the second depends on the first. */
function wavesOf(texts: readonly (readonly (string | null)[])[], conflict: Conflict): number[][] {
  const waves: number[][] = [[]];
  let seen = new Set<string>();
  for (const [row, values] of texts.entries()) {
    const own = values.flatMap((text, i) =>
      text === null ? [] : [`${i} ${canonical(text, conflict.columns[i]!)}`],
    );
    if (own.some(one => seen.has(one))) {
      if (conflict.updates) throw twice(conflict);
      waves.push([]);
      seen = new Set();
    }
    for (const one of own) seen.add(one);
    waves.at(-1)!.push(row);
  }
  return waves;
}

/** The same for texts that are the same value. */
function canonical(text: string, { valueType }: UniqueColumn): string {
  if (valueType === 'uuid') return text.replaceAll(/[-{}]/g, '').toLowerCase();
  if (valueType === 'text') return text;
  if (valueType === 'varchar') return text.trimEnd();
  return /^\s*[-+]?\d{1,30}\s*$/.test(text) ? String(BigInt(text.trim().replace(/^\+/, ''))) : text;
}

function twice({ columns, hasCondition }: Conflict): Error {
  const [column] = columns as [UniqueColumn];
  if (hasCondition) {
    return new UniqueConflictRefused(
      column,
      'Several of its rows have the same value',
      'Insert them one by one',
    );
  }
  const text = 'ON CONFLICT DO UPDATE command cannot affect row a second time';
  return Object.assign(new pg.DatabaseError(text, text.length, 'error'), {
    severity: 'ERROR',
    code: '21000',
    hint: 'Ensure that no rows proposed for insertion within the same command have duplicate constrained values.',
  });
}

async function runWaves(
  options: UpsertOptions,
  texts: readonly (readonly (string | null)[])[],
  waves: readonly (readonly number[])[],
): Promise<{ result: Result; hasHandedOver: boolean }> {
  const { conflict, keeper, transaction, statement } = options;
  const results: Result[] = [];
  const places: number[][] = [];
  let skipped: { row: number; key: string } | undefined;
  let hasHandedOver = false;
  const send = async (written: Written, rows: number[], keys: readonly string[] = []) => {
    results.push(await options.run(bound(statement, written, keys)));
    places.push(rows);
  };
  for (const wave of waves) {
    const taken = await takenBy(options, wave, texts);
    const fresh = wave.filter(row => !taken.has(row));
    const found = wave.filter(row => taken.has(row));
    if (fresh.length > 0) {
      if (fresh.length === conflict.rows.length) {
        results.push(await options.run(statement));
        places.push(fresh);
      } else await send(conflict.some(fresh), fresh);
    }
    const keys = found.map(row => taken.get(row)!);
    if (found.length > 0 && conflict.updates) await send(conflict.atKeys(found), found, keys);
    else if (found.length > 0) skipped ??= { row: found[0]!, key: keys[0]! };
    if (await keeper.settle(transaction)) hasHandedOver = true;
  }
  if (results.length === 0 && skipped) {
    // Which columns it would have returned its shard says: it leaves the row out as well.
    await send(conflict.atKeys([skipped.row]), [skipped.row], [skipped.key]);
  }
  return { result: together(results, places, conflict.rows.length), hasHandedOver };
}

function bound(statement: LaneStatement, written: Written, keys: readonly string[]): LaneStatement {
  const { name: _name, ...rest } = statement;
  const own = written.parameters.filter(number => number < KEY_PARAMETER);
  const values = bindParameters({ text: '', parameters: own }, statement.values ?? []);
  const all = written.parameters.map(number =>
    number >= KEY_PARAMETER ? keys[number - KEY_PARAMETER] : values[own.indexOf(number)],
  );
  return { ...rest, text: written.text, values: all };
}

/** Rows that have a value that is taken, with the key of the row that has it. */
async function takenBy(
  { conflict, keeper, transaction }: UpsertOptions,
  rows: readonly number[],
  texts: readonly (readonly (string | null)[])[],
): Promise<Map<number, string>> {
  const taken = new Map<number, string>();
  for (const [i, column] of conflict.columns.entries()) {
    const asked = new Map<number, Map<string, number>>();
    for (const row of rows) {
      const text = texts[row]![i] ?? null;
      const shard = text === null ? undefined : keeper.shardOf(column.valueType, text);
      if (text === null || shard === undefined) continue;
      const own = asked.get(shard) ?? new Map<string, number>();
      own.set(text, row);
      asked.set(shard, own);
    }
    await Promise.all(
      [...asked].map(async ([shard, own]) => {
        const answer = (await transaction.query(
          shard,
          { text: lookUpText(column, conflict.updates), values: [[...own.keys()].sort()] },
          { wantsWrite: conflict.updates },
        )) as pg.QueryResult<{ given: string; key: string }>;
        for (const { given, key } of answer.rows) taken.set(own.get(given)!, key);
      }),
    );
  }
  return taken;
}

function lookUpText(column: UniqueColumn, locks: boolean): string {
  const type = column.type.replace(/\(\d+\)$/, '');
  return `select given, key::text as key from unnest($1::text[]) as given
    cross join lateral (select key from ${lookupTable(column)} where value = given::${type}${locks ? ' for update' : ''}) as found`;
}

/** Rows that were returned are in the order of those that were given, when there is one for each. */
function together(results: readonly Result[], places: readonly number[][], count: number): Result {
  const isWhole = results.every(({ rows }, i) => rows.length === places[i]!.length);
  if (!isWhole || results.length < 2) return addUp(results);
  const placed: never[] = [];
  for (const [i, { rows }] of results.entries()) {
    for (const [j, row] of rows.entries()) placed[places[i]![j]!] = row;
  }
  const sum = addUp(results);
  sum.rows = Array.from({ length: count }, (_, i) => placed[i]).filter(
    row => row !== undefined,
  ) as never[];
  return sum;
}

/** Another transaction has claimed a value since it was looked up. */
function isClaimed(error: unknown, columns: readonly UniqueColumn[]): boolean {
  if (!hasCode(error, UNIQUE_VIOLATION)) return false;
  const { constraint, table } = error as pg.DatabaseError;
  return columns.some(one => one.constraint === constraint && one.table === table);
}

/** As PostgreSQL has it, for a row that the transaction's snapshot does not show. */
function couldNotSerialize(cause: unknown): Error {
  const text = 'could not serialize access due to concurrent update';
  return Object.assign(new pg.DatabaseError(text, text.length, 'error'), {
    severity: 'ERROR',
    code: '40001',
    cause,
  });
}
