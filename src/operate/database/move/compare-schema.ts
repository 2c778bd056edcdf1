/**
 * Compares two schemas by what the catalogs say of them, in words that are the same in all versions. A table that a
 * migration made in the middle of a move is found here, and so is what `pg_dump` could not carry over.
 */
import { BanyanError } from '../../../errors.ts';
import type { Queryable } from './movable.ts';

export class SchemasDiffer extends BanyanError {
  constructor(differences: string[]) {
    const some = differences.slice(0, 5).join('; ');
    const more = differences.length > 5 ? `; and ${differences.length - 5} more` : '';
    super('SCHEMAS_DIFFER', {
      what: `The copy's schema is not that of the original: ${some}${more}`,
      where: 'the copy of the database',
      remedy:
        'Nothing was switched; the database that serves goes on. When a migration ran meanwhile, try again without one',
    });
  }
}

const OURS = `n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast') and n.nspname not like 'pg\\_temp%' and n.nspname not like 'pg\\_toast%'`;
const NOT_OF_AN_EXTENSION = (id: string, catalog: string) =>
  `not exists (select from pg_depend d where d.objid = ${id} and d.classid = '${catalog}'::regclass and d.deptype = 'e')`;

/** Each gives one line for each thing. */
const DESCRIPTIONS = [
  `select format('%s %I.%I', case c.relkind when 'r' then 'table' when 'p' then 'partitioned table' when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence' else c.relkind::text end, n.nspname, c.relname)
   from pg_class c join pg_namespace n on n.oid = c.relnamespace
   where ${OURS} and c.relkind in ('r', 'p', 'v', 'm', 'S', 'f') and ${NOT_OF_AN_EXTENSION('c.oid', 'pg_class')}`,
  `select format('column %I.%I.%I %s%s%s', n.nspname, c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
          case when a.attnotnull then ' not null' else '' end, case a.attidentity when '' then '' else ' identity' end)
   from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
   where ${OURS} and c.relkind in ('r', 'p') and a.attnum > 0 and not a.attisdropped and ${NOT_OF_AN_EXTENSION('c.oid', 'pg_class')}`,
  `select format('index %I on %I.%I', i.relname, n.nspname, c.relname)
   from pg_index x join pg_class i on i.oid = x.indexrelid join pg_class c on c.oid = x.indrelid
   join pg_namespace n on n.oid = c.relnamespace where ${OURS} and x.indisvalid and ${NOT_OF_AN_EXTENSION('c.oid', 'pg_class')}`,
  `select format('constraint %I of %I.%I (%s)', k.conname, n.nspname, c.relname, k.contype)
   from pg_constraint k join pg_class c on c.oid = k.conrelid join pg_namespace n on n.oid = c.relnamespace
   where ${OURS} and k.contype <> 'n' and ${NOT_OF_AN_EXTENSION('c.oid', 'pg_class')}`,
  `select format('trigger %I on %I.%I', t.tgname, n.nspname, c.relname)
   from pg_trigger t join pg_class c on c.oid = t.tgrelid join pg_namespace n on n.oid = c.relnamespace
   where ${OURS} and not t.tgisinternal`,
  `select format('function %I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
   from pg_proc p join pg_namespace n on n.oid = p.pronamespace where ${OURS} and ${NOT_OF_AN_EXTENSION('p.oid', 'pg_proc')}`,
  `select format('type %I.%I', n.nspname, t.typname)
   from pg_type t join pg_namespace n on n.oid = t.typnamespace
   where ${OURS} and t.typtype in ('e', 'd', 'r') and ${NOT_OF_AN_EXTENSION('t.oid', 'pg_type')}`,
  `select format('policy %I on %s', p.polname, p.polrelid::regclass) from pg_policy p`,
  `select format('extension %I', extname) from pg_extension`,
  `select format('default of %I.%I.%I', n.nspname, c.relname, a.attname)
   from pg_attrdef d join pg_class c on c.oid = d.adrelid join pg_namespace n on n.oid = c.relnamespace
   join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum where ${OURS}`,
];

/** @throws SchemasDiffer */
export async function requireSameSchema(source: Queryable, target: Queryable): Promise<void> {
  const [one, two] = await Promise.all([describe(source), describe(target)]);
  const differences = [
    ...[...one].filter(line => !two.has(line)).map(line => `${line} is missing`),
    ...[...two].filter(line => !one.has(line)).map(line => `${line} is there and should not`),
  ];
  if (differences.length > 0) throw new SchemasDiffer(differences);
}

async function describe(side: Queryable): Promise<Set<string>> {
  const lines = new Set<string>();
  for (const text of DESCRIPTIONS) {
    const { rows } = await side.query({ text, rowMode: 'array' });
    for (const [line] of rows as unknown as string[][]) lines.add(line!);
  }
  return lines;
}
