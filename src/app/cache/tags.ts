/**
 * Tags: what an entry depends on and what a change touches, in the same words.
 *
 * Holds true here:
 * - Both sides make them with these functions, so that they meet.
 * - Of an entry: for each table that it reads either the table's tag or tags of values, and always the wholesale tag.
 * - Of a changed row: the table's tag, `*`, and one for each of the covered columns' values, of the new row and, as far
 *   as it is known, of the old one. Of TRUNCATE: the wholesale tag.
 * - Two things with one text (a table of the name `a#id=5`) invalidate each other: more than necessary, never less.
 */

/** Touched by every transaction that changes anything: for what reads no one knows what. */
export const EVERYTHING = '*';

/** A value's text longer than that is told by its hash. */
const MAX_VALUE_LENGTH = 128;

/** How values of a column are written as text: `text` is also varchar, of a collation in which equal means the same bytes. */
export type ColumnFamily = 'integer' | 'text' | 'uuid';

/** What the log shows of a table. */
export interface Coverage {
  /**
   * The columns of its replica identity, in its order: old and new values are always there. Empty: it has none of these families. The
   * later ones tell more: before `id` stands whose it is.
   */
  readonly key: readonly string[];
  /** Columns whose values in the new row, at least, become tags; those of `key` that have a family are among them. */
  readonly columns: Readonly<Record<string, ColumnFamily>>;
}

/** By `schema.table`. */
export type Coverages = Readonly<Record<string, Coverage>>;

/** Any row of the table. */
export function tableTag(schema: string, table: string): string {
  return `${schema}.${table}`;
}

/** All of its rows at once: TRUNCATE, or too many to tell. */
export function wholesaleTag(schema: string, table: string): string {
  return `${schema}.${table}!`;
}

/** Rows with that value. @param text as PostgreSQL writes it: integers in decimal, uuids in lower case, texts as they are */
export function valueTag(schema: string, table: string, column: string, text: string): string {
  const value = text.length <= MAX_VALUE_LENGTH ? text : `~${fingerprint(text)}`;
  return `${schema}.${table}#${column}=${value}`;
}

/** One that the application gave. */
export function explicitTag(namespace: string, tag: string): string {
  return `@${namespace}:${tag}`;
}

/** One entry, by its key. */
export function keyTag(fullKey: string): string {
  return `=${fullKey}`;
}

/** Values of a row by column, as PostgreSQL writes them; null is NULL, undefined is not known (TOAST, not in the old row). */
export type RowTexts = Readonly<Record<string, string | null | undefined>>;

/**
 * The tags of one changed row.
 * @param before what is known of the old row: undefined for an insert, and for an update that changed no key column
 * @param after undefined for a delete
 */
export function tagsOfChange(
  schema: string,
  table: string,
  coverage: Coverage,
  before: RowTexts | undefined,
  after: RowTexts | undefined,
): string[] {
  const tags = new Set([EVERYTHING, tableTag(schema, table)]);
  for (const column of Object.keys(coverage.columns)) {
    for (const row of [before, after]) {
      const text = row?.[column];
      if (text !== null && text !== undefined) tags.add(valueTag(schema, table, column, text));
    }
  }
  return [...tags];
}

/**
 * A value as PostgreSQL writes it.
 * @param text as the driver would send it
 * @returns undefined for what is not plainly a value of the family
 */
export function canonical(family: ColumnFamily, text: string): string | undefined {
  if (family === 'text') return text;
  if (family === 'integer') return /^[+-]?\d{1,20}$/.test(text) ? String(BigInt(text)) : undefined;
  return /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/i.test(text) ? text.toLowerCase() : undefined;
}

/** FNV-1a, 64 bits. Two texts with the same one invalidate each other, which harms nobody. */
function fingerprint(text: string): string {
  let hash = 0xcbf29ce484222325n;
  for (const byte of Buffer.from(text)) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  }
  return hash.toString(16);
}
