/**
 * Makes copies right: reads what they should be and writes where they are not.
 *
 * Holds true here:
 * - **What is written is read from the source at that moment**; the log only tells which rows to look at. So everything
 *   may be done again, late or in another order.
 * - Only rows that are not right are written, and no transaction has more than `BATCH` of them.
 * - A row that has changed its `via` meanwhile is left: the log tells of that too.
 */
import type pg from 'pg';
import { escapeIdentifier as id } from 'pg';
import type { Ranges } from '../../../app/database/shards/ranges.ts';
import { sqlName } from '../../../app/database/sql-name.ts';
import type { Copy, TypedColumn } from './copies.ts';

/** Rows that one statement writes, and keys that one asks for. Far fewer than what the log tells row by row. */
const BATCH = 1_000;

/** Each shard's primary. */
export interface Shards {
  readonly count: number;
  query<R extends pg.QueryResultRow>(
    shard: number,
    text: string,
    values?: unknown[],
  ): Promise<pg.QueryResult<R>>;
}

/** A row of the target as the log told of it. */
export interface TargetRow {
  readonly key: readonly (string | null)[];
  readonly via: string | null;
  /** What its copy was; undefined when that was not told. */
  readonly copy: string | null | undefined;
}

/** By the source's key, as text. A key without a row has null. */
export type Values = ReadonlyMap<string, string | null>;

export class Settler {
  readonly #shards: Shards;
  readonly #ranges: Ranges;

  constructor(shards: Shards, ranges: Ranges) {
    this.#shards = shards;
    this.#ranges = ranges;
  }

  /** Whether a shard's rows of the source count, and not only copies of them that other shards have too. */
  ownsSource({ source }: Copy, shard: number): boolean {
    return source.home === 'sharded' || shard === 0;
  }

  /** The shards with rows of the target. */
  targetsOf({ target }: Copy): number[] {
    return target.home === 'first' ? [0] : Array.from({ length: this.#shards.count }, (_, i) => i);
  }

  /** Whatever has one of these keys of the source, on these shards. */
  async settleKeys(copy: Copy, keys: Iterable<string>, targets: number[]): Promise<Values> {
    const all = new Map<string, string | null>();
    for (const some of batches([...new Set(keys)])) {
      const values = await this.#read(copy, some);
      for (const shard of targets) await this.#write(copy, shard, values);
      for (const [key, value] of values) all.set(key, value);
    }
    return all;
  }

  /** Rows of the target on one shard. */
  async settleRows(copy: Copy, shard: number, rows: readonly TargetRow[]): Promise<void> {
    for (const some of batches(rows)) {
      const keys = new Set(some.map(({ via }) => via).filter(via => via !== null));
      const values = await this.#read(copy, [...keys]);
      const wrong = some.flatMap(({ key, via, copy: present }) => {
        const value = via === null ? null : (values.get(via) ?? null);
        return present === value ? [] : [{ key, via, value }];
      });
      if (wrong.length === 0) continue;
      const { text, types } = rowsText(copy);
      const columns = types.map((_, at) =>
        wrong.map(({ key, via, value }) => [...key, via, value][at]),
      );
      await this.#shards.query(shard, text, columns);
    }
  }

  /** All rows of the target on one shard. */
  async settleAll(copy: Copy, shard: number): Promise<void> {
    const { target, via } = copy;
    const table = sqlName(target.schema, target.table);
    for (;;) {
      const { rowCount } = await this.#shards.query(shard, withoutViaText(copy));
      if ((rowCount ?? 0) < BATCH) break;
    }
    let last: string | null = null;
    for (;;) {
      const { rows }: pg.QueryResult<{ key: string }> = await this.#shards.query<{ key: string }>(
        shard,
        `select ${id(via.name)}::text as key from (
           select distinct ${id(via.name)} from ${table}
           where ${id(via.name)} is not null and ($1::text is null or ${id(via.name)} > $1::text::${via.type})
           order by 1 limit ${BATCH}) keys order by ${id(via.name)}`,
        [last],
      );
      if (rows.length === 0) break;
      await this.settleKeys(
        copy,
        rows.map(({ key }) => key),
        [shard],
      );
      last = rows.at(-1)!.key;
    }
  }

  async #read(copy: Copy, keys: readonly string[]): Promise<Map<string, string | null>> {
    const { source, from, sourceKey, sourceKeyType } = copy;
    const values = new Map<string, string | null>(keys.map(key => [key, null]));
    const byShard = new Map<number, string[]>();
    for (const key of keys) {
      const shard = sourceKeyType ? this.#ranges.shardOfKey(sourceKeyType, key) : 0;
      // No row can have it.
      if (shard === undefined) continue;
      byShard.set(shard, [...(byShard.get(shard) ?? []), key]);
    }
    const text = `select ${id(sourceKey.name)}::text as key, ${id(from.name)}::text as value
      from ${sqlName(source.schema, source.table)} where ${id(sourceKey.name)} = any ($1::text[]::${arrayOf(sourceKey)})`;
    for (const [shard, own] of byShard) {
      const { rows } = await this.#shards.query<{ key: string; value: string | null }>(
        shard,
        text,
        [own],
      );
      for (const { key, value } of rows) values.set(key, value);
    }
    return values;
  }

  async #write(copy: Copy, shard: number, values: Values): Promise<void> {
    const text = keysText(copy);
    const given = [[...values.keys()], [...values.values()]];
    for (;;) {
      const { rowCount } = await this.#shards.query(shard, text, given);
      if ((rowCount ?? 0) < BATCH) return;
    }
  }
}

function* batches<T>(list: readonly T[]): Generator<T[]> {
  for (let at = 0; at < list.length; at += BATCH) yield list.slice(at, at + BATCH);
}

/** `character varying(20)` would cut a value that is cast to an array of it, silently. */
function plain({ type }: TypedColumn): string {
  return type.replace(/\s*\([^)]*\)/, '');
}

function arrayOf(column: TypedColumn): string {
  return `${plain(column)}[]`;
}

/** `$1`: keys of the source, `$2`: what the copies of each should be. */
function keysText({ target, column, via, key }: Copy): string {
  const keys = key.map(({ name }) => id(name));
  const table = sqlName(target.schema, target.table);
  const copy = id(column.name);
  return `
    with due as (
      select ${keys.map((name, i) => `t.${name} as k${i}`).join(', ')}, n.via, n.value
      from unnest($1::text[]::${arrayOf(via)}, $2::text[]::${arrayOf(column)}) as n(via, value)
        join ${table} t on t.${id(via.name)} = n.via
      where t.${copy} is distinct from n.value
      limit ${BATCH})
    update ${table} t set ${copy} = due.value from due
    where ${keys.map((name, i) => `t.${name} = due.k${i}`).join(' and ')}
      and t.${id(via.name)} = due.via and t.${copy} is distinct from due.value`;
}

/** A list for each column of the key, then `via`, then what the copy should be. */
function rowsText({ target, column, via, key }: Copy): { text: string; types: string[] } {
  const columns = [...key, via, column];
  const types = columns.map(arrayOf);
  const names = [...key.map((_, i) => `k${i}`), 'via', 'value'];
  const lists = types.map((type, i) => `$${i + 1}::text[]::${type}`);
  const copy = id(column.name);
  return {
    types,
    text: `
    update ${sqlName(target.schema, target.table)} t set ${copy} = n.value
    from unnest(${lists.join(', ')}) as n(${names.join(', ')})
    where ${key.map(({ name }, i) => `t.${id(name)} = n.k${i}`).join(' and ')}
      and t.${id(via.name)} is not distinct from n.via and t.${copy} is distinct from n.value`,
  };
}

function withoutViaText({ target, column, via, key }: Copy): string {
  const keys = key.map(({ name }) => id(name)).join(', ');
  const table = sqlName(target.schema, target.table);
  return `update ${table} set ${id(column.name)} = null
    where (${keys}) in (select ${keys} from ${table}
      where ${id(via.name)} is null and ${id(column.name)} is not null limit ${BATCH})
    and ${id(via.name)} is null`;
}
