/**
 * What a database says of its tables, as far as sharding has to know: columns and their types, keys, what must be
 * unique, who refers to whom.
 *
 * Holds true here:
 * - Plain data of one moment: one statement, so one snapshot.
 * - It reads stored definitions and takes no lock on what they are of, so it never waits for a migration.
 * - Schemas of the system and of Banyan are left out.
 */
import type pg from 'pg';

/** How text of a column is compared; undefined for what is no text. */
export interface Collation {
  /** `C`, `default`, `public.german`. */
  name: string;
  /** False: texts of different bytes may be equal, so their hashes are not those of equal values. */
  isDeterministic: boolean;
  /** Order is that of the bytes in UTF-8, which is that of code points. */
  isBytewise: boolean;
}

export interface Column {
  name: string;
  /** As it is declared: `character varying(20)`, `app.email`. */
  type: string;
  /** As PostgreSQL calls it inside, below all domains: `varchar`, `int4`, `_text`; of a user's type with its schema. */
  baseType: string;
  collation: Collation | undefined;
  notNull: boolean;
  /** The default's expression. */
  default: string | undefined;
  /** Its default is the next of a sequence, or it is an identity column. */
  isNumbered: boolean;
  isIdentity: boolean;
  /** Computed from the others. */
  isGenerated: boolean;
}

export interface UniqueIndex {
  name: string;
  isPrimary: boolean;
  /** In order; undefined stands for an expression. */
  columns: (string | undefined)[];
  /** The condition of a partial index. */
  where: string | undefined;
}

export interface ForeignKey {
  name: string;
  columns: string[];
  /** `schema.table` */
  refersTo: string;
  referredColumns: string[];
}

export interface Relation {
  schema: string;
  name: string;
  kind: 'table' | 'partitioned table' | 'view' | 'materialized view' | 'foreign table';
  /** `schema.table` that it is a partition of, however far up. */
  root: string | undefined;
  /** Tables that it inherits from other than as a partition. */
  parents: string[];
  columns: Column[];
  /** Names of its columns in order; empty without one. */
  primaryKey: string[];
  uniqueIndexes: UniqueIndex[];
  foreignKeys: ForeignKey[];
}

export interface Schema {
  /** `UTF8` */
  encoding: string;
  /** Without the system's own. */
  searchPath: string[];
  relations: Relation[];
}

/** Reads it through a pool or a client. */
export async function readSchema(source: Pick<pg.ClientBase, 'query'>): Promise<Schema> {
  const { rows } = await source.query<{ schema: SchemaRow }>(QUERY);
  const { relations, ...rest } = rows[0]!.schema;
  return { ...rest, relations: relations.map(withoutNulls) };
}

export function qualifiedName({ schema, name }: Pick<Relation, 'schema' | 'name'>): string {
  return `${schema}.${name}`;
}

/** JSON has null where the types have undefined. */
type Nullable<T> = { [Key in keyof T]: undefined extends T[Key] ? T[Key] | null : T[Key] };
type SchemaRow = Omit<Schema, 'relations'> & { relations: RelationRow[] };
type RelationRow = Omit<Nullable<Relation>, 'columns' | 'uniqueIndexes'> & {
  columns: Nullable<Column>[];
  uniqueIndexes: (Omit<UniqueIndex, 'columns' | 'where'> & {
    columns: (string | null)[];
    where: string | null;
  })[];
};

function withoutNulls({ root, columns, uniqueIndexes, ...rest }: RelationRow): Relation {
  return {
    ...rest,
    root: root ?? undefined,
    columns: columns.map(column => ({
      ...column,
      collation: column.collation ?? undefined,
      default: column.default ?? undefined,
    })),
    uniqueIndexes: uniqueIndexes.map(index => ({
      ...index,
      columns: index.columns.map(name => name ?? undefined),
      where: index.where ?? undefined,
    })),
  };
}

/** The names of a constraint's or an index's columns, in its order. */
const namesOf = (relation: string, numbers: string) => `(
  select coalesce(json_agg(a.attname order by k.place), '[]')
  from unnest(${numbers}) with ordinality as k(number, place)
    left join pg_attribute a on a.attrelid = ${relation} and a.attnum = k.number and k.number <> 0
)`;

const QUERY = `
with recursive
own_schema as (
  select oid, nspname from pg_namespace
  where nspname !~ '^pg_' and nspname not in ('information_schema', 'banyan')
),
-- The type below all domains.
base_type as (
  select oid, oid as base from pg_type where typtype <> 'd'
  union all
  select t.oid, b.base from pg_type t join base_type b on b.oid = t.typbasetype where t.typtype = 'd'
),
this_database as (
  select *, datlocprovider = 'b' or datlocprovider = 'c' and datcollate in ('C', 'POSIX') as is_bytewise
  from pg_database where datname = current_database()
),
relation as (
  select c.oid, n.nspname, c.relname, c.relkind, c.relispartition
  from pg_class c join own_schema n on n.oid = c.relnamespace
  where c.relkind in ('r', 'p', 'v', 'm', 'f') and c.relpersistence <> 't'
)
select json_build_object(
  'encoding', (select pg_encoding_to_char(encoding) from this_database),
  'searchPath', (select coalesce(json_agg(name), '[]') from unnest(current_schemas(false)) as path(name)),
  'relations', coalesce((select json_agg(json_build_object(
    'schema', r.nspname,
    'name', r.relname,
    'kind', case r.relkind when 'r' then 'table' when 'p' then 'partitioned table' when 'v' then 'view'
      when 'm' then 'materialized view' else 'foreign table' end,
    'root', case when r.relispartition then (
      select n.nspname || '.' || c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where c.oid = pg_partition_root(r.oid)) end,
    'parents', case when r.relispartition then '[]' else (
      select coalesce(json_agg(n.nspname || '.' || c.relname order by i.inhseqno), '[]')
      from pg_inherits i join pg_class c on c.oid = i.inhparent join pg_namespace n on n.oid = c.relnamespace
      where i.inhrelid = r.oid) end,
    'columns', (
      select coalesce(json_agg(json_build_object(
        'name', a.attname,
        'type', format_type(a.atttypid, a.atttypmod),
        'baseType', case when tn.nspname = 'pg_catalog' then '' else tn.nspname || '.' end || t.typname,
        'collation', case when a.attcollation <> 0 then (
          select json_build_object(
            'name', case when cn.nspname = 'pg_catalog' then '' else cn.nspname || '.' end || l.collname,
            'isDeterministic', l.collisdeterministic,
            'isBytewise', case l.collprovider when 'd' then (select is_bytewise from this_database)
              when 'b' then true when 'c' then l.collcollate in ('C', 'POSIX') else false end)
          from pg_collation l join pg_namespace cn on cn.oid = l.collnamespace
          where l.oid = a.attcollation) end,
        'notNull', a.attnotnull,
        'default', case when a.attgenerated = '' then pg_get_expr(d.adbin, d.adrelid) end,
        'isNumbered', a.attidentity <> '' or coalesce(a.attgenerated = ''
          and pg_get_expr(d.adbin, d.adrelid) ~ '^nextval\\(', false),
        'isIdentity', a.attidentity <> '',
        'isGenerated', a.attgenerated <> ''
      ) order by a.attnum), '[]')
      from pg_attribute a
        join base_type b on b.oid = a.atttypid
        join pg_type t on t.oid = b.base
        join pg_namespace tn on tn.oid = t.typnamespace
        left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
      where a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped),
    'primaryKey', coalesce((
      select ${namesOf('r.oid', 'x.conkey')} from pg_constraint x
      where x.conrelid = r.oid and x.contype = 'p'), '[]'),
    'uniqueIndexes', coalesce((
      select json_agg(json_build_object(
        'name', ic.relname,
        'isPrimary', i.indisprimary,
        'columns', ${namesOf('r.oid', '(i.indkey::int2[])[0:i.indnkeyatts - 1]')},
        'where', pg_get_expr(i.indpred, i.indrelid)
      ) order by i.indisprimary desc, ic.relname)
      from pg_index i join pg_class ic on ic.oid = i.indexrelid
      where i.indrelid = r.oid and i.indisunique), '[]'),
    'foreignKeys', coalesce((
      select json_agg(json_build_object(
        'name', x.conname,
        'columns', ${namesOf('x.conrelid', 'x.conkey')},
        'refersTo', fn.nspname || '.' || fc.relname,
        'referredColumns', ${namesOf('x.confrelid', 'x.confkey')}
      ) order by x.conname)
      from pg_constraint x join pg_class fc on fc.oid = x.confrelid
        join pg_namespace fn on fn.oid = fc.relnamespace
      -- Those that a partition has from its root are told of there.
      where x.conrelid = r.oid and x.contype = 'f' and x.conparentid = 0), '[]')
  ) order by r.nspname, r.relname) from relation r), '[]')
) as schema`;
