/**
 * The planner's placement, made of the declaration and of what else the catalog says: views' queries, names of
 * aggregates, sequences of identity columns.
 */
import type pg from 'pg';
import type {
  Placement as Declared,
  PlacedTable as DeclaredTable,
} from '../declaration/placement.ts';
import type { Column } from '../declaration/schema.ts';
import {
  familyOf,
  type KeyFamily,
  type PlacedColumn,
  type PlacedTable,
  type Placement,
} from './placement.ts';

/** What the declaration does not tell. */
export interface PlannerCatalog {
  /** Their queries, by `schema.view`. */
  readonly views: ReadonlyMap<string, string>;
  readonly aggregates: ReadonlySet<string>;
  /** Of identity columns, by `schema.table.column`. */
  readonly identities: ReadonlyMap<string, { readonly next: string; readonly isAlways: boolean }>;
}

/** Reads stored definitions; it waits for nobody but who alters a view. */
export async function readPlannerCatalog(
  source: Pick<pg.ClientBase, 'query'>,
): Promise<PlannerCatalog> {
  const { rows } = await source.query<{
    views: [string, string][];
    aggregates: string[];
    identities: [string, string, boolean][];
  }>(QUERY);
  const [row] = rows;
  return {
    views: new Map(row!.views),
    aggregates: new Set(row!.aggregates),
    identities: new Map(
      row!.identities.map(([column, next, isAlways]) => [column, { next, isAlways }]),
    ),
  };
}

const QUERY = `select
  (select coalesce(json_agg(json_build_array(n.nspname || '.' || c.relname, pg_get_viewdef(c.oid))), '[]')
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('v', 'm') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema') as views,
  (select json_agg(distinct proname) from pg_proc where prokind = 'a') as aggregates,
  (select coalesce(json_agg(json_build_array(n.nspname || '.' || c.relname || '.' || a.attname,
      format('nextval(%L::regclass)', pg_get_serial_sequence(format('%I.%I', n.nspname, c.relname), a.attname)),
      a.attidentity = 'a')), '[]')
    from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
    where a.attidentity <> '' and not a.attisdropped and c.relkind in ('r', 'p')
      and n.nspname !~ '^pg_') as identities`;

const SYSTEM_SCHEMAS = new Set(['pg_catalog', 'information_schema', 'banyan']);

/** @param version differs whenever one of the two does */
export function placementOf(
  declared: Declared,
  catalog: PlannerCatalog,
  version: number,
): Placement {
  const known = new Map<DeclaredTable, PlacedTable>();
  return {
    version,
    shards: declared.count,
    table(schema, name) {
      const table = declared.tableOf(schema, name);
      if (table) {
        let placed = known.get(table);
        if (!placed) {
          placed = place(table, catalog);
          known.set(table, placed);
        }
        return placed;
      }
      const isSystem = schema === undefined ? /^pg_/.test(name) : SYSTEM_SCHEMAS.has(schema);
      return isSystem
        ? { schema: schema ?? 'pg_catalog', name, kind: 'system', columns: [], primaryKey: [] }
        : undefined;
    },
    isAggregate: name => catalog.aggregates.has(name),
    shardOf: (family, value) => declared.shardOf(KEY_TYPE[family], value),
  };
}

/** Values of one family have the same hash, so the widest type stands for all. */
const KEY_TYPE = { integer: 'int8', text: 'text', uuid: 'uuid' } as const;

function place(table: DeclaredTable, catalog: PlannerCatalog): PlacedTable {
  const name = `${table.schema}.${table.name}`;
  const definition = catalog.views.get(name);
  const isView = table.kind === 'view' || table.kind === 'materialized view';
  return {
    schema: table.schema,
    name: table.name,
    kind: isView && table.placement === 'home' ? 'view' : table.placement,
    ...(table.key ? { key: table.key.name } : {}),
    columns: table.columns.map(column => placeColumn(column, name, catalog)),
    primaryKey: table.primaryKey,
    ...(table.copies.length > 0 ? { copies: table.copies } : {}),
    ...(definition === undefined ? {} : { definition }),
  };
}

function placeColumn(column: Column, table: string, catalog: PlannerCatalog): PlacedColumn {
  const identity = catalog.identities.get(`${table}.${column.name}`);
  return {
    name: column.name,
    type: column.type,
    family: hashFamily(column),
    default: identity?.next ?? column.default,
    ...(identity?.isAlways ? { isAlwaysIdentity: true } : {}),
    ...(column.isGenerated ? { isGenerated: true } : {}),
  };
}

function hashFamily({ baseType, collation }: Column): KeyFamily | undefined {
  return collation && !collation.isDeterministic ? undefined : familyOf(baseType);
}
