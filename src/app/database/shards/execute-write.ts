/** Writes to several shards, or of rows that have to be made before. */
import type { Lanes } from './lanes.ts';
import { type RawRow, resultOf } from './merge/gathered.ts';
import { columnsOf, TooManyRows } from './merge/merge.ts';
import { addUp, inOrder, inParallel, one, rowsSource } from './parallel.ts';
import {
  COMPUTED_PARAMETER,
  type ComputedValues,
  type CopiedInsertAction,
  type InsertAction,
  type MoveAction,
  type Target,
  type WriteAction,
} from './plan/plan.ts';
import type { ValueSource } from './plan/values.ts';
import { ALL_AS_TEXT, keyOf, originOf, type Results, type Run, WRITE } from './run.ts';

export async function write(run: Run, action: WriteAction): Promise<Results> {
  const shards = run.shards(action.target);
  if (!shards && mustBeOne(action.target)) {
    return run.send(await run.onlyShard(action.target));
  }
  const all = shards ?? Array.from({ length: run.options.placement.shards }, (_, i) => i);
  if (all.length === 1) return run.send(all[0]!);
  if (action.isAlone) {
    let first: Results | undefined;
    for (const shard of all) {
      const result = await run.lanes.query(shard, run.statement, WRITE);
      first ??= result;
    }
    return first!;
  }
  return run.lanes.atomically(async lanes => {
    let statement = run.statement;
    if (action.computed) {
      const { values, statement: written } = action.computed;
      const computed = await compute(run, values, lanes);
      const { name: _name, ...rest } = statement;
      statement = { ...rest, text: written.text, values: run.bind(written, 0n, computed) };
    }
    const send = (shard: number, signal?: AbortSignal) =>
      lanes.query(shard, statement, { ...WRITE, ...(signal ? { signal } : {}) });
    if (!action.isCopied) return addUp(await inParallel(all, send));
    // The first one alone, so that two who write the same rows wait there, and do not deadlock.
    const first = await send(0);
    await inParallel(all.slice(1), send);
    return first;
  });
}

/** A pinned statement that nobody has proven to be right elsewhere. */
function mustBeOne(target: Target): boolean {
  if (target.kind !== 'keys' || target.parts.length !== 1) return false;
  const [pin, ...others] = target.parts[0]!;
  return (
    pin !== undefined &&
    others.length === 0 &&
    pin.sources.length === 1 &&
    pin.sources[0]!.kind !== 'elements'
  );
}

export async function insert(run: Run, action: InsertAction): Promise<Results> {
  const { keys, family } = action;
  const insertOn = async (lanes: Lanes): Promise<Results> => {
    const computed = action.computed ? await compute(run, action.computed, lanes) : [];
    const value = (number: number) =>
      number >= COMPUTED_PARAMETER ? computed[number - COMPUTED_PARAMETER] : run.values[number - 1];
    const rowsOf = new Map<number, number[]>();
    for (const [row, key] of keys.entries()) {
      const shard = await run.shardOfValue(key, family, value, lanes);
      const rows = rowsOf.get(shard) ?? [];
      rows.push(row);
      rowsOf.set(shard, rows);
    }
    const send = (
      shard: number,
      rows: readonly number[] | undefined,
      on: Lanes,
      signal?: AbortSignal,
    ) => {
      const written = action.write(rows);
      const { name: _name, ...rest } = run.statement;
      const statement = written
        ? { ...rest, text: written.text, values: run.bind(written, 0n, computed) }
        : run.statement;
      const key = keys.length === 1 ? keyOf(family, keys[0]!, value) : undefined;
      return on.query(shard, statement, { ...WRITE, key, ...(signal ? { signal } : {}) });
    };
    const shards = [...rowsOf.keys()].sort((a, b) => a - b);
    if (shards.length === 1) return send(shards[0]!, undefined, lanes);
    return lanes.atomically(async inner => {
      const results = await inParallel(shards, (shard, signal) =>
        send(shard, rowsOf.get(shard)!, inner, signal),
      );
      return inOrder(
        results,
        shards.map(shard => rowsOf.get(shard)!),
      );
    });
  };
  return action.computed ? run.lanes.atomically(insertOn) : insertOn(run.lanes);
}

async function compute(
  run: Run,
  { query }: ComputedValues,
  lanes: Lanes,
): Promise<(string | null)[]> {
  const { rows } = await lanes.query(
    0,
    { text: query.text, values: run.bind(query), ...ALL_AS_TEXT },
    // nextval is a write.
    WRITE,
  );
  return (rows as unknown as RawRow[])[0] ?? [];
}

export async function copiedInsert(
  run: Run,
  action: CopiedInsertAction,
  lanes: Lanes,
): Promise<Results> {
  const { first, columns, copy } = action;
  const made = await lanes.query(
    0,
    { text: first.text, values: run.bind(first), ...ALL_AS_TEXT },
    WRITE,
  );
  const rows = made.rows as unknown as RawRow[];
  if (rows.length > run.options.maxMergedRows) throw new TooManyRows(run.options.maxMergedRows);
  if (rows.length > 0) {
    const others = Array.from({ length: lanes.count - 1 }, (_, i) => i + 1);
    await inParallel(others, (shard, signal) =>
      lanes.query(
        shard,
        { text: copy, values: columnsOf(rows, columns.length) },
        { ...WRITE, signal },
      ),
    );
  }
  const fields = made.fields.slice(columns.length);
  const own = action.returnsRows ? rows.map(row => row.slice(columns.length)) : [];
  const result = resultOf('INSERT', fields, own, run.statement);
  result.rowCount = made.rowCount;
  result.oid = made.oid;
  return result;
}

/** Rows are selected wherever they are, and each is inserted where it belongs. */
export async function move(run: Run, action: MoveAction, lanes: Lanes): Promise<Results> {
  const { query, insert, prefix, family, keyAt } = action;
  const selected = one(
    await run.options.again({ text: query.text, values: run.bind(query), ...ALL_AS_TEXT }, lanes),
  );
  const rows = selected.rows as unknown as RawRow[];
  const rowsOf = new Map<number, RawRow[]>();
  for (const row of rows) {
    const value = row[keyAt] ?? null;
    const source: ValueSource = { id: '', family, kind: 'constant', text: value };
    const shard = await run.shardOfValue(source, family, () => undefined, lanes);
    const own = rowsOf.get(shard) ?? [];
    own.push(row);
    rowsOf.set(shard, own);
  }
  // Without rows PostgreSQL still says what it would say.
  if (rowsOf.size === 0) rowsOf.set(0, []);
  const { types } = run.options;
  const names = await types.resolve(
    selected.fields.map(({ dataTypeID }) => dataTypeID),
    originOf(selected),
    lanes,
  );
  const own = run.bind(insert);
  const text = insert.text.replace(new RegExp(`\\b${prefix}0\\b`), () =>
    rowsSource(
      selected.fields,
      names.map(({ name }) => name),
      own.length + 1,
      `${prefix}0`,
    ),
  );
  const { rowMode, types: parsers } = run.statement;
  const results = await inParallel(
    [...rowsOf.keys()].sort((a, b) => a - b),
    (shard, signal) =>
      lanes.query(
        shard,
        {
          text,
          values: [...own, ...columnsOf(rowsOf.get(shard)!, selected.fields.length)],
          ...(rowMode ? { rowMode } : {}),
          ...(parsers ? { types: parsers } : {}),
        },
        { ...WRITE, signal },
      ),
  );
  return addUp(results);
}
