/**
 * The same schema, data and statements on one PostgreSQL and on several shards: whatever is answered, is answered
 * alike; what is refused was not sent.
 */
import type pg from 'pg';
import { openParser } from '../../../../src/app/database/route/parser.ts';
import type { Lanes } from '../../../../src/app/database/shards/lanes.ts';
import { AS_TEXT } from '../../../../src/app/database/shards/merge/gathered.ts';
import type { RowSource } from '../../../../src/app/database/shards/submitted/virtual-server.ts';
import type { TestPostgres } from '../../../support/postgres.ts';
import { TestShards, TransactionLanes } from '../../../support/shards.ts';
import { SCHEMA, TABLES } from './fixture.ts';
import { TABLES as GENERATED, type Generated, PEOPLE, UUIDS, WORDS } from './grammar.ts';

export interface Outcome {
  kind: 'rows' | 'error' | 'refused';
  sqlstate?: string;
  message?: string;
  rowCount?: number | null;
  command?: string;
  fields?: string[];
  rows?: (string | null)[][];
}

export interface Difference {
  shards: number;
  what: string;
  one: unknown;
  several: unknown;
}

export interface Counts {
  statements: number;
  answered: number;
  refused: number;
  failed: number;
  /** Answered by more than one shard. */
  scattered: number;
  /** Alike but for zeros at the end of a numeric: of 8.5 and 8.50, which are equal, either may stand for both. */
  zeros: number;
  /** Read in batches. */
  cursors: number;
}

type Query = (text: string, values?: unknown[]) => Promise<pg.QueryResult<never>>;

export class Differential {
  readonly counts: Counts = {
    statements: 0,
    answered: 0,
    refused: 0,
    failed: 0,
    scattered: 0,
    zeros: 0,
    cursors: 0,
  };
  readonly refusals = new Map<string, number>();
  readonly #one: pg.Pool;
  readonly #several: readonly TestShards[];

  private constructor(one: pg.Pool, several: readonly TestShards[]) {
    this.#one = one;
    this.#several = several;
  }

  static async start(postgres: TestPostgres, counts: readonly number[]): Promise<Differential> {
    const parser = await openParser();
    const one = await postgres.pool({ max: 1 });
    await one.query(SCHEMA);
    for (const text of data()) await one.query(text);
    const several: TestShards[] = [];
    for (const count of counts) {
      const shards = await TestShards.start(postgres, count, SCHEMA, TABLES, {
        parser,
        connections: 2,
      });
      for (const text of data()) await shards.query(text);
      several.push(shards);
    }
    return new Differential(one, several);
  }

  close(): void {
    for (const shards of this.#several) shards.close();
  }

  /** @returns undefined when there is none */
  async difference(statement: Generated): Promise<Difference | undefined> {
    this.counts.statements++;
    const [expected, ...found] = await Promise.all([
      this.#onOne(statement),
      ...this.#several.map(shards => this.#onSeveral(shards, statement)),
    ]);
    for (const [i, shards] of this.#several.entries()) {
      const difference = this.#compare(statement, expected, found[i]!);
      if (difference) return { shards: shards.pools.length, ...difference };
    }
    return undefined;
  }

  #compare(
    { isOrdered, text }: Generated,
    expected: Outcome[],
    found: Outcome[],
  ): Omit<Difference, 'shards'> | undefined {
    const [one, ...oneTables] = expected;
    const [several, ...severalTables] = found;
    if (several!.kind === 'refused') {
      this.counts.refused++;
      const what = several!.message!.replace(/\b(t\d+|w|public\.\w+|[a-z]+)\b/g, '·').slice(0, 60);
      this.refusals.set(what, (this.refusals.get(what) ?? 0) + 1);
      return undefined;
    }
    if (one!.kind === 'error' || several!.kind === 'error') {
      this.counts.failed++;
      if (one!.sqlstate === several!.sqlstate) return undefined;
      // Of several rows that violate several constraints, which one is told first is not determined.
      if (one!.sqlstate?.startsWith('23') && several!.sqlstate?.startsWith('23')) return undefined;
      return { what: 'errors', one: one, several: several };
    }
    this.counts.answered++;
    for (const name of ['command', 'rowCount'] as const) {
      if (one![name] !== several![name])
        return { what: name, one: one![name], several: several![name] };
    }
    if (String(one!.fields) !== String(several!.fields)) {
      return { what: 'columns', one: one!.fields, several: several!.fields };
    }
    if (!sameRows(one!, several!, isOrdered)) {
      this.counts.zeros++;
      if (sameRows(one!, several!, isOrdered, true)) return undefined;
      return {
        what: `rows, ${isOrdered ? 'in order' : 'in any order'}`,
        one: one!.rows,
        several: several!.rows,
      };
    }
    for (const [i, table] of oneTables.entries()) {
      if (!sameRows(table, severalTables[i]!, false)) {
        return {
          what: `what ${text.split(' ')[0]} left`,
          one: table.rows,
          several: severalTables[i]!.rows,
        };
      }
    }
    return undefined;
  }

  async #onOne({ text, values, writes }: Generated): Promise<Outcome[]> {
    const client = await this.#one.connect();
    const query: Query = (sql, parameters) =>
      client.query({
        text: sql,
        values: parameters,
        rowMode: 'array',
        types: AS_TEXT,
      } as never) as never;
    try {
      if (writes.length > 0) await client.query('begin');
      return await outcomes(query, text, values, writes);
    } finally {
      if (writes.length > 0) await client.query('rollback');
      client.release();
    }
  }

  /** As a cursor or a stream reads it. */
  async #byCursor(shards: TestShards, text: string, values: unknown[]): Promise<Outcome> {
    this.counts.cursors++;
    const transaction = new TransactionLanes(shards.pools, shards.lanes.sent);
    try {
      return await outcome(
        async (sql, parameters = []) =>
          readAll(await shards.router.open({ text: sql, values: parameters }, transaction)),
        text,
        values,
      );
    } finally {
      await transaction.end('rollback');
    }
  }

  async #onSeveral(shards: TestShards, { text, values, writes }: Generated): Promise<Outcome[]> {
    shards.lanes.sent.length = 0;
    const transaction =
      writes.length > 0 ? new TransactionLanes(shards.pools, shards.lanes.sent) : undefined;
    const lanes: Lanes = transaction ?? shards.lanes;
    const query: Query = (sql, parameters = []) =>
      shards.router.execute(
        { text: sql, values: parameters, rowMode: 'array', types: AS_TEXT } as never,
        lanes,
      ) as never;
    try {
      const found =
        writes.length === 0 && this.counts.statements % 3 === 0
          ? [await this.#byCursor(shards, text, values)]
          : await outcomes(query, text, values, writes);
      const touched = new Set(shards.lanes.sent.map(({ shard }) => shard));
      if (touched.size > 1) this.counts.scattered++;
      if (found[0]!.kind === 'refused' && shards.lanes.sent.some(({ wantsWrite }) => wantsWrite)) {
        return [{ kind: 'error', message: 'refused after something was written' }];
      }
      return found;
    } finally {
      await transaction?.end('rollback');
    }
  }
}

/** Few enough that most results need several. */
const BATCH = 7;

async function readAll(rows: RowSource): Promise<pg.QueryResult<never>> {
  const all: unknown[] = [];
  for (;;) {
    const some = await rows.read(BATCH);
    all.push(...some);
    if (some.length < BATCH) break;
  }
  const [command = '', count] = rows.tag(all.length).split(' ');
  const { fields } = rows;
  return {
    rows: all,
    fields,
    command,
    rowCount: count === undefined ? null : Number(count),
  } as never;
}

async function outcomes(
  query: Query,
  text: string,
  values: unknown[],
  writes: readonly string[],
): Promise<Outcome[]> {
  const first = await outcome(query, text, values);
  if (first.kind !== 'rows' || writes.length === 0) return [first];
  const tables: Outcome[] = [];
  for (const table of writes) tables.push(await outcome(query, `select * from ${table}`));
  return [first, ...tables];
}

async function outcome(query: Query, text: string, values: unknown[] = []): Promise<Outcome> {
  try {
    const { rows, rowCount, command, fields } = await query(text, values);
    return {
      kind: 'rows',
      rows: rows as unknown as (string | null)[][],
      rowCount,
      command,
      // The user's types have other OIDs in each database.
      fields: fields.map(
        ({ name, dataTypeID }) => `${name}:${dataTypeID < 16_384 ? dataTypeID : 'own'}`,
      ),
    };
  } catch (error) {
    const { code, message, stack } = error as Error & { code?: string };
    if (code === 'SHARD_REFUSED') return { kind: 'refused', message };
    const sqlstate = code ?? 'none';
    return { kind: 'error', sqlstate, message: code ? message : (stack ?? message) };
  }
}

/** Sums of floats differ in their last digits with the order of addition. */
function sameRows(
  one: Outcome,
  several: Outcome,
  isOrdered: boolean,
  ignoresZeros = false,
): boolean {
  const of = (oids: RegExp) =>
    new Set(one.fields!.flatMap((field, i) => (oids.test(field) ? [i] : [])));
  const floats = of(/:70[01]$/);
  const numerics = ignoresZeros ? of(/:1700$/) : new Set<number>();
  const normal = ({ rows }: Outcome) => {
    const texts = rows!.map(row =>
      JSON.stringify(
        row.map((value, i) => {
          if (value === null) return null;
          if (numerics.has(i)) return value.replace(/(\.\d*?)0+$/, '$1').replace(/\.$/, '');
          return floats.has(i) ? Number(value).toPrecision(9) : value;
        }),
      ),
    );
    return isOrdered ? texts : texts.sort();
  };
  const [a, b] = [normal(one), normal(several)];
  return a.length === b.length && a.every((text, i) => text === b[i]);
}

/** Rows that have a bit of all: NULLs, equal values, text that collations order in their own ways. */
function data(): string[] {
  let seed = 1;
  const next = (below: number) => {
    seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648;
    return Math.floor((seed / 2_147_483_648) * below);
  };
  const text = () =>
    next(6) === 0 ? 'null' : `'${WORDS[next(WORDS.length)]!.replaceAll("'", "''")}'`;
  const number = (below: number) => (next(6) === 0 ? 'null' : String(next(below)));
  const quarter = () => (next(6) === 0 ? 'null' : String(next(40) / 4));
  const time = () => (next(6) === 0 ? 'null' : `'2024-01-0${1 + next(8)} 0${next(10)}:00:00'`);
  const some = <T>(count: number, make: (i: number) => T) =>
    Array.from({ length: count }, (_, i) => make(i));
  const users = some(
    PEOPLE,
    i =>
      `(${i + 1}, '${WORDS[next(WORDS.length)]!.replaceAll("'", "''")}', ${text()}, ${number(9)}, ${quarter()}, ${quarter()}, ${next(3) ? next(2) === 0 : 'null'}, ${time()}, '2024-01-0${1 + next(8)}', ${text()})`,
  );
  const posts = some(
    50,
    i =>
      `(${1 + next(PEOPLE)}, ${i}, ${text()}, ${number(12)}, ${quarter()}, ${time()}, ${['null', "'DE'", "'FR'", "'US'"][next(4)]})`,
  );
  const comments = some(50, i => `(${1 + next(PEOPLE)}, ${i}, ${number(20)}, ${text()})`);
  const likes = some(60, i => `(${i % 20}, ${1 + ((i * 7) % PEOPLE)})`);
  const accounts = WORDS.slice(0, 10).map(
    word => `('${word.replaceAll("'", "''")}', ${next(100)})`,
  );
  const devices = UUIDS.slice(0, 8).map(id => `('${id}', 'k${next(3)}', ${text()})`);
  return [
    `insert into users (id, name, nick, age, score, karma, active, created, born, code) values ${users.join(', ')}`,
    `insert into posts (user_id, id, title, views, price, at, country) values ${posts.join(', ')}`,
    `insert into comments (user_id, id, post_id, body) values ${comments.join(', ')}`,
    `insert into likes (post_id, user_id) values ${likes.join(', ')} on conflict do nothing`,
    `insert into accounts (owner, balance) values ${accounts.join(', ')}`,
    `insert into devices (id, kind, note) values ${devices.join(', ')}`,
    `insert into countries (code, name, people) values ('DE', 'Germany', 83), ('FR', 'France', 68), ('US', null_name(), 1)`.replace(
      'null_name()',
      "'USA'",
    ),
    `insert into settings (key, value) values ('a', 'x'), ('b', null)`,
  ];
}

void GENERATED;
