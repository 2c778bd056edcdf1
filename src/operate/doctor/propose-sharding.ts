/**
 * Proposes how the tables of an existing schema are to be spread over shards. Pure.
 *
 * The idea is that of most applications: there is one thing that nearly everything belongs to (a user, a tenant, an
 * account). The table that the most rows and writes belong to, directly or through others, is that thing; what carries its key is sharded by it and stays together; what is small and seldom written is a
 * reference table; the rest is said to need a column more, or is left on the first shard.
 */
import {
  type Declaration,
  familyOf,
  isColocated,
  keyTypeOf,
} from '../../app/database/shards/declaration/placement.ts';
import {
  qualifiedName,
  type Relation,
  type Schema,
} from '../../app/database/shards/declaration/schema.ts';
import { checkDeclaration, type DeclarationProblem } from '../database/sharding/check.ts';

/** How a table is used, since the server's statistics began. */
export interface TableUse {
  rows: number;
  reads: number;
  writes: number;
}

export interface ShardingProposal {
  declaration: Required<Omit<Declaration, 'denormalize'>>;
  /** Why each table is where it is, by `schema.table`. */
  reasons: Record<string, string>;
  /** What has to be changed for it. */
  problems: DeclarationProblem[];
}

/** Things that rows belong to: fewer than these could not be spread evenly. */
const FEWEST_OWNERS = 1_000;
/** A copy of it on each shard costs next to nothing. */
const SMALL_ROWS = 10_000;
/** Writes of a reference table go to all shards: they should be few beside its reads, or in all. */
const SELDOM_SHARE = 0.01;
const SELDOM_WRITES_PER_ROW = 3;

const UNUSED: TableUse = { rows: 0, reads: 0, writes: 0 };

/** @returns undefined when no table could be what all belongs to */
export function proposeSharding(
  schema: Schema,
  uses: ReadonlyMap<string, TableUse>,
): ShardingProposal | undefined {
  const tables = schema.relations.filter(
    ({ kind, root, parents }) =>
      (kind === 'table' || kind === 'partitioned table') && !root && parents.length === 0,
  );
  const useOf = (name: string) => uses.get(name) ?? UNUSED;
  const owners = tables.filter(table => isOwner(table, useOf(qualifiedName(table))));
  const [best] = owners
    .map(owner => ({ owner, keys: keysBy(owner, tables) }))
    .filter(({ keys }) => keys.size > 1)
    .map(found => ({ ...found, worth: worthOf(belongingTo(found.keys, tables), useOf) }))
    .sort((a, b) => b.worth - a.worth || b.keys.size - a.keys.size);
  if (!best) return undefined;
  const root = qualifiedName(best.owner);
  const declared: Required<Declaration>['tables'] = {};
  const reasons: Record<string, string> = {};
  for (const table of tables) {
    const name = qualifiedName(table);
    const key = best.keys.get(name);
    if (key !== undefined) {
      declared[name] = { kind: 'sharded', key };
      reasons[name] = name === root ? 'what most others belong to' : `it has the key of ${root}`;
    }
  }
  for (const table of tables) {
    const name = qualifiedName(table);
    if (declared[name]) continue;
    if (isReference(table, useOf(name), declared)) {
      declared[name] = { kind: 'reference' };
      reasons[name] = 'small and seldom written';
      continue;
    }
    const carrier = table.foreignKeys.find(
      ({ refersTo }) => declared[refersTo]?.kind === 'sharded',
    );
    reasons[name] = carrier
      ? `it refers to ${carrier.refersTo} and does not carry its key: with a column ${best.keys.get(carrier.refersTo)} in its primary key it could be sharded too`
      : 'it belongs to nothing that is sharded: it stays whole on the first shard';
  }
  const unique = tables.flatMap(table => globallyUniqueOf(table, declared));
  const declaration = { tables: declared, unique };
  return { declaration, reasons, problems: checkDeclaration(declaration, schema) };
}

/** The one column of the primary key, if it can be a shard key. */
function ownKeyOf({ primaryKey, columns }: Relation): string | undefined {
  const [key] = primaryKey;
  const column = primaryKey.length === 1 && columns.find(({ name }) => name === key);
  return column && keyTypeOf(column) ? key : undefined;
}

/** Whether rows can be spread by it: few values, as of names in a list of plans, would make few heaps. */
function isOwner(table: Relation, { rows }: TableUse): boolean {
  const key = table.columns.find(({ name }) => name === ownKeyOf(table));
  const type = key && keyTypeOf(key);
  if (!type) return false;
  return rows === 0 ? familyOf(type) !== 'text' : rows >= FEWEST_OWNERS;
}

/** Which column of each table has the owner's key: by foreign keys, by the same name, by what their names say. */
function keysBy(owner: Relation, tables: Relation[]): Map<string, string> {
  const root = qualifiedName(owner);
  const ownKey = ownKeyOf(owner)!;
  const keys = new Map([[root, ownKey]]);
  // Those that refer to one that carries the key may carry it themselves.
  for (let before = 0; before < keys.size; ) {
    before = keys.size;
    for (const table of tables) {
      const name = qualifiedName(table);
      if (keys.has(name)) continue;
      const key = carriedKey(table, keys) ?? namedKey(table, owner);
      if (key !== undefined && isAlike(table, key, owner, ownKey)) keys.set(name, key);
    }
  }
  return keys;
}

/** By a foreign key; of several the one that comes first in the primary key. */
function carriedKey(table: Relation, keys: ReadonlyMap<string, string>): string | undefined {
  const candidates = table.foreignKeys.flatMap(({ columns, refersTo, referredColumns }) => {
    const referred = keys.get(refersTo);
    const at = referred === undefined ? -1 : referredColumns.indexOf(referred);
    return at < 0 ? [] : [columns[at]!];
  });
  return byPrimaryKey(table, candidates);
}

/** `user_id` for `users`, without a foreign key: only where it is in the primary key. */
function namedKey(table: Relation, owner: Relation): string | undefined {
  const singular = owner.name.replace(/ies$/, 'y').replace(/s$/, '').toLowerCase();
  const key = ownKeyOf(owner)!;
  return table.primaryKey.find(
    name => name.toLowerCase().replaceAll('_', '') === `${singular}${key}`.replaceAll('_', ''),
  );
}

function byPrimaryKey({ primaryKey }: Relation, candidates: string[]): string | undefined {
  const place = (column: string) => {
    const at = primaryKey.indexOf(column);
    return at < 0 ? primaryKey.length : at;
  };
  return candidates.toSorted((a, b) => place(a) - place(b))[0];
}

function isAlike(table: Relation, key: string, owner: Relation, ownKey: string): boolean {
  const typeOf = (relation: Relation, name: string) => {
    const column = relation.columns.find(each => each.name === name);
    return { keyType: column && keyTypeOf(column) };
  };
  return isColocated(typeOf(table, key), typeOf(owner, ownKey));
}

/** What carries the key, and what refers to any of these, however far. */
function belongingTo(keys: ReadonlyMap<string, string>, tables: Relation[]): string[] {
  const names = new Set(keys.keys());
  for (let before = 0; before < names.size; ) {
    before = names.size;
    for (const table of tables) {
      if (table.foreignKeys.some(({ refersTo }) => names.has(refersTo))) {
        names.add(qualifiedName(table));
      }
    }
  }
  return [...names];
}

/** What would be spread: rows and writes count, and each table a little, for a schema without rows. */
function worthOf(names: string[], useOf: (name: string) => TableUse): number {
  return names.reduce((sum, name) => {
    const { rows, writes } = useOf(name);
    return sum + 1_000 + rows + writes;
  }, 0);
}

function isReference(
  table: Relation,
  { rows, reads, writes }: TableUse,
  declared: Required<Declaration>['tables'],
): boolean {
  // What tells of two things, as who follows whom, grows with both of them, however small it is now.
  if (table.primaryKey.length !== 1 || rows > SMALL_ROWS) return false;
  if (table.foreignKeys.some(({ refersTo }) => declared[refersTo]?.kind === 'sharded'))
    return false;
  return writes <= rows * SELDOM_WRITES_PER_ROW || writes <= reads * SELDOM_SHARE;
}

/** Columns that have a unique index of their own, which each shard would see to alone. */
function globallyUniqueOf(table: Relation, declared: Required<Declaration>['tables']): string[] {
  const name = qualifiedName(table);
  const placed = declared[name];
  if (placed?.kind !== 'sharded') return [];
  return table.uniqueIndexes.flatMap(({ isPrimary, columns, where }) => {
    const [only] = columns;
    const isOwn = columns.length === 1 && only !== undefined && only !== placed.key && !where;
    return isOwn && !isPrimary ? [`${name}.${only}`] : [];
  });
}
