/**
 * Compares the rows of two databases while one is written to and the other follows.
 *
 * Holds true here:
 * - Every row counts: a table's checksum is the sum over the hashes of its rows as text, the same on every version
 *   (`hashtextextended`, with the settings that text depends on fixed).
 * - A difference may be a row that has not arrived yet. So rows that differ are looked up again, by their keys,
 *   until each was seen equal once; what was never seen equal is `open`, and is looked at again when nothing is
 *   written any more.
 */
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { BanyanError } from '../../../errors.ts';
import { type MovedTable, nameOf, type Queryable } from './movable.ts';

export class RowsDiffer extends BanyanError {
  constructor(table: string, detail: string) {
    super('ROWS_DIFFER', {
      what: `After the copy, rows differ between the two databases: ${detail}`,
      where: table,
      remedy:
        'Nothing was switched; the database that serves goes on, and the copy is thrown away. Something else may write to the copy; try again',
    });
  }
}

/** What is still to be seen equal. Empty keys: the whole table. */
export interface OpenTable {
  table: MovedTable;
  keys: string[];
}

const BUCKETS = 256;
/** How often a table is looked at again while it is written to. */
const ROUNDS = 10;
const ROUND_PAUSE_MS = 100;
/** More than this many rows that differ at once are no rows on their way. */
const MOST_OPEN_KEYS = 50_000;

/** What a row's text depends on. */
const SETTINGS = `set datestyle = 'ISO, MDY'; set intervalstyle = 'postgres'; set timezone = 'UTC';
  set bytea_output = 'hex'; set extra_float_digits = 1; set xmloption = 'content'; set lc_monetary = 'C'`;

export class Comparison {
  readonly #source: Queryable;
  readonly #target: Queryable;

  private constructor(source: Queryable, target: Queryable) {
    this.#source = source;
    this.#target = target;
  }

  /** Both have to be single connections: their settings are changed. */
  static async of(source: Queryable, target: Queryable): Promise<Comparison> {
    await Promise.all([source.query(SETTINGS), target.query(SETTINGS)]);
    return new Comparison(source, target);
  }

  /**
   * Compares a table while it may be written to.
   * @returns what is still open; undefined when all was seen equal
   */
  async follow(table: MovedTable): Promise<OpenTable | undefined> {
    if (await this.#totalsEqual(table)) return undefined;
    if (table.key.length === 0) return { table, keys: [] };
    const buckets = await this.#differingBuckets(table);
    let keys = await this.#differingKeys(table, buckets);
    for (let round = 0; keys.length > 0 && round < ROUNDS; round++) {
      await delay(ROUND_PAUSE_MS);
      keys = await this.#stillDiffering(table, keys);
    }
    return keys.length > 0 ? { table, keys } : undefined;
  }

  /** Looks at what is open, when nothing is written any more. @throws RowsDiffer */
  async settle({ table, keys }: OpenTable): Promise<void> {
    if (keys.length === 0) {
      if (await this.#totalsEqual(table)) return;
      throw new RowsDiffer(nameOf(table), 'the checksum of the table is another');
    }
    const still = await this.#stillDiffering(table, keys);
    if (still.length > 0) {
      throw new RowsDiffer(
        nameOf(table),
        `${still.length} rows, such as the one with the key ${still[0]}`,
      );
    }
  }

  async #totalsEqual(table: MovedTable): Promise<boolean> {
    const text = `select count(*)::text, coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text
                  from only ${nameOf(table)} t`;
    const [one, two] = await this.#both(text);
    return String(one[0]) === String(two[0]);
  }

  async #differingBuckets(table: MovedTable): Promise<number[]> {
    const text = `select ${bucketOf(table)}, count(*)::text, sum(hashtextextended(t::text, 0)::numeric)::text
                  from only ${nameOf(table)} t group by 1`;
    const [one, two] = await this.#both(text);
    return differing(one, two).map(Number);
  }

  async #differingKeys(table: MovedTable, buckets: number[]): Promise<string[]> {
    if (buckets.length === 0) return [];
    const text = `select ${keyOf(table)}, hashtextextended(t::text, 0)::text from only ${nameOf(table)} t
                  where ${bucketOf(table)} = any ($1)`;
    const [one, two] = await this.#both(text, [buckets]);
    const keys = differing(one, two);
    if (keys.length > MOST_OPEN_KEYS) {
      throw new RowsDiffer(nameOf(table), `${keys.length} rows`);
    }
    return keys;
  }

  async #stillDiffering(table: MovedTable, keys: string[]): Promise<string[]> {
    const columns = table.key.map(column => `t.${pg.escapeIdentifier(column)}`);
    // The keys' own types, so that the table's index finds them.
    const text = `select ${keyOf(table)}, hashtextextended(t::text, 0)::text
                  from unnest($1::text[]) k, jsonb_populate_record(null::${nameOf(table)}, k::jsonb) w
                  join only ${nameOf(table)} t on (${columns.join(', ')}) = (${table.key
                    .map(column => `w.${pg.escapeIdentifier(column)}`)
                    .join(', ')})`;
    const [one, two] = await this.#both(text, [keys]);
    return differing(one, two);
  }

  async #both(text: string, values: unknown[] = []): Promise<[string[][], string[][]]> {
    const ask = async (side: Queryable) =>
      (await side.query({ text, values, rowMode: 'array' })).rows as unknown as string[][];
    return Promise.all([ask(this.#source), ask(this.#target)]);
  }
}

/** A row's key as JSON text, which names its columns. */
function keyOf({ key }: MovedTable): string {
  const pairs = key.map(column => `${pg.escapeLiteral(column)}, t.${pg.escapeIdentifier(column)}`);
  return `jsonb_build_object(${pairs.join(', ')})::text`;
}

function bucketOf(table: MovedTable): string {
  return `(hashtextextended(${keyOf(table)}, 0) & ${BUCKETS - 1})::int`;
}

/** First columns of rows that are on one side alone, or differ in the others. */
function differing(one: string[][], two: string[][]): string[] {
  const seen = new Map(one.map(([key, ...rest]) => [String(key), rest.join()]));
  const wrong = new Set<string>();
  for (const [key, ...rest] of two) {
    if (seen.get(String(key)) !== rest.join()) wrong.add(String(key));
    seen.delete(String(key));
  }
  for (const key of seen.keys()) wrong.add(key);
  return [...wrong];
}
