/**
 * Keeps columns unique across shards: claims and releases their values in the transaction that writes the rows, and
 * finds a row by such a value on one shard.
 *
 * Holds true here:
 * - A value is claimed in the transaction that writes its row, before that commits, and the two are kept together or
 *   not at all. Two who claim the same wait for each other at the lookup table's own unique index: one is told 23505.
 * - The error is the one that a single server gives: of the table's constraint, with its table and detail.
 * - Within a statement values are released before others are claimed, so two rows may swap theirs.
 */
import pg from 'pg';
import { hasCode } from '../../../../errors.ts';
import type { RuntimeMap } from '../../../../map/runtime-map.ts';
import type { StatementFacts } from '../../route/facts.ts';
import type { KeyType } from '../hash.ts';
import { hashExpression } from '../hash.ts';
import type { Lanes } from '../lanes.ts';
import { Ranges } from '../ranges.ts';
import type { UniqueColumn, Unusable } from './columns.ts';
import { lookupTable, type Note, parseNotes, READ_NOTES } from './tables.ts';

const UNIQUE_VIOLATION = '23505';

/** What the keeper asks of a transaction: its lanes, and on which of them it wrote. */
export interface UniqueLanes extends Lanes {
  readonly writtenTo: readonly number[];
}

type Pair = [value: string, key: string];

interface Changes {
  readonly claimed: Pair[];
  readonly released: Pair[];
}

export class UniqueKeeper {
  readonly #columns: readonly UniqueColumn[];
  readonly #ranges: Ranges;
  /** Tables that are not to be used as long as they are declared as they are. */
  readonly unusable: readonly Unusable[];
  readonly #shards: RuntimeMap['database']['shards'];

  /** @param database of the runtime map that the columns are of */
  constructor(
    columns: readonly UniqueColumn[],
    database: RuntimeMap['database'],
    unusable: readonly Unusable[] = [],
  ) {
    this.#columns = columns;
    this.unusable = unusable;
    this.#shards = database.shards;
    this.#ranges = new Ranges(database.shards.map(({ range }) => range));
  }

  get columns(): readonly UniqueColumn[] {
    return this.#columns;
  }

  /** Whether a statement names a table to write to that has such a column. */
  concerns(facts: StatementFacts): boolean {
    return facts.tables.some(
      ({ schema, name, role }) =>
        role === 'written' &&
        this.#columns.some(one => one.table === name && (schema ?? one.schema) === one.schema),
    );
  }

  /** @returns the index of the shard with that value's row in the lookup table; undefined: no row can have it */
  shardOf(type: KeyType, value: unknown): number | undefined {
    return this.#ranges.shardOfKey(type, value);
  }

  /**
   * Claims and releases what the statements of a transaction have changed since the last time.
   * @returns whether a row took a value that another one gave up
   * @throws 23505 of the table's constraint when a value is taken
   */
  async settle(lanes: UniqueLanes): Promise<boolean> {
    const answers = await Promise.all(
      lanes.writtenTo.map(async shard => {
        const { rows } = (await lanes.query(
          shard,
          { text: READ_NOTES },
          { wantsWrite: false },
        )) as pg.QueryResult<{ notes: string | null }>;
        return { shard, notes: parseNotes(rows[0]?.notes ?? null) };
      }),
    );
    let hasHandedOver = false;
    for (const column of this.#columns) {
      const own = answers.map(({ shard, notes }) => ({
        shard,
        notes: notes.filter(({ lookup }) => lookup === column.lookup),
      }));
      const left: Note[] = [];
      for (const { shard, notes } of own) {
        const last = notes.findLastIndex(({ truncated }) => truncated);
        if (last >= 0) await this.#truncated(lanes, column, shard);
        left.push(...notes.slice(last + 1));
      }
      const { claimed, released } = net(left);
      const given = new Set(released.map(([value]) => value));
      if (claimed.some(([value]) => given.has(value))) hasHandedOver = true;
      await this.#release(lanes, column, released);
      try {
        await this.#spread(lanes, column, claimed, claimText(column));
      } catch (error) {
        throw asOfTable(error, column);
      }
    }
    return hasHandedOver;
  }

  /**
   * The shard of the row with a value; when there is none, that of its place in the lookup table, which is as good.
   * @returns undefined when no row can have the value
   */
  async find(lanes: Lanes, column: UniqueColumn, value: unknown): Promise<number | undefined> {
    const at = this.shardOf(column.valueType, value);
    if (at === undefined) return undefined;
    const text = `select key::text as key from ${lookupTable(column)} where value = $1`;
    const { rows } = (await lanes.query(
      at,
      { text, values: [value] },
      { wantsWrite: false },
    )) as pg.QueryResult<{ key: string }>;
    return rows[0] ? this.shardOf(column.keyType, rows[0].key) : at;
  }

  /**
   * A commit is seen on one shard a moment before it is on another: the row that is changed here may be there, and its
   * claim not yet to be seen, and so not to be deleted. Who inserts the same value waits for it.
   */
  async #release(lanes: Lanes, column: UniqueColumn, pairs: Pair[]): Promise<void> {
    const text = releaseText(column);
    await this.#onEach(column, pairs, async (shard, values, count) => {
      const write = (statement: string) =>
        lanes.query(shard, { text: statement, values }, { wantsWrite: true });
      const { rowCount } = (await write(text)) as pg.QueryResult;
      if (rowCount === count) return;
      await write(`${claimText(column)} on conflict (value) do nothing`);
      await write(text);
    });
  }

  async #spread(lanes: Lanes, column: UniqueColumn, pairs: Pair[], text: string): Promise<void> {
    await this.#onEach(column, pairs, (shard, values) =>
      lanes.query(shard, { text, values }, { wantsWrite: true }),
    );
  }

  /** On the shards that own the values, side by side. */
  async #onEach(
    column: UniqueColumn,
    pairs: Pair[],
    run: (shard: number, values: [string[], string[]], count: number) => Promise<unknown>,
  ): Promise<void> {
    const byShard = new Map<number, Pair[]>();
    for (const pair of pairs) {
      const shard = this.shardOf(column.valueType, pair[0]);
      if (shard === undefined) continue;
      byShard.set(shard, [...(byShard.get(shard) ?? []), pair]);
    }
    await Promise.all(
      [...byShard].map(([shard, own]) =>
        run(shard, [own.map(([value]) => value), own.map(([, key]) => key)], own.length),
      ),
    );
  }

  /** All rows of the table on one shard are gone. */
  async #truncated(lanes: Lanes, column: UniqueColumn, shard: number): Promise<void> {
    const { range } = this.#shards[shard]!;
    const values = range ? [range.from, range.to] : [];
    const where = range ? `where ${hashExpression(column.keyType, 'key')} between $1 and $2` : '';
    const text = `delete from ${lookupTable(column)} ${where}`;
    await Promise.all(
      Array.from({ length: lanes.count }, (_, at) =>
        lanes.query(at, { text, values }, { wantsWrite: true }),
      ),
    );
  }
}

/** What is left of several statements: what was claimed and released again need not be written. */
function net(notes: readonly Note[]): Changes {
  const balance = new Map<string, { pair: Pair; count: number }>();
  const add = (pairs: Pair[] | null, by: number) => {
    for (const pair of pairs ?? []) {
      const key = JSON.stringify(pair);
      const entry = balance.get(key) ?? { pair, count: 0 };
      entry.count += by;
      balance.set(key, entry);
    }
  };
  for (const { claimed, released } of notes) {
    add(released, -1);
    add(claimed, 1);
  }
  const claimed: Pair[] = [];
  const released: Pair[] = [];
  for (const { pair, count } of balance.values()) {
    // More than one of the same is for the unique index to refuse.
    for (let i = 0; i < count; i++) claimed.push(pair);
    if (count < 0) released.push(pair);
  }
  return { claimed, released };
}

/** In the order of the values: two who claim several do not wait for each other in a circle. */
function claimText(column: UniqueColumn): string {
  return `insert into ${lookupTable(column)} (value, key)
    select * from unnest($1::${baseOf(column.type)}[], $2::${baseOf(column.keyDeclared)}[]) order by 1`;
}

function releaseText(column: UniqueColumn): string {
  return `delete from ${lookupTable(column)} where (value, key) in
    (select * from unnest($1::${baseOf(column.type)}[], $2::${baseOf(column.keyDeclared)}[]))`;
}

/** `character varying(20)` cuts what is cast to it, silently. */
const baseOf = (type: string) => type.replace(/\(\d+\)$/, '');

/** What a single server would have said. */
function asOfTable(error: unknown, column: UniqueColumn): unknown {
  if (!hasCode(error, UNIQUE_VIOLATION)) return error;
  const { table, detail = '' } = error as pg.DatabaseError;
  if (table !== column.lookup) return error;
  const message = `duplicate key value violates unique constraint "${column.constraint}"`;
  return Object.assign(new pg.DatabaseError(message, message.length, 'error'), {
    severity: 'ERROR',
    code: UNIQUE_VIOLATION,
    detail: detail.replace('(value)', `(${column.column})`),
    schema: column.schema,
    table: column.table,
    constraint: column.constraint,
    cause: error,
  });
}
