/**
 * What the planner has to know of the database: which tables lie where, with which columns.
 *
 * Holds true here: it is of one moment. A newer state is a new object with another `version`, so that a plan
 * drawn from one can be told from a plan drawn from another.
 *
 * Glossary: see `../README.md`. A *family* is the types between which equal values have equal hashes.
 */
export type KeyFamily = 'integer' | 'text' | 'uuid';

export interface PlacedColumn {
  readonly name: string;
  /** As `format_type(atttypid, atttypmod)` writes it: `bigint`, `character varying(20)`. */
  readonly type: string;
  /** Undefined for a column of another type, or of a collation in which different texts are equal. */
  readonly family: KeyFamily | undefined;
  /** The default's expression, as `pg_get_expr` writes it; of an identity column, its `nextval('…')`. */
  readonly default: string | undefined;
  /** GENERATED ALWAYS AS IDENTITY: an INSERT that gives it has to say OVERRIDING SYSTEM VALUE. */
  readonly isAlwaysIdentity?: boolean;
  /** GENERATED ALWAYS AS (…) STORED: never given. */
  readonly isGenerated?: boolean;
}

export interface PlacedTable {
  readonly schema: string;
  readonly name: string;
  /**
   * `sharded`: its rows lie by the hash of `key`; `reference`: whole on every shard; `home`: whole on the
   * first; `view`: what its definition reads decides; `system`: PostgreSQL's own, asked on the first.
   */
  readonly kind: 'sharded' | 'reference' | 'home' | 'view' | 'system';
  /** Of a sharded table. */
  readonly key?: string;
  /** In their order. */
  readonly columns: readonly PlacedColumn[];
  readonly primaryKey: readonly string[];
  /** Columns that are kept as copies: of which column, `schema.table.column`, of the row that `via` names. */
  readonly copies?: readonly {
    readonly column: string;
    readonly from: string;
    readonly via: string;
  }[];
  /** Of a view: its query, as `pg_get_viewdef` writes it. */
  readonly definition?: string;
}

export interface Placement {
  readonly version: number;
  /** How many shards there are. */
  readonly shards: number;
  /** @param schema undefined: as the search path finds it */
  table(schema: string | undefined, name: string): PlacedTable | undefined;
  /** Whether an aggregate of that name is in any schema. */
  isAggregate(name: string): boolean;
  /**
   * The shard of a key.
   * @param value as text
   * @returns undefined when it is not a value of that family, or is not known to be one
   */
  shardOf(family: KeyFamily, value: string): number | undefined;
}

const FAMILIES: Record<string, KeyFamily> = {
  smallint: 'integer',
  integer: 'integer',
  bigint: 'integer',
  int2: 'integer',
  int4: 'integer',
  int8: 'integer',
  int: 'integer',
  text: 'text',
  varchar: 'text',
  'character varying': 'text',
  uuid: 'uuid',
};

/** The family of a type by its name; the length of a varchar makes no difference. */
export function familyOf(type: string): KeyFamily | undefined {
  return FAMILIES[type.replace(/^(character varying|varchar)\(\d+\)$/, 'text')];
}

export function qualified({ schema, name }: { schema: string; name: string }): string {
  return `${schema}.${name}`;
}
