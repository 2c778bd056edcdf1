/**
 * Columns whose values are unique across all shards, and where what is known of their values is kept. Pure.
 *
 * Glossary
 * - *lookup table*: for a unique column, on every shard, which value is at which shard key. Its rows are spread by the
 *   hash of the value, as those of a table whose shard key the value is.
 * - *to claim* a value is to write its row there, *to release* it to delete that row: in the transaction that writes
 *   the table's own row.
 */
import { createHash } from 'node:crypto';
import { BanyanError } from '../../../../errors.ts';
import type { RuntimeMap } from '../../../../map/runtime-map.ts';
import { keyTypeOf, Placement } from '../declaration/placement.ts';
import type { Column, Relation, Schema } from '../declaration/schema.ts';
import type { KeyType } from '../hash.ts';

export interface UniqueColumn {
  readonly schema: string;
  readonly table: string;
  readonly column: string;
  /** As declared, for the lookup table; and what it is hashed as. */
  readonly type: string;
  readonly valueType: KeyType;
  readonly key: string;
  readonly keyDeclared: string;
  readonly keyType: KeyType;
  /** That of the table's own unique index, which an error names; where there is none the one it would have. */
  readonly constraint: string;
  /** The table has a unique index of its own for it, by which ON CONFLICT finds a row. */
  readonly hasIndex: boolean;
  /** Of the table, in their order: what an INSERT gives that names none. */
  readonly tableColumns: readonly string[];
  readonly hasDefault: boolean;
  /** In the schema `banyan`. */
  readonly lookup: string;
  /** Values are claimed and released, and those of older rows are not all known yet: no read goes by it. */
  readonly isFilling: boolean;
}

export class UnusableUniqueColumn extends BanyanError {
  constructor(name: string, why: string) {
    super('UNUSABLE_UNIQUE_COLUMN', {
      what: `The column ${name} cannot be unique across shards: ${why}`,
      where: 'database.unique',
      remedy: 'Take it out of `unique`, or change the column; `banyan doctor` says what fits',
    });
  }
}

/** PostgreSQL's limit of a name, in bytes. */
const MAX_NAME_BYTES = 63;
const DIGEST_CHARACTERS = 10;

/** Which tables are lookup tables, by `schema.table`: a regular expression. */
export const LOOKUP_TABLES = `^banyan\\..*_unique_[0-9a-f]{${DIGEST_CHARACTERS}}$`;

/** The tables of columns that cannot be kept unique, with why. */
export type Unusable = { readonly schema: string; readonly table: string; readonly error: Error };

/**
 * The unique columns of sharded tables, as far as those are there.
 * @param onUnusable called for one that cannot be kept unique. Default: that is thrown
 * @throws UnusableUniqueColumn, InvalidRanges
 */
export function uniqueColumns(
  database: RuntimeMap['database'],
  schema: Schema,
  onUnusable: (unusable: Unusable) => void = ({ error }) => {
    throw error;
  },
): UniqueColumn[] {
  const placement = new Placement(database, schema);
  return (database.unique ?? []).flatMap(name => {
    const [schemaName = '', tableName = '', columnName = ''] = name.split('.');
    const table = placement.tableOf(schemaName, tableName);
    // Whole on a shard, it is unique by its own index.
    if (table?.placement !== 'sharded') return [];
    const column = table.columns.find(one => one.name === columnName);
    if (!column) return [];
    const valueType = keyTypeOf(column);
    const why = whyUnusable(table, column);
    if (!valueType || why) {
      const error = new UnusableUniqueColumn(name, why ?? '');
      onUnusable({ schema: schemaName, table: tableName, error });
      return [];
    }
    const own = table.uniqueIndexes.find(
      ({ columns, where }) => columns.length === 1 && columns[0] === columnName && !where,
    );
    return {
      schema: schemaName,
      table: tableName,
      column: columnName,
      type: column.type,
      valueType,
      key: table.key!.name,
      keyDeclared: table.key!.type,
      keyType: table.keyType!,
      constraint: own?.name ?? `${tableName}_${columnName}_key`,
      hasIndex: own !== undefined,
      tableColumns: table.columns.map(one => one.name),
      hasDefault: column.default !== undefined,
      lookup: lookupName(name),
      isFilling: database.uniqueFilling?.includes(name) ?? false,
    };
  });
}

/** @param name `schema.table.column` */
export function lookupName(name: string): string {
  const digest = createHash('sha256').update(name).digest('hex').slice(0, DIGEST_CHARACTERS);
  const readable = name.replaceAll(/[^A-Za-z0-9]+/g, '_').toLowerCase();
  const room = MAX_NAME_BYTES - '_note'.length - '_unique_'.length - DIGEST_CHARACTERS;
  return `${readable.slice(0, room)}_unique_${digest}`;
}

function whyUnusable({ kind, parents }: Relation, column: Column): string | undefined {
  if (!keyTypeOf(column)) return `it is of the type ${column.type}`;
  if (column.collation && !column.collation.isDeterministic) {
    return `equal values may differ in their bytes, under the collation ${column.collation.name}`;
  }
  // Who writes to a partition by its name passes by the triggers of the whole.
  if (kind !== 'table' || parents.length > 0) return 'its table is partitioned, or inherits';
  return undefined;
}
