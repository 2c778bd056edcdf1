/**
 * Copies of columns (`denormalize`): what is declared, joined with what the database says of the tables. Pure.
 *
 * Glossary
 * - *copy*: a column of the *target* table that is kept what the column `from` of the *source* table is, in the source's
 *   row whose primary key the target's row has in its column *via*.
 * - *home* of a table: on all shards its rows are spread, or each shard has all of them, or the first has.
 *
 * Holds true here: a copy without a problem can be kept right whatever the application writes, but to the copy itself.
 */
import { familyOf, keyTypeOf } from '../../../app/database/shards/declaration/placement.ts';
import {
  type Column,
  qualifiedName,
  type Relation,
  type Schema,
} from '../../../app/database/shards/declaration/schema.ts';
import type { KeyType } from '../../../app/database/shards/hash.ts';
import type { CopiedColumn, TablePlacement } from '../../../topology/complete.ts';
import type { DeclarationProblem } from '../sharding/check.ts';

export interface TypedColumn {
  readonly name: string;
  /** As it is declared: `character varying(20)`. */
  readonly type: string;
}

export interface Copy {
  /** `schema.table.column` */
  readonly name: string;
  /** Changes when it is declared otherwise. */
  readonly spec: string;
  readonly target: { readonly schema: string; readonly table: string; readonly home: Home };
  readonly column: TypedColumn;
  readonly via: TypedColumn;
  /** The target's primary key. */
  readonly key: readonly TypedColumn[];
  readonly source: { readonly schema: string; readonly table: string; readonly home: Home };
  readonly from: TypedColumn;
  /** The source's primary key. */
  readonly sourceKey: TypedColumn;
  /** Undefined when the source is not sharded. */
  readonly sourceKeyType: KeyType | undefined;
}

export type Home = TablePlacement['kind'] | 'first';

/** Types without an equality: whether a copy is right could not be asked. */
const INCOMPARABLE = new Set(['json', 'xml', 'point', 'box', 'polygon']);

interface Declared {
  readonly denormalize: Readonly<Record<string, CopiedColumn>>;
  readonly tables: Readonly<Record<string, TablePlacement>>;
  readonly unique: readonly string[];
}

/** The copies whose tables are there and that have no problem, and the problems of the others. */
export function resolveCopies(
  declared: Declared,
  { relations }: Schema,
): { copies: Copy[]; problems: DeclarationProblem[] } {
  const byName = new Map(relations.map(relation => [qualifiedName(relation), relation]));
  const copies: Copy[] = [];
  const problems: DeclarationProblem[] = [];
  for (const [name, copied] of Object.entries(declared.denormalize)) {
    const [table, column] = splitColumn(name);
    const problem = (
      what: string,
      remedy: string,
      severity: DeclarationProblem['severity'] = 'failed',
    ) => void problems.push({ severity, table, what: `the copy ${column}: ${what}`, remedy });
    const found = resolve(name, copied, declared, byName, problem);
    if (found) copies.push(found);
  }
  return { copies, problems };
}

type Problem = (what: string, remedy: string, severity?: 'failed' | 'warning') => void;

function resolve(
  name: string,
  copied: CopiedColumn,
  { denormalize, tables, unique }: Declared,
  byName: Map<string, Relation>,
  problem: Problem,
): Copy | undefined {
  const [targetName, columnName] = splitColumn(name);
  const [sourceName, fromName] = splitColumn(copied.from);
  const target = byName.get(targetName);
  const source = byName.get(sourceName);
  for (const [title, relation] of [
    [targetName, target],
    [sourceName, source],
  ] as const) {
    if (!relation) {
      problem(
        `there is no table ${title}`,
        'It is kept as soon as a migration makes the table; correct the name if none will',
        'warning',
      );
    } else if (!/^(partitioned )?table$/.test(relation.kind) || relation.root) {
      problem(`${title} is no table of its own`, 'Name the table that the rows are written to');
      return undefined;
    }
  }
  if (!target || !source) return undefined;
  const column = columnOf(target, columnName, problem);
  const via = columnOf(target, copied.via, problem);
  const from = columnOf(source, fromName, problem);
  if (!column || !via || !from) return undefined;
  const refused = (what: string, remedy: string) => {
    problem(what, remedy);
    return undefined;
  };
  const [keyName, ...more] = source.primaryKey;
  if (!keyName || more.length > 0) {
    return refused(
      `${sourceName} has no primary key of one column, which ${copied.via} could name a row by`,
      'Copy from a table whose primary key is one column',
    );
  }
  const sourceKey = source.columns.find(each => each.name === keyName)!;
  if (!isSameKind(via, sourceKey)) {
    return refused(
      `${copied.via} is of the type ${via.type}, and the primary key ${keyName} of ${sourceName} of ${sourceKey.type}`,
      'Give both the same type, or name the column that has the primary key',
    );
  }
  if (column.type !== from.type || column.baseType !== from.baseType) {
    return refused(
      `it is of the type ${column.type}, and ${copied.from} of ${from.type}`,
      `\`alter table ${targetName} alter ${columnName} type ${from.type}\``,
    );
  }
  if (INCOMPARABLE.has(column.baseType)) {
    return refused(
      `values of the type ${column.type} cannot be compared`,
      column.baseType === 'json' ? 'Use jsonb' : 'Copy a column of another type',
    );
  }
  if (column.notNull) {
    return refused(
      'it may not be null, and a row has no copy yet in its first moment, and none when nothing is there to be copied',
      `\`alter table ${targetName} alter ${columnName} drop not null\``,
    );
  }
  const placed = tables[targetName];
  const isKey =
    target.primaryKey.includes(columnName) ||
    columnName === copied.via ||
    (placed?.kind === 'sharded' && placed.key === columnName) ||
    unique.includes(name);
  if (isKey || column.isGenerated || column.isIdentity) {
    return refused(
      'it is a key, or computed by the database, and cannot be written as a copy',
      'Give the copy a column of its own',
    );
  }
  if (target.primaryKey.length === 0) {
    return refused(`${targetName} has no primary key`, 'Add a primary key');
  }
  const home = tables[sourceName];
  if (home?.kind === 'sharded' && home.key !== keyName) {
    return refused(
      `${sourceName} is sharded by ${home.key}, so by its primary key ${keyName} nobody knows where a row is`,
      `Shard ${sourceName} by ${keyName}, or make it a reference table`,
    );
  }
  if (leadsBack(name, denormalize)) {
    return refused('it is, over others, a copy of itself', 'Take one of the copies out');
  }
  const typed = ({ name: title, type }: Column): TypedColumn => ({ name: title, type });
  return {
    name,
    spec: JSON.stringify([copied.from, copied.via, column.type, target.primaryKey]),
    target: { schema: target.schema, table: target.name, home: placed?.kind ?? 'first' },
    column: typed(column),
    via: typed(via),
    key: target.primaryKey.map(key => typed(target.columns.find(each => each.name === key)!)),
    source: { schema: source.schema, table: source.name, home: home?.kind ?? 'first' },
    from: typed(from),
    sourceKey: typed(sourceKey),
    sourceKeyType: home?.kind === 'sharded' ? keyTypeOf(sourceKey) : undefined,
  };
}

/** `schema.table.column` → `schema.table`, `column` */
export function splitColumn(name: string): [table: string, column: string] {
  const at = name.lastIndexOf('.');
  return [name.slice(0, at), name.slice(at + 1)];
}

function columnOf(relation: Relation, name: string, problem: Problem): Column | undefined {
  const column = relation.columns.find(each => each.name === name);
  if (!column) {
    problem(
      `${qualifiedName(relation)} has no column ${name}`,
      `It has ${relation.columns.map(each => each.name).join(', ')}`,
    );
  }
  return column;
}

function isSameKind(one: Column, other: Column): boolean {
  const [a, b] = [keyTypeOf(one), keyTypeOf(other)];
  return a && b ? familyOf(a) === familyOf(b) : one.baseType === other.baseType;
}

/** Following what each is a copy of comes back to where it began. */
function leadsBack(name: string, denormalize: Declared['denormalize']): boolean {
  const seen = new Set<string>();
  for (let at: string | undefined = name; at !== undefined; at = denormalize[at]?.from) {
    if (seen.has(at)) return at === name;
    seen.add(at);
  }
  return false;
}
