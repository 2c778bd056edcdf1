/** Queries over several shards: sent in parts, put together. */
import { rowsWanted } from './bind.ts';
import { type Gathered, type RawRow, RowLimit } from './merge/gathered.ts';
import {
  type LimitValues,
  type MergeContext,
  mergeGroups as mergeGathered,
  mergeRows,
  TooManyRows,
} from './merge/merge.ts';
import { inParallel } from './parallel.ts';
import type { Action, Limits } from './plan/plan.ts';
import { ShardRefused } from './plan/refused.ts';
import type { Written } from './plan/tree.ts';
import { textOf, type ValueSource } from './plan/values.ts';
import { ASIDE, from, type Results, type Run } from './run.ts';

export async function scatter(
  run: Run,
  action: Extract<Action, { kind: 'scatter' }>,
): Promise<Results> {
  const { placement, maxMergedRows } = run.options;
  const shards = run.shards(action.target) ?? Array.from({ length: placement.shards }, (_, i) => i);
  if (shards.length === 1) return run.send(shards[0]!);
  const { merge } = action;
  if (merge.kind === 'query') {
    const values = run.bind(merge.final);
    const merged = await mergeGroups(run, shards, action.partial, merge, values);
    return merged;
  }
  const limits = await readLimits(run, merge.limits);
  const most = rowsWanted(limits, maxMergedRows);
  const gathered = await gather(run, shards, action.partial, most);
  const around = context(run, action.partial, gathered);
  return from(gathered.shard, await mergeRows(gathered, merge, limits, around));
}

export async function readLimits(run: Run, { count, offset }: Limits): Promise<LimitValues> {
  return { count: await readLimit(run, count), offset: await readLimit(run, offset) };
}

async function readLimit(run: Run, source: ValueSource | undefined): Promise<bigint | undefined> {
  if (!source) return undefined;
  const value = source.kind === 'constant' ? source.text : run.values[source.number - 1];
  const text = textOf(value);
  if (text === null) return undefined;
  if (text !== undefined && /^-?\d{1,18}$/.test(text)) return BigInt(text);
  // PostgreSQL says what is wrong with it, or reads it.
  const { rows } = await run.lanes.query(
    0,
    { text: 'select ($1::bigint)::text', values: [value], rowMode: 'array' },
    ASIDE,
  );
  return BigInt((rows as unknown as [string][])[0]![0]);
}

async function mergeGroups(
  run: Run,
  shards: readonly number[],
  partial: Written,
  merge: Extract<Extract<Action, { kind: 'scatter' }>['merge'], { kind: 'query' }>,
  values: unknown[],
): Promise<Results> {
  const most = BigInt(run.options.maxMergedRows) + 1n;
  const gathered = await gather(run, shards, partial, most);
  const result = await mergeGathered(gathered, merge, values, context(run, partial, gathered));
  if (result) return from(gathered.shard, result);
  if (!merge.exact) {
    throw new ShardRefused(
      'The aggregates of several shards cannot be combined exactly',
      'Name the shard key in the WHERE clause',
    );
  }
  const { exact } = merge;
  return mergeGroups(run, shards, exact.partial, exact.merge, run.bind(exact.merge.final));
}

async function gather(
  run: Run,
  shards: readonly number[],
  partial: Written,
  most: bigint,
): Promise<Gathered> {
  const { maxMergedRows } = run.options;
  const values = run.bind(partial, most);
  const options = { wantsWrite: run.plan.writes };
  const limit = new RowLimit(maxMergedRows, () => new TooManyRows(maxMergedRows));
  const results = await inParallel(shards, (shard, signal) =>
    run.lanes.query(
      shard,
      { text: partial.text, values, rowMode: 'array', types: limit.types() },
      { ...options, signal },
    ),
  );
  const rows: RawRow[] = [];
  for (const result of results) {
    for (const row of result.rows as unknown as RawRow[]) rows.push(row);
    if (rows.length > maxMergedRows) throw new TooManyRows(maxMergedRows);
  }
  return { fields: results[0]!.fields, rows, shard: shards[0]! };
}

/** @param gathered the fields of the answers, and where they come from */
export function context(
  run: Run,
  partial: Written,
  gathered: Omit<Gathered, 'rows'>,
): MergeContext {
  const { types } = run.options;
  return {
    lanes: run.lanes,
    types,
    options: run.statement,
    collations: places => collations(run, partial, gathered, places),
  };
}

/** Asks PostgreSQL, which alone knows how collations are derived. */
async function collations(
  run: Run,
  partial: Written,
  { fields, shard }: Omit<Gathered, 'rows'>,
  places: readonly number[],
): Promise<Map<number, string>> {
  const cached = COLLATIONS.get(partial) ?? new Map<number, string>();
  COLLATIONS.set(partial, cached);
  if (places.every(at => cached.has(at))) return cached;
  const names = fields.map((_field, i) => `c${i}`).join(', ');
  const list = places.map(at => `pg_collation_for(q.c${at})`).join(', ');
  const text = `select ${list} from (select) as one left join (select * from (${partial.text}) as p limit 0) as q(${names}) on true`;
  const { rows } = await run.lanes.query(
    shard,
    { text, values: run.bind(partial, 0n), rowMode: 'array' },
    { wantsWrite: run.plan.writes, isAside: true },
  );
  const [row = []] = rows as unknown as (string | null)[][];
  for (const [i, at] of places.entries()) cached.set(at, row[i] ?? '');
  return cached;
}

/** Of the columns of a partial result, as they were found out: the same as long as its plan holds. */
const COLLATIONS = new WeakMap<Written, Map<number, string>>();
