/**
 * The query that reads from a database what `classify` has to know of it.
 *
 * Holds true here:
 * - One statement, so one snapshot: what it says of functions, views and tables is of one moment.
 * - It takes no lock on what it reads about: views and policies are judged by their stored trees, in which
 *   every function, operator and relation is an OID, and not by `pg_get_viewdef`, which would wait for a
 *   migration that alters a table below.
 * - What has an OID below 16384 came with `initdb` and does not change: it is read once (`part`).
 * - Its order is fixed, so that the same contents give the same text.
 *
 * Why stored trees: `pg_depend` leaves out what came with the system (a view that calls `nextval` does not
 * depend on it), and a definition's text would have to be resolved again, and could be resolved otherwise.
 */
import pg from 'pg';
import { HARMLESS, NOT_ALIKE } from './builtins.ts';

/** FirstNormalObjectId, src/include/access/transam.h. */
const FIRST_USER_OID = 16_384;

/** Names of one kind that a schema holds. */
export type KnownNames = Record<string, string[]>;

/** An object to be careful with: `maximum` arguments, -1 for any number, and what is the matter with it. */
export type Unsafe = [schema: string, name: string, minimum: number, maximum: number, why: string];

/** `trouble` is null for what every standby can read. */
export type RelationRow = [
  oid: number,
  schema: string,
  name: string,
  kind: string,
  trouble: [kind: string, text: string] | null,
];

export interface CatalogData {
  searchPath: string[];
  functions: KnownNames;
  unsafeFunctions: Unsafe[];
  operators: KnownNames;
  unsafeOperators: Unsafe[];
  types: KnownNames;
  unsafeTypes: Unsafe[];
  relations: RelationRow[];
  /** Functions that `row.name` may call. */
  unsafeRowFunctions: string[];
  /** An implicit cast of which no trace is left in a text; null when there is none to be careful with. */
  unsafeImplicitCast: string | null;
}

/**
 * The query's text. Its result is the last of two: the planner overestimates the query so much that it would
 * compile it, which takes longer than running it (measured on 15: 320 ms, and 160 without), so that is turned
 * off first. Two statements in one text are one transaction.
 * @param part what came with the server, or what was made in it since
 * @param builtinTrouble relations that came with the server and are known to be trouble, for the second
 */
export function catalogQuery(
  part: 'builtin' | 'user',
  builtinTrouble: readonly RelationRow[] = [],
): string {
  const isOfPart = (oid: string) => `${oid} ${part === 'builtin' ? '<' : '>='} ${FIRST_USER_OID}`;
  return `set local jit = off;
with recursive
-- An aggregate is always marked immutable; what it runs may not be.
volatile_aggregate as materialized (
  select distinct a.aggfnoid::oid as oid
  from pg_aggregate a, unnest(array[a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn,
      a.aggdeserialfn, a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn]::oid[]) as part(oid)
    join pg_proc p on p.oid = part.oid
  where p.provolatile = 'v'
),
own_volatility as materialized (
  select p.oid, n.nspname, p.proname, p.pronargs, p.pronargdefaults, p.provariadic, p.proargtypes,
    n.nspname = 'pg_catalog' and p.oid < ${FIRST_USER_OID} as builtin,
    p.provolatile = 'v' or v.oid is not null as volatile
  from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    left join volatile_aggregate v on v.oid = p.oid
  where p.prokind in ('f', 'a', 'w')
    and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
),
judged as materialized (
  select *, case
      when builtin then (volatile and proname <> all (${texts(HARMLESS)})) or proname = any (${texts(NOT_ALIKE.names)}) or proname ~ ${text(NOT_ALIKE.pattern)}
      else volatile
    end as unsafe
  from own_volatility
),
-- Domains whose checks, types whose input and casts whose function are to be treated with care; then
-- what is made of them: domains over domains, arrays, ranges, rows.
unsafe_type(oid, why) as (
  select oid, min(why) from (
    select c.contypid as oid, 'its check calls ' || j.proname as why
    from pg_constraint c, regexp_matches(c.conbin::text, ':(?:funcid|opfuncid) (\\d+)', 'g') m
      join judged j on j.oid = m[1]::oid
    where c.contypid <> 0 and j.unsafe
    union all
    select t.oid, 'its input calls ' || j.proname
    from pg_type t join judged j on j.oid = t.typinput where j.unsafe
    union all
    select c.casttarget, 'a cast to it calls ' || j.proname
    from pg_cast c join judged j on j.oid = c.castfunc where j.unsafe
  ) seed group by oid
  union
  select part.oid, unsafe_type.why
  from unsafe_type join (
    select oid, typbasetype as of from pg_type where typbasetype <> 0
    union all select oid, typelem from pg_type where typelem <> 0 and typcategory = 'A'
    union all select rngtypid, rngsubtype from pg_range
    union all select c.reltype, a.atttypid from pg_attribute a join pg_class c on c.oid = a.attrelid
      where a.attnum > 0 and c.reltype <> 0 and a.atttypid >= ${FIRST_USER_OID}
  ) part on part.of = unsafe_type.oid
),
unsafe_function as materialized (
  select judged.*, 'is volatile' as why from judged where unsafe
  union all
  select judged.*, 'takes a type of which ' || (
      select min(t.why) from unsafe_type t where t.oid = any (judged.proargtypes::oid[]))
  from judged
  where not unsafe and judged.oid >= ${FIRST_USER_OID}
    and exists (select from unsafe_type t where t.oid = any (judged.proargtypes::oid[]))
),
unsafe_operator as (
  select o.oid, n.nspname, o.oprname, (o.oprleft <> 0)::int + 1 as arguments, f.proname
  from pg_operator o join pg_namespace n on n.oid = o.oprnamespace
    join unsafe_function f on f.oid = o.oprcode
),
shown as materialized (
  select c.oid, n.nspname, c.relname, c.relkind, c.relpersistence
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') and n.nspname !~ '^pg_(toast|temp|toast_temp)'
    and ${isOfPart('c.oid')}
),
tree as (
  select r.ev_class as rel, format('the view %s.%s', nspname, relname) as label,
    r.ev_action::text as body
  from pg_rewrite r join shown on shown.oid = r.ev_class
  where r.ev_type = '1' and shown.relkind = 'v'
  union all
  select p.polrelid, format('the policy %s on %s.%s', p.polname, shown.nspname, shown.relname), p.polqual::text
  from pg_policy p join shown on shown.oid = p.polrelid join pg_class c on c.oid = p.polrelid
  where c.relrowsecurity and p.polcmd in ('r', '*') and p.polqual is not null
),
mention as materialized (
  select tree.rel, tree.label, m[1] as field, m[2]::oid as oid
  from tree, regexp_matches(tree.body,
    ':(funcid|opno|aggfnoid|winfnoid|relid|resulttype) (\\d+)', 'g') m
),
-- What a read of the first goes on to read.
edge as (
  select rel as reader, oid as read from mention where field = 'relid' and oid <> rel
  union select inhparent, inhrelid from pg_inherits
),
trouble(rel, kind, why) as (
  select origin.rel, origin.kind, origin.why from (
    select oid as rel, 'unlogged' as kind, format('%s.%s is unlogged', nspname, relname) as why
    from shown where relpersistence = 'u'
    union all
    select oid, 'foreign', format('%s.%s is a foreign table', nspname, relname)
    from shown where relkind = 'f'
    union all
    select oid, 'sequence', format('%s.%s is a sequence', nspname, relname)
    from shown where relkind = 'S'
    union all
    -- No view that comes with the server writes; they tell of it.
    select mention.rel,
      case when mention.rel < ${FIRST_USER_OID} then 'server-state' else 'volatile-function' end,
      format('%s calls %s', label, called.name)
    from mention join (
      select oid, proname as name, array['funcid', 'aggfnoid', 'winfnoid'] as fields
      from unsafe_function
      union all select oid, proname, array['opno'] from unsafe_operator
      union all select oid, format_type(oid, null), array['resulttype'] from unsafe_type
    ) called on called.oid = mention.oid and mention.field = any (called.fields)
    union all
    -- FOR UPDATE in a view's own query.
    select rel, 'locks-rows', label || ' locks rows'
    from tree where body like '%{ROWMARKCLAUSE %'
    union all
    select * from unnest(
      array[${builtinTrouble.map(([oid]) => oid).join(', ')}]::oid[],
      ${texts(builtinTrouble.map(([, , , , trouble]) => trouble?.[0]))},
      ${texts(builtinTrouble.map(([, , , , trouble]) => trouble?.[1]))})
  ) origin
  union
  select edge.reader, trouble.kind, trouble.why
  from trouble join edge on edge.read = trouble.rel
)
select json_build_object(
  'searchPath', (
    select coalesce(json_agg(s order by i), '[]')
    from unnest(current_schemas(true)) with ordinality as path(s, i) where s !~ '^pg_temp'),
  'functions', (
    select coalesce(json_object_agg(nspname, names order by nspname), '{}') from (
      select nspname, json_agg(distinct proname::text order by proname::text) as names
      from judged where ${isOfPart('oid')} group by nspname) s),
  'unsafeFunctions', (
    select coalesce(json_agg(distinct jsonb_build_array(nspname, proname, pronargs - pronargdefaults,
      case when provariadic <> 0 then -1 else pronargs end, why)), '[]')
    from unsafe_function where ${isOfPart('oid')}),
  'operators', (
    select coalesce(json_object_agg(nspname, names order by nspname), '{}') from (
      select n.nspname, json_agg(distinct o.oprname::text order by o.oprname::text) as names
      from pg_operator o join pg_namespace n on n.oid = o.oprnamespace
      where ${isOfPart('o.oid')} group by n.nspname) s),
  'unsafeOperators', (
    select coalesce(json_agg(distinct jsonb_build_array(nspname, oprname, arguments, arguments,
      'calls ' || proname)), '[]')
    from unsafe_operator where ${isOfPart('oid')}),
  'types', (
    select coalesce(json_object_agg(nspname, names order by nspname), '{}') from (
      select n.nspname, json_agg(t.typname::text order by t.typname::text) as names
      from pg_type t join pg_namespace n on n.oid = t.typnamespace
      where ${isOfPart('t.oid')} and (t.typrelid = 0 or exists (
          select from pg_class c where c.oid = t.typrelid and c.relkind <> 'S'))
        and n.nspname !~ '^pg_(toast|temp|toast_temp)'
      group by n.nspname) s),
  'unsafeTypes', (
    select coalesce(json_agg(distinct jsonb_build_array(n.nspname, t.typname, 0, 0, u.why)), '[]')
    from unsafe_type u join pg_type t on t.oid = u.oid join pg_namespace n on n.oid = t.typnamespace
    where ${isOfPart('t.oid')}),
  'relations', (
    select coalesce(json_agg(json_build_array(oid::int8, nspname, relname, relkind::text, (
        select json_build_array(kind, why) from trouble
        where trouble.rel = shown.oid
        -- The worst first: what leaves something behind, last what an option allows.
        order by array_position(array['volatile-function', 'sequence', 'locks-rows', 'unlogged',
          'server-state', 'foreign'], kind), why
        limit 1)
      ) order by nspname, relname), '[]')
    from shown),
  'unsafeRowFunctions', (
    select coalesce(json_agg(distinct f.proname), '[]')
    from unsafe_function f join pg_type t on t.oid = f.proargtypes[0]
    where f.oid >= ${FIRST_USER_OID} and f.pronargs - f.pronargdefaults <= 1
      and t.typtype in ('c', 'd', 'p')),
  'unsafeImplicitCast', (
    select min(format('%s to %s by %s', format_type(c.castsource, null),
      format_type(c.casttarget, null), f.proname))
    from pg_cast c join unsafe_function f on f.oid = c.castfunc where c.castcontext = 'i')
)::text as catalog`;
}

const text = (value: string | undefined) =>
  value === undefined ? 'null' : pg.escapeLiteral(value);
const texts = (values: readonly (string | undefined)[]) =>
  `array[${values.map(text).join(', ')}]::text[]`;
