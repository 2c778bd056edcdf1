/**
 * The rows of a plan in batches: what a cursor or a stream over shards reads.
 *
 * Holds true here:
 * - Rows that are only put together (one after the other, or in an order) are fetched from each shard by a cursor of
 *   its own as they are asked for. What has to be known as a whole (DISTINCT, groups, what is written) is executed, and
 *   held, with the limit that any such statement has.
 * - It needs a transaction: the cursors are there until its end.
 */
import type pg from 'pg';
import { answered, execute } from '../execute.ts';
import { context, readLimits } from '../execute-query.ts';
import { AS_TEXT, type RawRow } from '../merge/gathered.ts';
import { resolveKeys, sorted } from '../merge/merge.ts';
import { inParallel, one } from '../parallel.ts';
import type { Action } from '../plan/plan.ts';
import type { Result, Results, Run } from '../run.ts';
import { type Fetch, OrderedRows } from './ordered-rows.ts';
import type { RowSource } from './virtual-server.ts';

/** Rows that a shard sends at a time: few enough to hold for each, enough to make the round trip worth it. */
const BATCH = 500;

/** To name cursors apart. */
let opened = 0;

/** @param run over lanes that are in a transaction. @throws as its execution does */
export async function openRows(run: Run): Promise<RowSource> {
  const { action, parameters, writes } = run.plan;
  if (parameters === run.values.length && !writes) {
    if (action.kind === 'scatter') return openScatter(run, action);
    if (action.kind === 'whole' && isQuery(run)) {
      const shards = run.shards(action.target) ?? [await run.onlyShard(action.target)];
      return openOne(run, shards[0]!);
    }
    if (action.kind === 'staged') {
      return run.options.openAgain(await answered(run, action, run.lanes), run.lanes);
    }
  }
  return wholeRows(await execute(run));
}

/** What DECLARE takes. */
function isQuery({ plan }: Run): boolean {
  return /^[\s(]*(select|with|values|table)\b/i.test(plan.text);
}

/** A result that is there already. */
export function wholeRows(results: Results): RowSource {
  const { fields, rows, command, rowCount } = one(results) as Result;
  let at = 0;
  return {
    fields,
    tag: sent => (command === 'INSERT' ? `INSERT 0 ${rowCount}` : `${command} ${rowCount ?? sent}`),
    read: async count => {
      at += count;
      return (rows as unknown as RawRow[]).slice(at - count, at);
    },
    close: async () => {},
  };
}

async function openScatter(
  run: Run,
  action: Extract<Action, { kind: 'scatter' }>,
): Promise<RowSource> {
  const { merge, partial } = action;
  const { placement } = run.options;
  const shards = run.shards(action.target) ?? Array.from({ length: placement.shards }, (_, i) => i);
  if (shards.length === 1) return openOne(run, shards[0]!);
  if (merge.kind === 'query' || merge.distinct.kind !== 'none')
    return wholeRows(await execute(run));
  const { count, offset = 0n } = await readLimits(run, merge.limits);
  // PostgreSQL says what is wrong with it.
  if ((count ?? 0n) < 0n || offset < 0n) return wholeRows(await execute(run));
  const wanted = count === undefined ? null : count + offset;
  const cursors = await Cursors.open(run, shards, partial.text, run.bind(partial, wanted));
  const { fields } = cursors;
  const keys = resolveKeys(merge, fields);
  const around = context(run, partial, { fields, shard: shards[0]! });
  const ordered = new OrderedRows(
    cursors.inputs,
    BATCH,
    keys.length > 0 ? rows => sorted({ fields, rows, shard: shards[0]! }, keys, around) : undefined,
  );
  const visible = fields.length - merge.hidden;
  let toSkip = offset;
  let left = count;
  const take = async (most: number) => {
    const rows = await ordered.take(left !== undefined && left < most ? Number(left) : most);
    if (left !== undefined) left -= BigInt(rows.length);
    return merge.hidden === 0 ? rows : rows.map(row => row.slice(0, visible));
  };
  return {
    fields: fields.slice(0, visible),
    tag: sent => `SELECT ${sent}`,
    read: async most => {
      while (toSkip > 0n) {
        const skipped = await ordered.take(toSkip < BATCH ? Number(toSkip) : BATCH);
        if (skipped.length === 0) return [];
        toSkip -= BigInt(skipped.length);
      }
      return take(most);
    },
    close: () => cursors.close(),
  };
}

async function openOne(run: Run, shard: number): Promise<RowSource> {
  const cursors = await Cursors.open(run, [shard], run.statement.text, run.values);
  const ordered = new OrderedRows(cursors.inputs, BATCH, undefined);
  return {
    fields: cursors.fields,
    tag: sent => `SELECT ${sent}`,
    read: count => ordered.take(count),
    close: () => cursors.close(),
  };
}

/** A cursor on each shard, with its first batch. */
class Cursors {
  readonly fields: pg.FieldDef[];
  readonly inputs: readonly Fetch[];
  readonly #run: Run;
  readonly #shards: readonly number[];
  readonly #name: string;

  private constructor(run: Run, shards: readonly number[], name: string, first: Result[]) {
    this.#run = run;
    this.#shards = shards;
    this.#name = name;
    this.fields = first[0]!.fields;
    this.inputs = shards.map((shard, i) => {
      let rows = first[i]!.rows as unknown as RawRow[] | undefined;
      return async () => {
        const taken = rows ?? ((await fetch(run, shard, name)).rows as unknown as RawRow[]);
        rows = undefined;
        return taken;
      };
    });
  }

  static async open(
    run: Run,
    shards: readonly number[],
    text: string,
    values: unknown[],
  ): Promise<Cursors> {
    const name = `banyan_cursor_${++opened}`;
    const declare = `declare ${name} no scroll cursor for ${text}`;
    const first = await inParallel(shards, async (shard, signal) => {
      const options = { wantsWrite: false, signal };
      await run.lanes.query(shard, { text: declare, values }, options);
      return fetch(run, shard, name, signal);
    });
    return new Cursors(run, shards, name, first);
  }

  async close(): Promise<void> {
    await Promise.all(
      this.#shards.map(shard =>
        this.#run.lanes
          .query(shard, { text: `close ${this.#name}` }, { wantsWrite: false })
          // The transaction has failed, and its cursors went with it.
          .catch(() => {}),
      ),
    );
  }
}

function fetch(run: Run, shard: number, name: string, signal?: AbortSignal): Promise<Result> {
  return run.lanes.query(
    shard,
    { text: `fetch forward ${BATCH} from ${name}`, rowMode: 'array', types: AS_TEXT },
    { wantsWrite: false, ...(signal ? { signal } : {}) },
  );
}
