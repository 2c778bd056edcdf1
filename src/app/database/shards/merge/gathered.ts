/** The answers of several shards to the same query, as text. */
import pg from 'pg';

export type RawRow = (string | null)[];

export interface Gathered {
  readonly fields: pg.FieldDef[];
  readonly rows: RawRow[];
  /** The shard that the fields come from. */
  readonly shard: number;
}

/** Values as they came. */
export const AS_TEXT: pg.CustomTypesConfig = {
  getTypeParser: () => (value: unknown) => value,
} as never;

/**
 * Values as they came, of no more rows than a limit over all shards: those beyond it are not kept, and the answer fails.
 */
export class RowLimit {
  readonly #onExceeded: () => Error;
  #left: number;

  /** @param onExceeded makes the error */
  constructor(limit: number, onExceeded: () => Error) {
    this.#left = limit;
    this.#onExceeded = onExceeded;
  }

  /** For one shard's answer. */
  types(): pg.CustomTypesConfig {
    // pg parses each value but NULLs, so the column with the most values tells how many rows there are at least.
    let rows = 0;
    const getTypeParser = () => {
      let seen = 0;
      return (value: unknown) => {
        if (++seen > rows) {
          rows = seen;
          // pg drops what comes after it, and then fails the query with it.
          if (--this.#left < 0) throw this.#onExceeded();
        }
        return value;
      };
    };
    return { getTypeParser } as never;
  }
}

/** What pg builds results with. */
interface ResultBuilder extends pg.QueryResult<never> {
  addFields(fields: pg.FieldDef[]): void;
  parseRow(row: RawRow): never;
}

/**
 * A result as pg would give it.
 * @param rows may have more columns than there are fields
 */
export function resultOf(
  command: string,
  fields: pg.FieldDef[],
  rows: readonly RawRow[],
  options: { rowMode?: 'array' | undefined; types?: pg.CustomTypesConfig | undefined },
): pg.QueryResult<never> {
  const { Result } = pg as unknown as {
    Result: new (rowMode: string | undefined, types: pg.CustomTypesConfig) => ResultBuilder;
  };
  const result = new Result(options.rowMode, options.types ?? pg.types);
  result.command = command;
  result.addFields(fields);
  const width = fields.length;
  for (const row of rows) {
    result.rows.push(result.parseRow(row.length > width ? row.slice(0, width) : row));
  }
  result.rowCount = rows.length;
  return result;
}
