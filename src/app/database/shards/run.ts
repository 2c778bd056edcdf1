/** One execution of a plan: its statement, its lanes, and where its values lead. */
import type pg from 'pg';
import { bindParameters, ownersOf } from './bind.ts';
import type { LaneKey, LaneStatement, Lanes } from './lanes.ts';
import { AS_TEXT } from './merge/gathered.ts';
import type { TypeNames } from './merge/types.ts';
import type { KeyFamily, Placement } from './plan/placement.ts';
import type { StatementPlan, Target } from './plan/plan.ts';
import { ShardRefused } from './plan/refused.ts';
import type { Written } from './plan/tree.ts';
import { textOf, type ValueSource } from './plan/values.ts';
import type { RowSource } from './submitted/virtual-server.ts';

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
  /** The same, for its rows in batches. */
  openAgain(statement: LaneStatement, lanes: Lanes): Promise<RowSource>;
}

const SQL_TYPE: Record<KeyFamily, string> = { integer: 'bigint', text: 'text', uuid: 'uuid' };
/** For the execution itself: no part of what the statement does. */
export const ASIDE = { wantsWrite: false, isAside: true };
export const WRITE = { wantsWrite: true };
export const ALL_AS_TEXT = { rowMode: 'array', types: AS_TEXT } as const;

export class Run {
  readonly plan: StatementPlan;
  readonly statement: LaneStatement;
  readonly lanes: Lanes;
  readonly options: ExecutionOptions;

  constructor(
    plan: StatementPlan,
    statement: LaneStatement,
    lanes: Lanes,
    options: ExecutionOptions,
  ) {
    this.plan = plan;
    this.statement = statement;
    this.lanes = lanes;
    this.options = options;
  }

  /** @returns undefined when a value's shard cannot be told by itself */
  shards(target: Target): number[] | undefined {
    const all = () => Array.from({ length: this.options.placement.shards }, (_, i) => i);
    switch (target.kind) {
      case 'first':
        return [0];
      case 'any':
        return [this.lanes.inTransaction ? 0 : this.options.anyShard()];
      case 'shard':
        return [target.shard];
      case 'all':
        return all();
      case 'keys':
        return ownersOf(target.parts, this.values, this.options.placement);
    }
  }

  get values(): unknown[] {
    return this.statement.values ?? [];
  }

  /** The shard of one value; what is not plainly a key is read by PostgreSQL. */
  async shardOfValue(
    source: ValueSource,
    family: KeyFamily,
    values: (number: number) => unknown,
    lanes: Lanes,
  ): Promise<number> {
    const value = source.kind === 'constant' ? source.text : values(source.number);
    const text = textOf(value);
    // PostgreSQL says what it thinks of a key that is NULL.
    if (text === null) return 0;
    const known = text === undefined ? undefined : this.options.placement.shardOf(family, text);
    if (known !== undefined) return known;
    const { rows } = await lanes.query(
      0,
      { text: `select ($1::${SQL_TYPE[family]})::text`, values: [value], rowMode: 'array' },
      ASIDE,
    );
    const [read] = rows as unknown as [string][];
    const shard = this.options.placement.shardOf(family, read?.[0] ?? '');
    if (shard === undefined) {
      throw new ShardRefused(
        `The value of a shard key is not one of type ${SQL_TYPE[family]}`,
        'Pass it as a string, a number or a bigint',
      );
    }
    return shard;
  }

  async send(shard: number): Promise<Results> {
    const options = { wantsWrite: this.plan.writes, key: this.#onlyKey() };
    return from(shard, await this.lanes.query(shard, this.statement, options));
  }

  /** The one key that it names, if it names one. */
  #onlyKey(): LaneKey | undefined {
    const { action } = this.plan;
    if (!('target' in action) || action.target.kind !== 'keys') return undefined;
    const [pins, ...others] = action.target.parts;
    const pin = pins?.find(({ sources }) => sources.length === 1);
    return pin && others.length === 0
      ? keyOf(pin.family, pin.sources[0]!, n => this.values[n - 1])
      : undefined;
  }

  /** Of a statement that is only right on one shard. */
  onlyShard(target: Target): Promise<number> {
    const [pin] = target.kind === 'keys' ? (target.parts[0] ?? []) : [];
    if (!pin) return Promise.resolve(0);
    return this.shardOfValue(pin.sources[0]!, pin.family, n => this.values[n - 1], this.lanes);
  }

  /** The values of a text's parameters. */
  bind(
    written: Written,
    limit: bigint | null = 0n,
    computed: readonly (string | null)[] = [],
  ): unknown[] {
    return bindParameters(written, this.values, limit, computed);
  }
}

/** The shard whose OIDs stand in a result. */
const ORIGINS = new WeakMap<Results, number>();

export function from<R extends Results>(shard: number, result: R): R {
  ORIGINS.set(result, shard);
  return result;
}

/** Of a result of `again`. */
export function originOf(result: Results): number {
  return ORIGINS.get(result) ?? 0;
}

export function keyOf(
  family: KeyFamily,
  source: ValueSource,
  values: (number: number) => unknown,
): LaneKey | undefined {
  if (source.kind === 'elements') return undefined;
  const text = textOf(source.kind === 'constant' ? source.text : values(source.number));
  return typeof text === 'string' ? { family, text } : undefined;
}
