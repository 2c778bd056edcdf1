/**
 * Whether a declaration fits a schema: what would give wrong answers, or writes that fail, is found here before
 * anything is placed by it. Pure.
 *
 * Holds true here: a declaration without a problem of severity `failed` keeps every constraint of the schema true
 * over all shards. What only costs speed, or does no good, is a `warning`.
 */
import {
  type Declaration,
  familyOf,
  keyTypeOf,
} from '../../../app/database/shards/declaration/placement.ts';
import {
  type Column,
  type ForeignKey,
  qualifiedName,
  type Relation,
  type Schema,
} from '../../../app/database/shards/declaration/schema.ts';
import { KEY_TYPES } from '../../../app/database/shards/hash.ts';

export interface DeclarationProblem {
  severity: 'failed' | 'warning';
  /** `schema.table` */
  table: string;
  what: string;
  remedy: string;
}

/** For `banyan plan`: what does not fit, each in a line. */
export function problemsInWords(problems: readonly DeclarationProblem[]): string[] {
  return problems.map(
    ({ severity, table, what, remedy }) =>
      `${table}: ${what}${severity === 'failed' ? ', so it would be refused' : ''}. ${remedy}`,
  );
}

type Report = (
  severity: DeclarationProblem['severity'],
  table: string,
  what: string,
  remedy: string,
) => void;

export function checkDeclaration(
  { tables = {}, unique = [] }: Declaration,
  { encoding, relations }: Schema,
): DeclarationProblem[] {
  const problems: DeclarationProblem[] = [];
  const report: Report = (severity, table, what, remedy) =>
    void problems.push({ severity, table, what, remedy });
  const byName = new Map(relations.map(relation => [qualifiedName(relation), relation]));
  for (const [name, declared] of Object.entries(tables)) {
    const relation = byName.get(name);
    if (!relation) {
      const like = relations.find(each => each.name === name.split('.')[1]);
      report(
        'warning',
        name,
        'there is no such table',
        like
          ? `Did you mean \`${qualifiedName(like)}\`?`
          : 'It is placed as declared as soon as a migration makes it; remove it if none will',
      );
      continue;
    }
    if (!/table$/.test(relation.kind) || relation.kind === 'foreign table') {
      report('failed', name, `it is a ${relation.kind}`, 'Declare the tables below it');
      continue;
    }
    if (relation.root) {
      report('failed', name, `it is a partition of ${relation.root}`, `Declare ${relation.root}`);
      continue;
    }
    if (relation.parents.length > 0 || relations.some(each => each.parents.includes(name))) {
      report(
        'failed',
        name,
        'it takes part in inheritance, where rows of one table are seen through another',
        'Use declarative partitioning, or leave it undeclared',
      );
      continue;
    }
    if (declared.kind === 'sharded') {
      checkSharded(relation, declared.key, encoding, uniqueOf(name, unique), report);
    } else checkReference(relation, report);
    for (const foreignKey of relation.foreignKeys) {
      checkForeignKey(relation, foreignKey, tables, byName, report);
    }
  }
  for (const relation of relations) {
    if (tables[relation.root ?? qualifiedName(relation)]) continue;
    for (const foreignKey of relation.foreignKeys)
      checkFromHome(relation, foreignKey, tables, report);
  }
  return problems;
}

function uniqueOf(table: string, unique: string[]): string[] {
  return unique
    .filter(column => column.startsWith(`${table}.`))
    .map(column => column.slice(table.length + 1));
}

function checkSharded(
  relation: Relation,
  key: string,
  encoding: string,
  unique: string[],
  report: Report,
): void {
  const name = qualifiedName(relation);
  const column = relation.columns.find(each => each.name === key);
  if (!column) {
    const columns = relation.columns.map(each => each.name).join(', ');
    report('failed', name, `it has no column ${key}`, `It has ${columns}`);
    return;
  }
  checkKey(name, column, encoding, report);
  if (relation.primaryKey.length === 0) {
    report(
      'failed',
      name,
      'it has no primary key, which is what tells its rows apart when they move',
      `Add one with ${key} in it: \`alter table ${name} add primary key (${key}, …)\``,
    );
  } else if (!relation.primaryKey.includes(key)) {
    const wanted = [key, ...relation.primaryKey].join(', ');
    report(
      'failed',
      name,
      `its primary key (${relation.primaryKey.join(', ')}) has not the shard key ${key} in it, so it is not unique over all shards`,
      `Make it \`primary key (${wanted})\`, or shard by ${relation.primaryKey[0]}`,
    );
  }
  for (const index of relation.uniqueIndexes) {
    const { columns } = index;
    if (index.isPrimary || columns.includes(key)) continue;
    const [only] = columns;
    if (columns.length === 1 && only !== undefined && unique.includes(only) && !index.where)
      continue;
    const shown = columns.map(each => each ?? 'an expression').join(', ');
    const canBeGlobal = columns.length === 1 && only !== undefined && !index.where;
    report(
      'failed',
      name,
      `the unique index ${index.name} (${shown}) has not the shard key ${key} in it: each shard would see to it alone`,
      canBeGlobal
        ? `Write \`unique: ['${name}.${only}']\`, or put ${key} into the index`
        : `Put ${key} into the index; only an index of one column, without a condition, can be unique over all shards`,
    );
  }
  for (const column of unique) {
    const index = relation.uniqueIndexes.find(
      each => each.columns.length === 1 && each.columns[0] === column && !each.where,
    );
    if (index) continue;
    report(
      'failed',
      name,
      relation.columns.some(each => each.name === column)
        ? `\`unique\` names ${column}, which has no unique index of its own`
        : `\`unique\` names ${column}, which is no column of it`,
      `\`create unique index on ${name} (${column})\`, or remove it from \`unique\``,
    );
  }
  for (const { name: numbered, type, isIdentity } of relation.columns.filter(
    each => each.isNumbered,
  )) {
    report(
      'warning',
      name,
      `${numbered} is numbered by a sequence, of which the pool uses the first shard's: one more trip for each INSERT, and who writes to a shard directly gets numbers that are taken`,
      type === 'bigint'
        ? `${isIdentity ? `\`alter table ${name} alter ${numbered} drop identity\`; then \`` : '`'}alter table ${name} alter ${numbered} set default banyan.next_id()\`, or give it \`nextId()\` in the application`
        : 'Make it a bigint with `default banyan.next_id()`, if that trip is too much',
    );
  }
}

function checkKey(name: string, column: Column, encoding: string, report: Report): void {
  const type = keyTypeOf(column);
  if (!type) {
    report(
      'failed',
      name,
      `its key ${column.name} is of the type ${column.type}`,
      `A shard key is of one of ${KEY_TYPES.join(', ')}`,
    );
  } else if (column.collation && !column.collation.isDeterministic) {
    report(
      'failed',
      name,
      `its key ${column.name} has the collation ${column.collation.name}, under which texts of different bytes are equal`,
      'Give the column a deterministic collation, or shard by another',
    );
  } else if (column.collation && encoding !== 'UTF8') {
    report(
      'failed',
      name,
      `its key ${column.name} is text in the encoding ${encoding}, whose bytes hash otherwise`,
      'Shard by a number or a uuid, or move to a database in UTF8',
    );
  } else if (!column.notNull) {
    report(
      'failed',
      name,
      `its key ${column.name} may be null, which belongs nowhere`,
      `\`alter table ${name} alter ${column.name} set not null\``,
    );
  } else if (column.isGenerated) {
    report(
      'failed',
      name,
      `its key ${column.name} is computed by the database, so where a row belongs is not known before it is there`,
      'Shard by the column that it is computed from',
    );
  }
}

function checkReference(relation: Relation, report: Report): void {
  const name = qualifiedName(relation);
  if (relation.primaryKey.length === 0) {
    report(
      'failed',
      name,
      'it has no primary key, by which its copies could be compared',
      'Add a primary key',
    );
  }
}

function checkForeignKey(
  relation: Relation,
  { name: constraint, columns, refersTo, referredColumns }: ForeignKey,
  tables: NonNullable<Declaration['tables']>,
  byName: Map<string, Relation>,
  report: Report,
): void {
  const name = qualifiedName(relation);
  const own = tables[name]!;
  const other = tables[refersTo];
  if (other?.kind === 'reference') return;
  const says = `the foreign key ${constraint} (${columns.join(', ')}) refers to ${refersTo}`;
  if (!other) {
    report(
      'failed',
      name,
      `${says}, which is on the first shard alone`,
      `Declare ${refersTo}: as 'reference' if it is small, else sharded by what ${columns.join(', ')} means; or drop the foreign key`,
    );
    return;
  }
  if (own.kind === 'reference') {
    report(
      'failed',
      name,
      `${says}, whose rows are each on one shard, while this table is on all`,
      'Drop the foreign key, or shard this table too',
    );
    return;
  }
  const at = columns.indexOf(own.key);
  const referred = byName.get(refersTo);
  if (at < 0 || referredColumns[at] !== other.key) {
    report(
      'failed',
      name,
      `${says} by other columns than the shard keys ${own.key} and ${other.key}, so the row may be on another shard`,
      `Shard both by the same (denormalise: give ${name} the column ${other.key} of ${refersTo}, and put it into the foreign key), or drop the foreign key`,
    );
    return;
  }
  const types = [
    relation.columns.find(each => each.name === own.key),
    referred?.columns.find(each => each.name === other.key),
  ].map(column => column && keyTypeOf(column));
  if (types[0] && types[1] && familyOf(types[0]) !== familyOf(types[1])) {
    report(
      'failed',
      name,
      `${says}, whose key is of another type, which hashes otherwise`,
      'Give both keys the same type',
    );
  }
}

/** A home table's rows are on the first shard: what they refer to has to be there too. */
function checkFromHome(
  relation: Relation,
  { name: constraint, columns, refersTo }: ForeignKey,
  tables: NonNullable<Declaration['tables']>,
  report: Report,
): void {
  if (tables[refersTo]?.kind !== 'sharded') return;
  const name = qualifiedName(relation);
  report(
    'failed',
    name,
    `it is not declared, so it is on the first shard, and its foreign key ${constraint} (${columns.join(', ')}) refers to ${refersTo}, which is sharded`,
    `Shard it by ${columns[0]}, or drop the foreign key`,
  );
}
