/**
 * Where the rows of each table are: what the map says of it, joined with what the database says.
 *
 * Holds true here:
 * - Immutable. Another map or another schema is another object.
 * - A table that the map does not name is a *home* table: whole on the first shard. A partition is placed as its
 *   root is.
 * - A declaration that does not fit the schema (a key that is no column, a key of a type that is not hashed) is
 *   an error for whoever asks for that table, and for nobody else.
 */
import { BanyanError } from '../../../../errors.ts';
import type { RuntimeMap } from '../../../../map/runtime-map.ts';
import { KEY_TYPES, type KeyType } from '../hash.ts';
import { Ranges } from '../ranges.ts';
import { type Column, qualifiedName, type Relation, type Schema } from './schema.ts';

export interface PlacedTable extends Relation {
  placement: 'sharded' | 'reference' | 'home';
  /** Of a sharded table. */
  key: Column | undefined;
  keyType: KeyType | undefined;
  /** Columns whose values are unique across all shards by a lookup table. */
  globallyUnique: string[];
  /** Columns that are kept as copies of others. */
  copies: { column: string; from: string; via: string }[];
}

/** A table is declared in a way that its schema does not allow. */
export class UnusableDeclaration extends BanyanError {
  constructor(table: string, why: string) {
    super('UNUSABLE_DECLARATION', {
      what: `The table ${table} cannot be sharded as it is declared: ${why}`,
      where: 'database.tables',
      remedy: 'Run `banyan doctor`: it says what fits',
    });
  }
}

/** The part of the runtime map that it is made of. */
export type Declaration = Pick<RuntimeMap['database'], 'tables' | 'unique' | 'denormalize'>;

export class Placement {
  readonly ranges: Ranges;
  /** Of shards. */
  readonly count: number;
  readonly #schema: Schema;
  readonly #tables = new Map<string, PlacedTable | UnusableDeclaration>();

  /** @throws InvalidRanges */
  constructor(database: RuntimeMap['database'], schema: Schema) {
    this.ranges = new Ranges(database.shards.map(({ range }) => range));
    this.count = database.shards.length;
    this.#schema = schema;
    for (const relation of schema.relations) {
      this.#tables.set(qualifiedName(relation), place(relation, database));
    }
  }

  /**
   * @param schema undefined: along the search path that sessions begin with
   * @returns undefined when there is no such relation, or it is the system's or Banyan's own
   * @throws UnusableDeclaration
   */
  tableOf(schema: string | undefined, name: string): PlacedTable | undefined {
    for (const candidate of schema === undefined ? this.#schema.searchPath : [schema]) {
      const found = this.#tables.get(`${candidate}.${name}`);
      if (found instanceof UnusableDeclaration) throw found;
      if (found) return found;
    }
    return undefined;
  }

  /**
   * @returns the index into the map's shards; undefined when no row can have this key: see `hashKey`
   * @throws UnhashableKey
   */
  shardOf(keyType: KeyType, value: unknown): number | undefined {
    return this.ranges.shardOfKey(keyType, value);
  }
}

/** Whether rows of two tables with equal keys are always on the same shard: their keys hash alike. */
export function isColocated(
  one: Pick<PlacedTable, 'keyType'>,
  other: Pick<PlacedTable, 'keyType'>,
): boolean {
  return (
    one.keyType !== undefined &&
    other.keyType !== undefined &&
    familyOf(one.keyType) === familyOf(other.keyType)
  );
}

/** Types of one family have the same hash for the same value. */
export function familyOf(type: KeyType): 'integer' | 'text' | 'uuid' {
  if (type === 'uuid') return 'uuid';
  return type === 'text' || type === 'varchar' ? 'text' : 'integer';
}

/** Undefined for a type that no shard key may have. */
export function keyTypeOf({ baseType }: Pick<Column, 'baseType'>): KeyType | undefined {
  return KEY_TYPES.find(type => type === baseType);
}

function place(
  relation: Relation,
  { tables = {}, unique = [], denormalize = {} }: Declaration,
): PlacedTable | UnusableDeclaration {
  const name = qualifiedName(relation);
  const declared = tables[relation.root ?? name];
  const prefix = `${relation.root ?? name}.`;
  const copies = Object.entries(denormalize)
    .filter(([column]) => column.startsWith(prefix))
    .map(([column, copy]) => ({ column: column.slice(prefix.length), ...copy }));
  const placed = { ...relation, key: undefined, keyType: undefined, globallyUnique: [], copies };
  if (!declared) return { ...placed, placement: 'home' };
  if (declared.kind === 'reference') return { ...placed, placement: 'reference' };
  const key = relation.columns.find(column => column.name === declared.key);
  if (!key) return new UnusableDeclaration(name, `it has no column ${declared.key}`);
  const keyType = keyTypeOf(key);
  if (!keyType) {
    return new UnusableDeclaration(name, `its key ${key.name} is of the type ${key.type}`);
  }
  if (key.collation && !key.collation.isDeterministic) {
    const { name: collation } = key.collation;
    return new UnusableDeclaration(
      name,
      `equal values of its key ${key.name} may differ in their bytes, under the collation ${collation}`,
    );
  }
  return {
    ...placed,
    placement: 'sharded',
    key,
    keyType,
    globallyUnique: unique
      .filter(column => column.startsWith(prefix))
      .map(column => column.slice(prefix.length)),
  };
}
