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
