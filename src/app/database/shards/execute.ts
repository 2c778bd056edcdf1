/**
 * Runs a plan over lanes.
 *
 * Holds true here:
 * - A plan that leads to one shard sends the statement there as it came.
 * - Parallel over shards; the first error cancels the rest, and is told with the shard that it came from.
 * - What writes to several shards, or needs several statements, is atomic (`Lanes.atomically`).
 */
import type pg from 'pg';
import { bindParameters, ownersOf, rowsWanted } from './bind.ts';
import type { LaneStatement, Lanes } from './lanes.ts';
import { AS_TEXT, type Gathered, type RawRow, resultOf } from './merge/gathered.ts';
import {
  columnsOf,
  type LimitValues,
  type MergeContext,
  mergeGroups,
  mergeRows,
  TooManyRows,
} from './merge/merge.ts';
import type { TypeNames } from './merge/types.ts';
import type { KeyFamily, Placement } from './plan/placement.ts';
import {
  type Action,
  COMPUTED_PARAMETER,
  type ComputedValues,
  type CopiedInsertAction,
  type InsertAction,
  type Limits,
  type MoveAction,
  type StagedAction,
  type StatementPlan,
  type Target,
  type WriteAction,
} from './plan/plan.ts';
import { ShardRefused } from './plan/refused.ts';
import { quote, type Written } from './plan/tree.ts';
import { textOf, type ValueSource } from './plan/values.ts';

export type Result = pg.QueryResult<never>;
/** A text of several statements gives several. */
export type Results = Result | Result[];

export interface ExecutionOptions {
  readonly placement: Placement;
  readonly types: TypeNames;
  readonly maxMergedRows: number;
  /** Which of the shards answers what any could. */
  anyShard(): number;
  /** Runs a statement that was made of this one. */
  again(statement: LaneStatement, lanes: Lanes): Promise<Results>;
}

const SQL_TYPE: Record<KeyFamily, string> = { integer: 'bigint', text: 'text', uuid: 'uuid' };
/** For the execution itself: no part of what the statement does. */
const ASIDE = { wantsWrite: false, isAside: true };
const WRITE = { wantsWrite: true };
const ALL_AS_TEXT = { rowMode: 'array', types: AS_TEXT } as const;

export class Execution {
  readonly #plan: StatementPlan;
  readonly #statement: LaneStatement;
  readonly #lanes: Lanes;
  readonly #options: ExecutionOptions;

  constructor(
    plan: StatementPlan,
    statement: LaneStatement,
    lanes: Lanes,
    options: ExecutionOptions,
  ) {
    this.#plan = plan;
    this.#statement = statement;
    this.#lanes = lanes;
    this.#options = options;
  }

  run(): Promise<Results> {
    const { action, parameters } = this.#plan;
    // PostgreSQL says that there are too many, or too few.
    if (action.kind !== 'whole' && parameters !== this.#values.length) return this.#send(0);
    switch (action.kind) {
      case 'whole':
        return this.#whole(action.target);
      case 'scatter':
        return this.#scatter(action);
      case 'write':
        return this.#write(action);
      case 'insert':
        return this.#insert(action);
      case 'copied insert':
        return this.#lanes.atomically(lanes => this.#copiedInsert(action, lanes));
      case 'move':
        return this.#lanes.atomically(lanes => this.#move(action, lanes));
      case 'staged':
        return this.#plan.writes
          ? this.#lanes.atomically(lanes => this.#staged(action, lanes))
          : this.#staged(action, this.#lanes);
    }
  }

  // ---- where

  /** @returns undefined when a value's shard cannot be told by itself */
  #shards(target: Target): number[] | undefined {
    const all = () => Array.from({ length: this.#options.placement.shards }, (_, i) => i);
    switch (target.kind) {
      case 'first':
        return [0];
      case 'any':
        return [this.#lanes.inTransaction ? 0 : this.#options.anyShard()];
      case 'shard':
        return [target.shard];
      case 'all':
        return all();
      case 'keys':
        return ownersOf(target.parts, this.#values, this.#options.placement);
    }
  }

  get #values(): unknown[] {
    return this.#statement.values ?? [];
  }

  /** The shard of one value; what is not plainly a key is read by PostgreSQL. */
  async #shardOfValue(
    source: ValueSource,
    family: KeyFamily,
    values: (number: number) => unknown,
    lanes: Lanes,
  ): Promise<number> {
    const value = source.kind === 'constant' ? source.text : values(source.number);
    const text = textOf(value);
    // PostgreSQL says what it thinks of a key that is NULL.
    if (text === null) return 0;
    const known = text === undefined ? undefined : this.#options.placement.shardOf(family, text);
    if (known !== undefined) return known;
    const { rows } = await lanes.query(
      0,
      { text: `select ($1::${SQL_TYPE[family]})::text`, values: [value], rowMode: 'array' },
      ASIDE,
    );
    const [read] = rows as unknown as [string][];
    const shard = this.#options.placement.shardOf(family, read?.[0] ?? '');
    if (shard === undefined) {
      throw new ShardRefused(
        `The value of a shard key is not one of type ${SQL_TYPE[family]}`,
        'Pass it as a string, a number or a bigint',
      );
    }
    return shard;
  }

  // ---- one shard

  async #whole(target: Target): Promise<Results> {
    const shards = this.#shards(target) ?? [await this.#onlyShard(target)];
    return this.#send(shards[0]!);
  }

  async #send(shard: number): Promise<Results> {
    const options = { wantsWrite: this.#plan.writes };
    return from(shard, await this.#lanes.query(shard, this.#statement, options));
  }

  /** Of a statement that is only right on one shard. */
  #onlyShard(target: Target): Promise<number> {
    const [pin] = target.kind === 'keys' ? (target.parts[0] ?? []) : [];
    if (!pin) return Promise.resolve(0);
    return this.#shardOfValue(pin.sources[0]!, pin.family, n => this.#values[n - 1], this.#lanes);
  }

  // ---- queries

  async #scatter(action: Extract<Action, { kind: 'scatter' }>): Promise<Results> {
    const { placement, maxMergedRows } = this.#options;
    const shards =
      this.#shards(action.target) ?? Array.from({ length: placement.shards }, (_, i) => i);
    if (shards.length === 1) return this.#send(shards[0]!);
    const { merge } = action;
    if (merge.kind === 'query') {
      const values = this.#bind(merge.final);
      const merged = await this.#mergeGroups(shards, action.partial, merge, values);
      return merged;
    }
    const limits = await this.#readLimits(merge.limits);
    const most = rowsWanted(limits, maxMergedRows);
    const gathered = await this.#gather(shards, action.partial, most);
    const context = this.#context(action.partial, gathered);
    return from(gathered.shard, await mergeRows(gathered, merge, limits, context));
  }

  async #readLimits({ count, offset }: Limits): Promise<LimitValues> {
    return { count: await this.#readLimit(count), offset: await this.#readLimit(offset) };
  }

  async #readLimit(source: ValueSource | undefined): Promise<bigint | undefined> {
    if (!source) return undefined;
    const value = source.kind === 'constant' ? source.text : this.#values[source.number - 1];
    const text = textOf(value);
    if (text === null) return undefined;
    if (text !== undefined && /^-?\d{1,18}$/.test(text)) return BigInt(text);
    // PostgreSQL says what is wrong with it, or reads it.
    const { rows } = await this.#lanes.query(
      0,
      { text: 'select ($1::bigint)::text', values: [value], rowMode: 'array' },
      ASIDE,
    );
    return BigInt((rows as unknown as [string][])[0]![0]);
  }

  async #mergeGroups(
    shards: readonly number[],
    partial: Written,
    merge: Extract<Extract<Action, { kind: 'scatter' }>['merge'], { kind: 'query' }>,
    values: unknown[],
  ): Promise<Results> {
    const most = BigInt(this.#options.maxMergedRows) + 1n;
    const gathered = await this.#gather(shards, partial, most);
    const result = await mergeGroups(gathered, merge, values, this.#context(partial, gathered));
    if (result) return from(gathered.shard, result);
    if (!merge.exact) {
      throw new ShardRefused(
        'The aggregates of several shards cannot be combined exactly',
        'Name the shard key in the WHERE clause',
      );
    }
    const { exact } = merge;
    return this.#mergeGroups(shards, exact.partial, exact.merge, this.#bind(exact.merge.final));
  }

  async #gather(shards: readonly number[], partial: Written, most: bigint): Promise<Gathered> {
    const { maxMergedRows } = this.#options;
    const values = this.#bind(partial, most);
    const options = { wantsWrite: this.#plan.writes };
    const results = await inParallel(shards, (shard, signal) =>
      this.#lanes.query(
        shard,
        { text: partial.text, values, ...ALL_AS_TEXT },
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

  #context(partial: Written, gathered: Gathered): MergeContext {
    const { types } = this.#options;
    return {
      lanes: this.#lanes,
      types,
      options: this.#statement,
      collations: places => this.#collations(partial, gathered, places),
    };
  }

  /** Asks PostgreSQL, which alone knows how collations are derived. */
  async #collations(
    partial: Written,
    { fields, shard }: Gathered,
    places: readonly number[],
  ): Promise<Map<number, string>> {
    const cached = COLLATIONS.get(partial) ?? new Map<number, string>();
    COLLATIONS.set(partial, cached);
    if (places.every(at => cached.has(at))) return cached;
    const names = fields.map((_field, i) => `c${i}`).join(', ');
    const list = places.map(at => `pg_collation_for(q.c${at})`).join(', ');
    const text = `select ${list} from (select) as one left join (select * from (${partial.text}) as p limit 0) as q(${names}) on true`;
    const { rows } = await this.#lanes.query(
      shard,
      { text, values: this.#bind(partial, 0n), rowMode: 'array' },
      { wantsWrite: this.#plan.writes, isAside: true },
    );
    const [row = []] = rows as unknown as (string | null)[][];
    for (const [i, at] of places.entries()) cached.set(at, row[i] ?? '');
    return cached;
  }

  // ---- writes

  async #write(action: WriteAction): Promise<Results> {
    const shards = this.#shards(action.target);
    if (!shards && this.#mustBeOne(action.target)) {
      return this.#send(await this.#onlyShard(action.target));
    }
    const all = shards ?? Array.from({ length: this.#options.placement.shards }, (_, i) => i);
    if (all.length === 1) return this.#send(all[0]!);
    if (action.isAlone) {
      let first: Results | undefined;
      for (const shard of all) {
        const result = await this.#lanes.query(shard, this.#statement, WRITE);
        first ??= result;
      }
      return first!;
    }
    return this.#lanes.atomically(async lanes => {
      let statement = this.#statement;
      if (action.computed) {
        const { values, statement: written } = action.computed;
        const computed = await this.#compute(values, lanes);
        const { name: _name, ...rest } = statement;
        statement = { ...rest, text: written.text, values: this.#bind(written, 0n, computed) };
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
  #mustBeOne(target: Target): boolean {
    if (target.kind !== 'keys' || target.parts.length !== 1) return false;
    const [pin, ...others] = target.parts[0]!;
    return (
      pin !== undefined &&
      others.length === 0 &&
      pin.sources.length === 1 &&
      pin.sources[0]!.kind !== 'elements'
    );
  }

  async #insert(action: InsertAction): Promise<Results> {
    const { keys, family } = action;
    const run = async (lanes: Lanes): Promise<Results> => {
      const computed = action.computed ? await this.#compute(action.computed, lanes) : [];
      const value = (number: number) =>
        number >= COMPUTED_PARAMETER
          ? computed[number - COMPUTED_PARAMETER]
          : this.#values[number - 1];
      const rowsOf = new Map<number, number[]>();
      for (const [row, key] of keys.entries()) {
        const shard = await this.#shardOfValue(key, family, value, lanes);
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
        const { name: _name, ...rest } = this.#statement;
        const statement = written
          ? { ...rest, text: written.text, values: this.#bind(written, 0n, computed) }
          : this.#statement;
        return on.query(shard, statement, { ...WRITE, ...(signal ? { signal } : {}) });
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
    return action.computed ? this.#lanes.atomically(run) : run(this.#lanes);
  }

  async #compute({ query }: ComputedValues, lanes: Lanes): Promise<(string | null)[]> {
    const { rows } = await lanes.query(
      0,
      { text: query.text, values: this.#bind(query), ...ALL_AS_TEXT },
      // nextval is a write.
      WRITE,
    );
    return (rows as unknown as RawRow[])[0] ?? [];
  }

  async #copiedInsert(action: CopiedInsertAction, lanes: Lanes): Promise<Results> {
    const { first, columns, copy } = action;
    const made = await lanes.query(
      0,
      { text: first.text, values: this.#bind(first), ...ALL_AS_TEXT },
      WRITE,
    );
    const rows = made.rows as unknown as RawRow[];
    if (rows.length > this.#options.maxMergedRows)
      throw new TooManyRows(this.#options.maxMergedRows);
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
    const result = resultOf('INSERT', fields, own, this.#statement);
    result.rowCount = made.rowCount;
    result.oid = made.oid;
    return result;
  }

  /** Rows are selected wherever they are, and each is inserted where it belongs. */
  async #move(action: MoveAction, lanes: Lanes): Promise<Results> {
    const { query, insert, prefix, family, keyAt } = action;
    const selected = one(
      await this.#options.again(
        { text: query.text, values: this.#bind(query), ...ALL_AS_TEXT },
        lanes,
      ),
    );
    const rows = selected.rows as unknown as RawRow[];
    const rowsOf = new Map<number, RawRow[]>();
    for (const row of rows) {
      const value = row[keyAt] ?? null;
      const source: ValueSource = { id: '', family, kind: 'constant', text: value };
      const shard = await this.#shardOfValue(source, family, () => undefined, lanes);
      const own = rowsOf.get(shard) ?? [];
      own.push(row);
      rowsOf.set(shard, own);
    }
    // Without rows PostgreSQL still says what it would say.
    if (rowsOf.size === 0) rowsOf.set(0, []);
    const { types } = this.#options;
    const names = await types.resolve(
      selected.fields.map(({ dataTypeID }) => dataTypeID),
      ORIGINS.get(selected) ?? 0,
      lanes,
    );
    const own = this.#bind(insert);
    const text = insert.text.replace(new RegExp(`\\b${prefix}0\\b`), () =>
      rowsSource(
        selected.fields,
        names.map(({ name }) => name),
        own.length + 1,
        `${prefix}0`,
      ),
    );
    const { rowMode, types: parsers } = this.#statement;
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

  /** Subqueries first; then the statement with their rows in their places. */
  async #staged(action: StagedAction, lanes: Lanes): Promise<Results> {
    const { rest, stages, prefix } = action;
    const values = this.#bind(rest);
    let { text } = rest;
    for (const [i, stage] of stages.entries()) {
      const result = one(
        await this.#options.again(
          { text: stage.text, values: this.#bind(stage), ...ALL_AS_TEXT },
          lanes,
        ),
      );
      const names = await this.#options.types.resolve(
        result.fields.map(({ dataTypeID }) => dataTypeID),
        ORIGINS.get(result) ?? 0,
        lanes,
      );
      const source = rowsSource(
        result.fields,
        names.map(({ name }) => name),
        values.length + 1,
        `${prefix}${i}`,
      );
      text = text.replace(new RegExp(`\\b${prefix}${i}\\b`), () => source);
      values.push(
        ...columnsOf(result.rows as unknown as RawRow[], Math.max(1, result.fields.length)),
      );
    }
    const { name: _name, ...statement } = this.#statement;
    return this.#options.again({ ...statement, text, values }, lanes);
  }

  /** The values of a text's parameters. */
  #bind(written: Written, limit = 0n, computed: readonly (string | null)[] = []): unknown[] {
    return bindParameters(written, this.#values, limit, computed);
  }
}

/** Of the columns of a partial result, as they were found out: the same as long as its plan holds. */
const COLLATIONS = new WeakMap<Written, Map<number, string>>();

/** The shard whose OIDs stand in a result. */
const ORIGINS = new WeakMap<Results, number>();

function from<R extends Results>(shard: number, result: R): R {
  ORIGINS.set(result, shard);
  return result;
}

/** Rows that are parameters, as a table. */
function rowsSource(
  fields: readonly pg.FieldDef[],
  types: readonly string[],
  first: number,
  name: string,
): string {
  // Rows without columns are counted all the same.
  if (fields.length === 0) return `(select from unnest($${first}::text[])) as ${name}`;
  const list = fields.map((field, i) => `a${i}::${types[i]} as ${quote(field.name)}`);
  const arrays = fields.map((_field, i) => `$${first + i}::text[]`);
  const columns = fields.map((_field, i) => `a${i}`);
  return `(select ${list.join(', ')} from unnest(${arrays.join(', ')}) as u(${columns.join(', ')})) as ${name}`;
}

function one(results: Results): Result {
  return Array.isArray(results) ? results[0]! : results;
}

/** Runs on each shard. The first error ends the others, and is thrown when all have ended. */
async function inParallel<T>(
  shards: readonly number[],
  run: (shard: number, signal: AbortSignal) => Promise<T>,
): Promise<T[]> {
  const controller = new AbortController();
  let failed: { error: unknown } | undefined;
  const results = await Promise.all(
    shards.map(async shard => {
      try {
        return await run(shard, controller.signal);
      } catch (error) {
        if (!failed) {
          failed = { error };
          if (error instanceof Error) Object.assign(error, { shard });
          controller.abort();
        }
        return undefined;
      }
    }),
  );
  if (failed) throw failed.error;
  return results as T[];
}

/** Counts are added up, rows put one after the other. */
function addUp(results: readonly Result[]): Result {
  const [first, ...others] = results;
  for (const { rows, rowCount } of others) {
    for (const row of rows) first!.rows.push(row);
    first!.rowCount = (first!.rowCount ?? 0) + (rowCount ?? 0);
  }
  return first!;
}

/** Rows that were returned are in the order of those that were given, when there is one for each. */
function inOrder(results: readonly Result[], given: readonly (readonly number[])[]): Result {
  const isWhole = results.every(({ rows }, i) => rows.length === given[i]!.length);
  if (!isWhole) return addUp(results);
  const placed: never[] = [];
  for (const [i, { rows }] of results.entries()) {
    for (const [j, row] of rows.entries()) placed[given[i]![j]!] = row;
  }
  const sum = addUp(results);
  sum.rows = placed;
  return sum;
}
