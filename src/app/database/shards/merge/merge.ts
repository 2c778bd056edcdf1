/**
 * The answers of several shards made into one.
 *
 * Holds true here: what TypeScript does itself is certain to be what PostgreSQL would do (rows one after the
 * other, sorted by integers, times, uuids, text in "C"). All else PostgreSQL does: the rows are sent back to one
 * of the shards, as text, in parameters, and a query over them gives the result. So its collations, its
 * arithmetic and its rounding are its own.
 */
import type pg from 'pg';
import { BanyanError } from '../../../../errors.ts';
import type { Lanes } from '../lanes.ts';
import type { QueryMerge, RowsMerge, Slot, SortKey } from '../plan/plan.ts';
import { ShardRefused } from '../plan/refused.ts';
import { quote } from '../plan/tree.ts';
import { comparison, type ResolvedKey, sortRows } from './compare.ts';
import { type Gathered, type RawRow, resultOf } from './gathered.ts';
import { mergePlain } from './plain.ts';
import type { TypeName, TypeNames } from './types.ts';

/** More rows would have to be merged than the limit allows. */
export class TooManyRows extends BanyanError {
  /** program_limit_exceeded. */
  readonly sqlState = '54000';

  constructor(limit: number) {
    super('SHARD_ROWS_LIMIT', {
      what: `The answers of the shards have more than ${limit} rows, which would have to be held in memory to be put together`,
      where: 'the sharded database',
      remedy: 'Name the shard key in the WHERE clause, add a LIMIT, or raise maxMergedRows',
    });
  }
}

export interface ResultOptions {
  readonly rowMode?: 'array' | undefined;
  readonly types?: pg.CustomTypesConfig | undefined;
}

/** Numbers of LIMIT and OFFSET, as far as they are given. */
export interface LimitValues {
  readonly count: bigint | undefined;
  readonly offset: bigint | undefined;
}

export interface MergeContext {
  readonly lanes: Lanes;
  readonly types: TypeNames;
  readonly options: ResultOptions;
  /** Collations of the columns that have one, by place: asked when they matter. */
  collations(places: readonly number[]): Promise<Map<number, string>>;
}

export async function mergeRows(
  gathered: Gathered,
  merge: RowsMerge,
  limits: LimitValues,
  context: MergeContext,
): Promise<pg.QueryResult<never>> {
  const { fields, rows } = gathered;
  const visible = fields.length - merge.hidden;
  const place = (column: SortKey['column']) => placeOf(column, fields, visible);
  const keys = resolveKeys(merge, fields);
  const isNegative = (limits.count ?? 0n) < 0n || (limits.offset ?? 0n) < 0n;
  if (merge.distinct.kind === 'none' && !isNegative) {
    const sorted = await sortHere(gathered, keys, context);
    if (sorted) {
      const from = Number(limits.offset ?? 0n);
      const to = limits.count === undefined ? sorted.length : from + Number(limits.count);
      return resultOf('SELECT', fields.slice(0, visible), sorted.slice(from, to), context.options);
    }
  }
  // Every column of DISTINCT is compared.
  const compared =
    merge.distinct.kind === 'all' ? fields.map((_f, i) => i) : keys.map(({ at }) => at);
  const on = merge.distinct.kind === 'on' ? merge.distinct.columns.map(place) : [];
  const source = await sourceOf(gathered, 'bx_', [...compared, ...on], context);
  const list = fields.slice(0, visible).map(({ name }, i) => `bx_c${i} as ${quote(name)}`);
  const distinct =
    merge.distinct.kind === 'all'
      ? 'distinct '
      : on.length > 0
        ? `distinct on (${on.map(at => `bx_c${at}`).join(', ')}) `
        : '';
  const order = keys.map(orderBy);
  const text = [
    `select ${distinct}${list.join(', ')} from ${source(1)}`,
    order.length ? ` order by ${order.join(', ')}` : '',
    limits.count === undefined ? '' : ` limit ${limits.count}`,
    limits.offset === undefined ? '' : ` offset ${limits.offset}`,
  ].join('');
  const result = await context.lanes.query(
    gathered.shard,
    { text, values: columnsOf(rows, fields.length), ...resultOptions(context.options) },
    { wantsWrite: false },
  );
  for (const [i, field] of result.fields.entries()) Object.assign(field, fields[i]);
  return result;
}

/** Where the columns are that rows are ordered by. @throws ShardRefused for a name that is not one column */
export function resolveKeys(merge: RowsMerge, fields: readonly pg.FieldDef[]): ResolvedKey[] {
  const visible = fields.length - merge.hidden;
  return merge.keys.map(key => ({ ...key, at: placeOf(key.column, fields, visible) }));
}

function placeOf(
  column: SortKey['column'],
  fields: readonly pg.FieldDef[],
  visible: number,
): number {
  if ('at' in column) return column.at;
  if ('hidden' in column) return visible + column.hidden;
  return placeOfName(column.name, fields.slice(0, visible));
}

function orderBy({ at, isDescending, nullsFirst }: ResolvedKey): string {
  return `bx_c${at} ${isDescending ? 'desc' : 'asc'} nulls ${nullsFirst ? 'first' : 'last'}`;
}

/** The rows in their order; they are merged by PostgreSQL where it is not certain how it would. */
export async function sorted(
  gathered: Gathered,
  keys: readonly ResolvedKey[],
  context: MergeContext,
): Promise<RawRow[]> {
  const here = await sortHere(gathered, keys, context);
  if (here) return here;
  // Only what is compared goes there, and comes back as the number of the row.
  const { fields, rows, shard } = gathered;
  const places = [...new Set(keys.map(({ at }) => at))];
  const number = { ...fields[0]!, name: 'number', dataTypeID: BIGINT };
  const compared: Gathered = {
    fields: [...places.map(at => fields[at]!), number],
    rows: rows.map((row, i) => [...places.map(at => row[at] ?? null), String(i)]),
    shard,
  };
  const around = {
    ...context,
    collations: async (wanted: readonly number[]) => {
      const known = await context.collations(wanted.map(i => places[i]!));
      return new Map(wanted.map(i => [i, known.get(places[i]!) ?? '']));
    },
  };
  const source = await sourceOf(
    compared,
    'bx_',
    places.map((_at, i) => i),
    around,
  );
  const order = keys.map(key => orderBy({ ...key, at: places.indexOf(key.at) }));
  const { rows: numbers } = await context.lanes.query(
    shard,
    {
      text: `select bx_c${places.length} from ${source(1)} order by ${order.join(', ')}`,
      values: columnsOf(compared.rows, compared.fields.length),
      rowMode: 'array',
    },
    { wantsWrite: false, isAside: true },
  );
  return (numbers as unknown as [string][]).map(([i]) => rows[Number(i)]!);
}

const BIGINT = 20;

/** @returns undefined when PostgreSQL has to sort */
async function sortHere(
  { fields, rows }: Gathered,
  keys: readonly ResolvedKey[],
  context: MergeContext,
): Promise<RawRow[] | undefined> {
  if (keys.length === 0) return [...rows];
  const texts = keys.map(({ at }) => at).filter(at => isText(fields[at]!.dataTypeID));
  const collations = texts.length ? await context.collations(texts) : new Map<number, string>();
  const compare = keys.map(({ at }) =>
    comparison(
      fields[at]!.dataTypeID,
      rows.map(row => row[at] ?? null),
      BYTEWISE.has(collations.get(at) ?? ''),
    ),
  );
  return compare.every(one => one !== undefined) ? sortRows(rows, keys, compare) : undefined;
}

const isText = (oid: number) => oid === 25 || oid === 1043;
const BYTEWISE = new Set(['"C"', '"POSIX"', 'pg_catalog."C"', 'pg_catalog."POSIX"']);

function placeOfName(name: string, fields: readonly pg.FieldDef[]): number {
  const first = fields.findIndex(field => field.name === name);
  if (first >= 0 && !fields.slice(first + 1).some(field => field.name === name)) return first;
  throw new ShardRefused(
    `The rows of several shards are ordered by ${name}, which is ${first < 0 ? 'no column' : 'more than one column'} of the result`,
    'Order by the position of the column, or give it a name of its own',
  );
}

/**
 * The rows as something to select from, with the columns `${prefix}c0`, `${prefix}c1`, …
 * @param compared places of columns that are compared, so that their collation matters
 * @returns gives the text, by the number of its first parameter; each column is one
 */
async function sourceOf(
  { fields, shard }: Gathered,
  prefix: string,
  compared: readonly number[],
  { types, lanes, collations }: MergeContext,
): Promise<(first: number) => string> {
  if (fields.length === 0) {
    throw new ShardRefused('The rows of several shards have no columns', 'Select a column');
  }
  const names = await types.resolve(
    fields.map(({ dataTypeID }) => dataTypeID),
    shard,
    lanes,
  );
  const texts = [...new Set(compared)].filter(at => names[at]?.isCollatable);
  const known = texts.length > 0 ? await collations(texts) : new Map<number, string>();
  const list = names.map(({ name }, i) => {
    const collation = known.get(i);
    return `a${i}::${name}${collation ? ` collate ${collation}` : ''} as ${prefix}c${i}`;
  });
  const columns = fields.map((_field, i) => `a${i}`).join(', ');
  return first => {
    const arrays = fields.map((_field, i) => `$${first + i}::text[]`).join(', ');
    return `(select ${list.join(', ')} from unnest(${arrays}) as u(${columns})) as ${prefix}p`;
  };
}

/** The rows' columns, each one parameter. */
export function columnsOf(rows: readonly RawRow[], width: number): (string | null)[][] {
  return Array.from({ length: width }, (_, i) => rows.map(row => row[i] ?? null));
}

/** @returns undefined when the types show that what was sent cannot be combined exactly */
export async function mergeGroups(
  gathered: Gathered,
  merge: QueryMerge,
  values: unknown[],
  context: MergeContext,
): Promise<pg.QueryResult<never> | undefined> {
  const { fields, rows, shard } = gathered;
  const plain = mergePlain(gathered, merge, context.options);
  if (plain) return plain;
  const names = await context.types.resolve(
    fields.map(({ dataTypeID }) => dataTypeID),
    shard,
    context.lanes,
  );
  const { prefix, slots, final } = merge;
  const texts: string[] = [];
  for (const slot of slots) {
    const text = slotText(slot, names, prefix);
    if (text === undefined) return undefined;
    texts.push(text);
  }
  const source = await sourceOf(
    gathered,
    prefix,
    fields.map((_field, i) => i),
    context,
  );
  const text = final.text
    .replace(new RegExp(`\\b${prefix}p\\b`), () => source(values.length + 1))
    .replace(new RegExp(`\\b${prefix}s(\\d+)\\b`, 'g'), (_all, i) => texts[Number(i)]!);
  return context.lanes.query(
    shard,
    {
      text,
      values: [...values, ...columnsOf(rows, fields.length)],
      ...resultOptions(context.options),
    },
    { wantsWrite: false },
  );
}

const SUMS = new Set(['bigint', 'numeric', 'double precision', 'interval', 'money', 'real']);

function slotText(slot: Slot, types: readonly TypeName[], prefix: string): string | undefined {
  const [a, b] = slot.columns.map(place => `${prefix}c${place}`);
  const type = types[slot.columns[0]!]!.name;
  switch (slot.kind) {
    case 'value':
      return a;
    case 'same':
      return `${slot.name}(${a})`;
    case 'count':
      return `(coalesce(sum(${a}), 0)::bigint)`;
    case 'sum':
      return SUMS.has(type) ? `(sum(${a})::${type})` : undefined;
    case 'average':
      // int2 to int8 and numeric are averaged as numeric.
      if (type === 'bigint' || type === 'numeric') {
        return `(sum(${a})::numeric / nullif(sum(${b}), 0))`;
      }
      return type === 'double precision' || type === 'interval'
        ? `(sum(${a}) / nullif(sum(${b}), 0)::double precision)`
        : undefined;
  }
}

function resultOptions({ rowMode, types }: ResultOptions): {
  rowMode?: 'array';
  types?: pg.CustomTypesConfig;
} {
  return { ...(rowMode ? { rowMode } : {}), ...(types ? { types } : {}) };
}
