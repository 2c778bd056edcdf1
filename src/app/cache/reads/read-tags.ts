/**
 * From what a query reads to an entry's tags. Pure.
 *
 * Holds true here: a table that is fixed to values of a covered column has tags of those; all else has the tag of the
 * table. What the log does not show is refused: nobody would say when it changes.
 */
import { textOf } from '../../database/shards/plan/values.ts';
import {
  type ColumnFamily,
  type Coverage,
  type Coverages,
  canonical,
  EVERYTHING,
  tableTag,
  valueTag,
  wholesaleTag,
} from '../tags.ts';
import type { FixedColumn, QueryReads, ShownColumn, TableRead } from './query-reads.ts';
import { isSystem, type SchemaShape } from './schema-shape.ts';

/** More are as good as the whole table. */
const MOST_VALUES = 100;
/** A longer text may be kept out of line, and then the log does not repeat it with each change of its row. */
const LONGEST_TEXT = 100;

export type ReadTags =
  | { readonly kind: 'tags'; readonly tags: readonly string[] }
  /** Completes "it …". */
  | { readonly kind: 'refused'; readonly why: string };

interface Result {
  readonly rows?: readonly unknown[];
  readonly fields?: readonly { readonly name: string }[];
}

/** @param result as pg gives it */
export function tagsOfReads(
  reads: QueryReads,
  shape: SchemaShape,
  coverages: Coverages,
  values: readonly unknown[],
  result: unknown,
): ReadTags {
  const tags = new Set<string>();
  if (overlaps(reads.functions, shape.functions) || overlaps(reads.operators, shape.operators)) {
    tags.add(EVERYTHING);
  }
  for (const read of reads.tables) {
    const relation = shape.relation(read.schema, read.name);
    if (!relation) return { kind: 'refused', why: `reads ${read.name}, which is not known here` };
    if (isSystem(relation.schema)) continue;
    if (relation.readsAnything) tags.add(EVERYTHING);
    const isTable = relation.kind !== 'v';
    for (const table of relation.tables) {
      const coverage = coverages[table];
      if (!coverage) return { kind: 'refused', why: `reads ${table}, whose changes are not told` };
      const [schema, name] = split(table);
      tags.add(wholesaleTag(schema, name));
      const narrow = isTable ? narrowTags(schema, name, coverage, read, values, result) : undefined;
      for (const tag of narrow ?? [tableTag(schema, name)]) tags.add(tag);
    }
  }
  return { kind: 'tags', tags: [...tags] };
}

function split(table: string): [schema: string, name: string] {
  const at = table.indexOf('.');
  return [table.slice(0, at), table.slice(at + 1)];
}

function narrowTags(
  schema: string,
  name: string,
  coverage: Coverage,
  read: TableRead,
  values: readonly unknown[],
  result: unknown,
): string[] | undefined {
  let best: string[] | undefined;
  let bestPlace = -1;
  /** @param place of the column in the key: of two with as many tags the later tells more */
  const consider = (tags: string[] | undefined, place: number) => {
    if (!tags || (best && tags.length > best.length)) return;
    if (best && tags.length === best.length && place <= bestPlace) return;
    best = tags;
    bestPlace = place;
  };
  for (const fixed of read.fixed) {
    const family = coverage.columns[fixed.column];
    const texts = family && valuesOf(fixed, family, values);
    if (!texts) continue;
    const tags = texts.map(text => valueTag(schema, name, fixed.column, text));
    const place = coverage.key.indexOf(fixed.column);
    if (place >= 0) consider(tags, place);
    else {
      // Of the old row only the key is known: a row that ceases to match is told by that.
      const keys = shownKeys(schema, name, coverage, read, result);
      consider(keys && [...tags, ...keys], place);
    }
  }
  return best;
}

function valuesOf(
  { sources }: FixedColumn,
  family: ColumnFamily,
  values: readonly unknown[],
): string[] | undefined {
  const texts = new Set<string>();
  for (const source of sources) {
    if (source.family !== undefined && source.family !== family) return undefined;
    const given =
      source.kind === 'constant'
        ? [source.text]
        : elementsOf(source.kind, values[source.number - 1]);
    for (const item of given ?? [undefined]) {
      const text = textOf(item);
      // No row equals NULL.
      if (item === null || text === null) {
        if (given) continue;
        return undefined;
      }
      const written = text === undefined ? undefined : plain(family, text);
      if (written === undefined) return undefined;
      texts.add(written);
    }
  }
  return texts.size > MOST_VALUES ? undefined : [...texts];
}

function elementsOf(
  kind: 'parameter' | 'elements',
  value: unknown,
): readonly unknown[] | undefined {
  if (value === null || value === undefined) return [];
  if (kind === 'parameter') return [value];
  return Array.isArray(value) && !value.some(Array.isArray) ? value : undefined;
}

function plain(family: ColumnFamily, text: string): string | undefined {
  return Buffer.byteLength(text) > LONGEST_TEXT ? undefined : canonical(family, text);
}

/** Tags of the keys of those of its rows that are in the result; undefined when it does not show them. */
function shownKeys(
  schema: string,
  name: string,
  { key, columns }: Coverage,
  { shown }: TableRead,
  result: unknown,
): string[] | undefined {
  const { rows, fields } = (result ?? {}) as Result;
  if (!rows || !fields) return undefined;
  for (const column of key.toReversed()) {
    const family = columns[column];
    const at: ShownColumn | undefined =
      shown === '*'
        ? { column, name: column, index: undefined }
        : shown.find(each => each.column === column);
    if (!family || !at) continue;
    const tags = new Set<string>();
    const isUnique = fields.filter(field => field.name === at.name).length === 1;
    const index = at.index ?? fields.findIndex(field => field.name === at.name);
    for (const row of rows) {
      const isList = Array.isArray(row);
      if (!isUnique && (!isList || at.index === undefined)) return undefined;
      const value = isList ? row[index] : (row as Record<string, unknown>)[at.name];
      // Of an outer join: none of its rows took part.
      if (value === null) continue;
      const text = value === undefined ? undefined : textOf(value);
      const written = typeof text === 'string' ? plain(family, text) : undefined;
      if (written === undefined) return undefined;
      tags.add(valueTag(schema, name, column, written));
    }
    return tags.size > MOST_VALUES ? undefined : [...tags];
  }
  return undefined;
}

function overlaps(some: ReadonlySet<string>, others: ReadonlySet<string>): boolean {
  for (const name of some) if (others.has(name)) return true;
  return false;
}
