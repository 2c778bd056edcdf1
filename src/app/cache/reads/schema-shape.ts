/**
 * What a name in a query leads to: views to the tables below them, functions to nobody knows what.
 *
 * Holds true here: one query, so one moment. What is made later is not known, and a query that names it is not kept.
 */

export interface Relation {
  readonly schema: string;
  readonly name: string;
  /** `pg_class.relkind`. */
  readonly kind: string;
  /** What is read when it is read: itself, or the tables below a view, as `schema.table`. */
  readonly tables: readonly string[];
  /** A function is called on the way, or a policy decides: what is read then is not known. */
  readonly readsAnything: boolean;
}

/** Of the relations that were made in the database; `kind` decides. */
interface Row {
  oid: number;
  schema: string;
  name: string;
  kind: string;
  /** Row security, or tables that inherit from it. */
  hidden: boolean;
}

interface Data {
  path: string[];
  relations: Row[];
  /** A view, and a relation that it reads. */
  uses: [view: number, used: number][];
  /** Views that call a function of the user's. */
  calling: number[];
  functions: string[];
  operators: string[];
}

/** FirstNormalObjectId: what is below came with the server. */
const FIRST_USER_OID = 16_384;

export const SHAPE_QUERY = `
with used as (
  select r.ev_class as view, d.refclassid, d.refobjid
  from pg_rewrite r join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
  where r.ev_type = '1' and d.refobjid <> r.ev_class
)
select json_build_object(
  'path', (select coalesce(json_agg(s), '[]') from unnest(current_schemas(true)) as s),
  'relations', (
    select coalesce(json_agg(json_build_object('oid', c.oid::int8, 'schema', n.nspname, 'name', c.relname,
      'kind', c.relkind::text, 'hidden', c.relrowsecurity or
        (c.relkind = 'r' and exists (select from pg_inherits i where i.inhparent = c.oid)))), '[]')
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'v', 'm', 'f') and n.nspname !~ '^pg_(toast|temp)'),
  'uses', (select coalesce(json_agg(distinct jsonb_build_array(view::int8, refobjid::int8)), '[]')
    from used where refclassid = 'pg_class'::regclass),
  'calling', (select coalesce(json_agg(distinct view::int8), '[]')
    from used where refclassid in ('pg_proc'::regclass, 'pg_operator'::regclass)
      and refobjid >= ${FIRST_USER_OID}),
  'functions', (select coalesce(json_agg(distinct proname), '[]')
    from pg_proc where oid >= ${FIRST_USER_OID} and provolatile <> 'i'),
  'operators', (select coalesce(json_agg(distinct o.oprname), '[]')
    from pg_operator o join pg_proc p on p.oid = o.oprcode
    where o.oid >= ${FIRST_USER_OID} and p.provolatile <> 'i')
)::text as shape`;

export class SchemaShape {
  readonly #path: readonly string[];
  readonly #relations = new Map<string, Relation>();
  /** Names of the user's functions that are not immutable. */
  readonly functions: ReadonlySet<string>;
  readonly operators: ReadonlySet<string>;

  /** @param text what the query gave */
  constructor(text: string) {
    const data = JSON.parse(text) as Data;
    this.#path = data.path;
    this.functions = new Set(data.functions);
    this.operators = new Set(data.operators);
    const rows = new Map(data.relations.map(row => [row.oid, row]));
    const uses = new Map<number, number[]>();
    for (const [view, used] of data.uses) uses.set(view, [...(uses.get(view) ?? []), used]);
    const calling = new Set(data.calling);
    for (const row of data.relations) {
      const tables = new Set<string>();
      let readsAnything = false;
      const seen = new Set<number>();
      const look = (oid: number) => {
        const found = rows.get(oid);
        if (!found || seen.has(oid)) return;
        seen.add(oid);
        if (found.hidden || calling.has(oid)) readsAnything = true;
        if (found.kind === 'v') for (const used of uses.get(oid) ?? []) look(used);
        else tables.add(`${found.schema}.${found.name}`);
      };
      look(row.oid);
      const { schema, name, kind } = row;
      this.#relations.set(`${schema}.${name}`, {
        schema,
        name,
        kind,
        tables: [...tables],
        readsAnything,
      });
    }
  }

  relation(schema: string | undefined, name: string): Relation | undefined {
    if (schema !== undefined) return this.#relations.get(`${schema}.${name}`);
    for (const candidate of this.#path) {
      const found = this.#relations.get(`${candidate}.${name}`);
      if (found) return found;
    }
    return undefined;
  }
}

/** Its contents change only with the schema, of which the log says nothing. */
export function isSystem(schema: string): boolean {
  return schema === 'pg_catalog' || schema === 'information_schema';
}
