/**
 * What `banyan doctor` has to say of sharding, while the deployment is up: whether the declaration fits the schema and
 * is in force on every shard; for a database that is not sharded, which declaration would fit.
 */
import type pg from 'pg';
import { openParser } from '../../app/database/route/parser.ts';
import { keyTypeOf } from '../../app/database/shards/declaration/placement.ts';
import { readSchema, type Schema } from '../../app/database/shards/declaration/schema.ts';
import { lockHolder } from '../../machines/lock.ts';
import type { CompleteTopology } from '../../topology/complete.ts';
import { recordOf } from '../database/context.ts';
import { resolveCopies } from '../database/copies/copies.ts';
import { shardUrls } from '../database/primary.ts';
import { withClient } from '../database/provision.ts';
import { checkDeclaration } from '../database/sharding/check.ts';
import { requireSame } from '../database/sharding/declare.ts';
import { guardsOf, isSame } from '../database/sharding/guards.ts';
import { type DeploymentPaths, existingDeployment } from '../deployment.ts';
import { crossingStatements, type SeenStatement } from './crossing.ts';
import type { Finding } from './examine.ts';
import { proposeSharding, type ShardingProposal, type TableUse } from './propose-sharding.ts';

const CHECK = 'sharding';
const MOST_STATEMENTS = 5;
const MOST_PROBLEMS = 12;
const STATEMENT_WIDTH = 100;

export async function examineSharding(
  paths: DeploymentPaths,
  { database }: CompleteTopology,
): Promise<Finding[]> {
  const deployment = existingDeployment(paths);
  const isUp = deployment && (await lockHolder(paths.lock));
  if (!isUp) return [];
  const urls = await shardUrls(deployment, database.url);
  const schemas = await Promise.all(urls.map(url => withClient(url, readSchema)));
  const isDeclared = Object.keys(database.tables).length > 0;
  if (!isDeclared) {
    return withClient(urls[0]!, client => examineUnsharded(client, schemas[0]!, urls.length));
  }
  requireSame(schemas);
  const problems = [
    ...checkDeclaration(database, schemas[0]!),
    ...resolveCopies(database, schemas[0]!).problems,
  ];
  const findings = problems.map(({ severity, table, what, remedy }) =>
    finding(
      // With one shard nothing goes wrong yet.
      urls.length > 1 ? severity : 'hint',
      `${table}: ${what}`,
      remedy,
    ),
  );
  if (urls.length > 1)
    findings.push(
      ...(await examineGuards(
        urls,
        database.tables,
        schemas[0]!,
        recordOf(deployment).sharding!.ranges,
      )),
    );
  findings.push(
    ...(await withClient(urls[0]!, client => examineStatements(client, database.tables))),
  );
  if (findings.length > 0) return limited(findings);
  const count = Object.keys(database.tables).length;
  const over = urls.length === 1 ? 'one shard' : `${urls.length} shards`;
  return [finding('ok', `${count === 1 ? 'one table' : `${count} tables`} over ${over}`)];
}

function finding(verdict: Finding['verdict'], detail: string, remedy?: string): Finding {
  return { check: CHECK, verdict, detail, ...(remedy ? { remedy } : {}) };
}

function limited(findings: Finding[]): Finding[] {
  const order = { failed: 0, warning: 1, hint: 2, ok: 3 };
  const sorted = findings.toSorted((a, b) => order[a.verdict] - order[b.verdict]);
  const rest = sorted.length - MOST_PROBLEMS;
  if (rest <= 0) return sorted;
  return [...sorted.slice(0, MOST_PROBLEMS), finding('hint', `and ${rest} more of such`)];
}

async function examineGuards(
  urls: string[],
  tables: CompleteTopology['database']['tables'],
  schema: Schema,
  ranges: { from: string; to: string }[],
): Promise<Finding[]> {
  const missing = await Promise.all(
    urls.map(async (url, shard) => {
      const guards = await withClient(url, guardsOf);
      return Object.entries(tables).flatMap(([name, declared]) => {
        const relation = schema.relations.find(each => `${each.schema}.${each.name}` === name);
        if (!relation || declared.kind !== 'sharded') return [];
        const column = relation.columns.find(each => each.name === declared.key);
        const keyType = column && keyTypeOf(column);
        const guard = guards.get(name);
        const guarded = { schema: relation.schema, name: relation.name, key: declared.key };
        if (guard && keyType && isSame(guard, { ...guarded, keyType }, ranges[shard]!)) return [];
        return [
          finding(
            'failed',
            `${name} is not guarded on shard ${shard + 1}: rows that belong elsewhere could be written`,
            'banyan down; banyan up',
          ),
        ];
      });
    }),
  );
  return missing.flat();
}

/** A database that is not sharded: what would fit, as a hint; nothing when nothing does. */
async function examineUnsharded(
  client: pg.Client,
  schema: Schema,
  shards: number,
): Promise<Finding[]> {
  const proposal = proposeSharding(schema, await usesOf(client));
  if (!proposal) return [];
  const findings = [
    finding(
      shards > 1 ? 'warning' : 'hint',
      shards > 1
        ? 'no table is declared: all rows are on the first shard'
        : 'one database; when it is to be many, this declaration fits best',
      describe(proposal),
    ),
    ...proposal.problems.map(({ table, what, remedy }) =>
      finding('hint', `for that, ${table}: ${what}`, remedy),
    ),
    ...(await examineStatements(client, proposal.declaration.tables)),
  ];
  return limited(findings);
}

/** As it is written into banyan.config.ts, on one line; and why the rest is not in it. */
export function describe({ declaration, reasons }: ShardingProposal): string {
  const short = (name: string) => name.replace(/^public\./, '');
  const quoted = (name: string) => (/^\w+$/.test(name) ? name : `'${name}'`);
  const tables = Object.entries(declaration.tables).map(([name, declared]) =>
    declared.kind === 'reference'
      ? `${quoted(short(name))}: 'reference'`
      : `${quoted(short(name))}: { shardBy: '${declared.key}' }`,
  );
  const unique = declaration.unique.map(name => `'${short(name)}'`);
  const left = Object.entries(reasons)
    .filter(([name]) => !declaration.tables[name])
    .map(([name, reason]) => `${short(name)}: ${reason}`);
  return [
    `database: { tables: { ${tables.join(', ')} }${unique.length > 0 ? `, unique: [${unique.join(', ')}]` : ''} }`,
    ...left,
  ].join('; ');
}

async function usesOf(client: pg.Client): Promise<Map<string, TableUse>> {
  const { rows } = await client.query<{
    name: string;
    rows: number;
    reads: number;
    writes: number;
  }>(
    `select schemaname || '.' || relname as name, n_live_tup::float8 as rows,
            (coalesce(seq_scan, 0) + coalesce(idx_scan, 0))::float8 as reads,
            (n_tup_ins + n_tup_upd + n_tup_del)::float8 as writes
     from pg_stat_user_tables`,
  );
  return new Map(rows.map(({ name, ...use }) => [name, use]));
}

/** From pg_stat_statements, when the database has it. */
async function seenStatements(client: pg.Client): Promise<SeenStatement[]> {
  const { rows: found } = await client.query<{ schema: string }>(
    `select n.nspname as schema from pg_extension e join pg_namespace n on n.oid = e.extnamespace
     where e.extname = 'pg_stat_statements'`,
  );
  if (!found[0]) return [];
  try {
    const { rows } = await client.query<SeenStatement>(
      `select query as text, calls::float8 as calls
       from "${found[0].schema.replaceAll('"', '""')}".pg_stat_statements s
         join pg_database d on d.oid = s.dbid and d.datname = current_database()
       where s.toplevel order by total_exec_time desc limit 500`,
    );
    return rows;
  } catch {
    // It is installed and not loaded into the server.
    return [];
  }
}

async function examineStatements(
  client: pg.Client,
  tables: CompleteTopology['database']['tables'],
): Promise<Finding[]> {
  const statements = await seenStatements(client);
  if (statements.length === 0) return [];
  const crossing = crossingStatements(statements, { tables }, await openParser());
  return crossing.slice(0, MOST_STATEMENTS).map(({ text, calls, tables: names }) => {
    const line = text.replace(/\s+/g, ' ').trim();
    const shown = line.length > STATEMENT_WIDTH ? `${line.slice(0, STATEMENT_WIDTH - 1)}…` : line;
    return finding(
      'hint',
      `asks every shard (${calls} calls): ${shown}`,
      `Name the shard key of ${names.join(', ')} in it, where it is known`,
    );
  });
}
