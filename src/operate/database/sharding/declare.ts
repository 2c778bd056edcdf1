/**
 * Puts a declaration in force: checks it against the schema of every shard, guards the tables, and writes down that
 * it holds. Whoever calls it publishes the map then.
 *
 * Holds true here:
 * - The map never says of a table what its rows do not bear out: what was sharded has its rows where they belong
 *   (the guard looked at all of them), the copies of a reference table are equal, and a table that is sharded no
 *   more has no rows that the first shard does not.
 * - It may be done again at any time, and does nothing then.
 */
import { keyTypeOf } from '../../../app/database/shards/declaration/placement.ts';
import {
  qualifiedName,
  type Relation,
  readSchema,
  type Schema,
} from '../../../app/database/shards/declaration/schema.ts';
import { BanyanError } from '../../../errors.ts';
import { readRuntimeMap } from '../../../map/map-file.ts';
import type { Member, RuntimeMap } from '../../../map/runtime-map.ts';
import { changeMap } from '../../change-map.ts';
import type { Deployment } from '../../deployment.ts';
import { recordOf } from '../context.ts';
import { resolveCopies } from '../copies/copies.ts';
import { withClient } from '../provision.ts';
import { type DatabaseRecord, type Sharding, writeDatabaseRecord } from '../record.ts';
import type { ShardDeclaration } from '../shape.ts';
import { checkDeclaration, type DeclarationProblem } from './check.ts';
import { type Guarded, guardShard } from './guards.ts';
import { keepUnique, type Online } from './unique.ts';

export class DeclarationRefused extends BanyanError {
  readonly problems: DeclarationProblem[];

  constructor(problems: DeclarationProblem[]) {
    const lines = problems.map(({ table, what, remedy }) => `\n  ${table}: ${what}. ${remedy}`);
    super('DECLARATION_REFUSED', {
      what: `The tables cannot be spread over the shards as declared:${lines.join('')}\n`,
      where: 'database.tables',
      remedy: 'Correct the schema or the declaration, and run the command again',
    });
    this.problems = problems;
  }
}

export class SchemasDiffer extends BanyanError {
  constructor(shard: number, relation: string) {
    super('SCHEMAS_DIFFER', {
      what: `${relation} is not the same on shard ${shard + 1} as on the first`,
      where: `shard ${shard + 1}`,
      remedy:
        'A migration that was made by hand on one shard has to be made on the others too: see `database.json` in .banyan for where they are',
    });
  }
}

export class CopiesDiffer extends BanyanError {
  constructor(table: string, shard: number) {
    super('COPIES_DIFFER', {
      what: `${table} cannot be a reference table: its rows on shard ${shard + 1} are not those of the first`,
      where: 'database.tables',
      remedy:
        'This version does not copy rows between shards. Declare the table before it has rows, or make its copies equal; a migration that fills it has to give the same rows each time (no now(), no random())',
    });
  }
}

export class RowsLeftBehind extends BanyanError {
  constructor(table: string, shard: number) {
    super('ROWS_LEFT_BEHIND', {
      what: `${table} cannot be taken out of the declaration: it has rows on shard ${shard + 1}, which nobody would see any more`,
      where: 'database.tables',
      remedy: 'Leave it declared as it was. This version does not move rows between shards',
    });
  }
}

/**
 * @param urls the owner's, to the primary of each shard in the map's order
 * @returns what was done, for people; undefined when nothing was
 * @throws DeclarationRefused, SchemasDiffer, MisplacedRows, CopiesDiffer, RowsLeftBehind
 */
export async function declare(
  deployment: Deployment,
  urls: string[],
  declaration: ShardDeclaration,
  online?: Online,
): Promise<string | undefined> {
  const record = recordOf(deployment);
  const { ranges } = record.sharding ?? { ranges: [] };
  const { tables, denormalize = {} } = declaration;
  const isDeclared = Object.keys(tables).length > 0;
  const hasCopies = Object.keys(denormalize).length > 0;
  if (!record.sharding && !isDeclared && !hasCopies) return undefined;
  let guarded = 0;
  if (ranges.length > 1) guarded = await placeTables(urls, record.sharding!, declaration, online);
  if (hasCopies) await requireCopies(urls[0]!, declaration);
  await writeSharding(deployment, record, declaration);
  return guarded === 0 ? undefined : `${guarded} ${guarded === 1 ? 'table' : 'tables'} guarded`;
}

/** The same while the application runs: it is told through the map. */
export async function declareOnline(
  deployment: Deployment,
  urls: string[],
  declaration: ShardDeclaration,
): Promise<string | undefined> {
  const { map: file } = deployment.paths;
  const before = readRuntimeMap(file).database.unique ?? [];
  const done = await declare(deployment, urls, declaration, {
    before,
    announce: (unique, filling) =>
      publishDeclaration(file, database => ({
        ...database,
        // A column of a table that is sharded from now on: its rows were looked at.
        tables: { ...database.tables, ...declaration.tables },
        unique: [...unique],
        uniqueFilling: [...filling],
      })),
  });
  await publishDeclaration(file, database => {
    const {
      tables: _tables,
      unique: _unique,
      uniqueFilling: _filling,
      denormalize: _copies,
      ...rest
    } = database;
    return { ...rest, ...declarationOfMap(recordOf(deployment)) };
  });
  return done;
}

async function publishDeclaration(
  file: string,
  change: (database: RuntimeMap['database']) => RuntimeMap['database'],
): Promise<void> {
  await changeMap(file, map => ({ ...map, database: change(map.database) }));
}

/** @returns how many tables were guarded anew */
async function placeTables(
  urls: string[],
  { ranges, tables: before }: Sharding,
  { tables, unique }: ShardDeclaration,
  online: Online | undefined,
): Promise<number> {
  const schemas = await Promise.all(urls.map(url => withClient(url, readSchema)));
  requireSame(schemas);
  const schema = schemas[0]!;
  const problems = checkDeclaration({ tables, unique }, schema);
  const failed = problems.filter(({ severity }) => severity === 'failed');
  if (failed.length > 0) throw new DeclarationRefused(failed);
  const relations = new Map(schema.relations.map(each => [qualifiedName(each), each]));
  for (const [name, relation] of relations) {
    const isNewReference = tables[name]?.kind === 'reference' && before[name]?.kind !== 'reference';
    if (isNewReference) await requireEqualCopies(urls, relation);
    if (before[name]?.kind === 'sharded' && !tables[name]) await requireNoRows(urls, relation);
  }
  const guarded = Object.entries(tables).flatMap(([name, declared]): Guarded[] => {
    const relation = relations.get(name);
    if (!relation || declared.kind !== 'sharded') return [];
    const { key } = declared;
    const keyType = keyTypeOf(relation.columns.find(column => column.name === key)!)!;
    return [{ schema: relation.schema, name: relation.name, key, keyType }];
  });
  const changed = await Promise.all(
    urls.map((url, shard) =>
      withClient(url, client => guardShard(client, shard, ranges[shard]!, guarded)),
    ),
  );
  const shards = ranges.map((range, shard) => ({ id: String(shard + 1), range, members: [] }));
  await keepUnique(urls, { name: '', shards, tables, unique }, schema, online);
  return new Set(changed.flat()).size;
}

async function writeSharding(
  deployment: Deployment,
  record: DatabaseRecord,
  { tables, unique, denormalize = {} }: ShardDeclaration,
): Promise<void> {
  const { ranges } = record.sharding ?? { ranges: [WHOLE] };
  const copies = Object.keys(denormalize).length > 0 ? { denormalize } : {};
  const sharding: Sharding = { ranges, tables, unique, ...copies };
  await writeDatabaseRecord(deployment, { ...record, sharding });
}

/** Copies are filled and kept once the map says of them: see `../copies`. */
async function requireCopies(
  url: string,
  { tables, unique, denormalize = {} }: ShardDeclaration,
): Promise<void> {
  const schema = await withClient(url, readSchema);
  const { problems } = resolveCopies({ tables, unique, denormalize }, schema);
  const failed = problems.filter(({ severity }) => severity === 'failed');
  if (failed.length > 0) throw new DeclarationRefused(failed);
}

const WHOLE = { from: String(-(2n ** 63n)), to: String(2n ** 63n - 1n) };

/** @throws SchemasDiffer */
export function requireSame(schemas: Schema[]): void {
  const [first, ...others] = schemas.map(
    ({ relations }) =>
      new Map(relations.map(relation => [qualifiedName(relation), JSON.stringify(relation)])),
  );
  for (const [index, other] of others.entries()) {
    for (const name of new Set([...first!.keys(), ...other.keys()])) {
      if (first!.get(name) !== other.get(name)) throw new SchemasDiffer(index + 1, name);
    }
  }
}

async function requireEqualCopies(urls: string[], relation: Relation): Promise<void> {
  const table = sqlName(relation);
  const sums = await Promise.all(
    urls.map(url =>
      withClient(url, async client => {
        const { rows } = await client.query<{ sum: string }>(
          `select count(*) || '/' || coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) as sum from ${table} t`,
        );
        return rows[0]!.sum;
      }),
    ),
  );
  const differs = sums.findIndex(sum => sum !== sums[0]);
  if (differs >= 0) throw new CopiesDiffer(qualifiedName(relation), differs);
}

async function requireNoRows(urls: string[], relation: Relation): Promise<void> {
  for (const [shard, url] of urls.entries()) {
    if (shard === 0) continue;
    const found = await withClient(url, client =>
      client.query(`select from ${sqlName(relation)} limit 1`),
    );
    if (found.rowCount) throw new RowsLeftBehind(qualifiedName(relation), shard);
  }
}

function sqlName({ schema, name }: Relation): string {
  return [schema, name].map(part => `"${part.replaceAll('"', '""')}"`).join('.');
}

/** The map's part that says where rows are. */
export function databaseOfMap(
  record: DatabaseRecord,
  name: string,
  members: Member[][],
): Pick<RuntimeMap['database'], 'name' | 'shards' | 'tables' | 'unique' | 'denormalize'> {
  const { ranges = [] } = record.sharding ?? {};
  return {
    name,
    shards: members.map((each, shard) => ({
      id: String(shard + 1),
      ...(members.length > 1 ? { range: ranges[shard]! } : {}),
      members: each,
    })),
    ...declarationOfMap(record),
  };
}

function declarationOfMap({ sharding }: DatabaseRecord): Partial<ShardDeclaration> {
  const { tables = {}, unique = [], denormalize = {} } = sharding ?? {};
  return {
    ...(Object.keys(tables).length > 0 ? { tables } : {}),
    ...(unique.length > 0 ? { unique } : {}),
    ...(Object.keys(denormalize).length > 0 ? { denormalize } : {}),
  };
}
