/**
 * Runs a plan over lanes.
 *
 * Holds true here:
 * - A plan that leads to one shard sends the statement there as it came.
 * - Parallel over shards; the first error cancels the rest, and is told with the shard that it came from.
 * - What writes to several shards, or needs several statements, is atomic (`Lanes.atomically`).
 */
import type pg from 'pg';
import { scatter } from './execute-query.ts';
import { copiedInsert, insert, move, write } from './execute-write.ts';
import type { LaneStatement, Lanes } from './lanes.ts';
import { type RawRow, resultOf } from './merge/gathered.ts';
import { columnsOf } from './merge/merge.ts';
import { one, rowsSource } from './parallel.ts';
import { describeAction } from './plan/describe.ts';
import type { StagedAction, Target } from './plan/plan.ts';
import { ShardRefused } from './plan/refused.ts';
import { ALL_AS_TEXT, originOf, type Results, type Run } from './run.ts';

/** The column of EXPLAIN. */
const QUERY_PLAN: pg.FieldDef = {
  name: 'QUERY PLAN',
  tableID: 0,
  columnID: 0,
  dataTypeID: 25,
  dataTypeSize: -1,
  dataTypeModifier: -1,
  format: 'text',
};

export function execute(run: Run): Promise<Results> {
  const { action, parameters } = run.plan;
  // PostgreSQL says that there are too many, or too few.
  if (action.kind !== 'whole' && parameters !== run.values.length) return run.send(0);
  switch (action.kind) {
    case 'whole':
      return whole(run, action.target);
    case 'scatter':
      return scatter(run, action);
    case 'write':
      return write(run, action);
    case 'insert':
      return insert(run, action);
    case 'copied insert':
      return run.lanes.atomically(lanes => copiedInsert(run, action, lanes));
    case 'move':
      return run.lanes.atomically(lanes => move(run, action, lanes));
    case 'copy in':
    case 'copy out':
      return Promise.reject(
        new ShardRefused(
          'COPY of a table on several shards was sent without a stream',
          'Nothing was sent. Use pg-copy-streams: client.query(copyFrom(…)), client.query(copyTo(…))',
        ),
      );
    case 'explained':
      return Promise.resolve(
        resultOf(
          'EXPLAIN',
          [QUERY_PLAN],
          describeAction(action.of).map(line => [line]),
          run.statement,
        ),
      );
    case 'staged':
      return run.plan.writes
        ? run.lanes.atomically(lanes => staged(run, action, lanes))
        : staged(run, action, run.lanes);
  }
}

async function whole(run: Run, target: Target): Promise<Results> {
  const shards = run.shards(target) ?? [await run.onlyShard(target)];
  return run.send(shards[0]!);
}

async function staged(run: Run, action: StagedAction, lanes: Lanes): Promise<Results> {
  return run.options.again(await answered(run, action, lanes), lanes);
}

/** Subqueries first: the statement with their rows in their places. */
export async function answered(
  run: Run,
  action: StagedAction,
  lanes: Lanes,
): Promise<LaneStatement> {
  const { rest, stages, prefix } = action;
  const values = run.bind(rest);
  let { text } = rest;
  for (const [i, stage] of stages.entries()) {
    const result = one(
      await run.options.again({ text: stage.text, values: run.bind(stage), ...ALL_AS_TEXT }, lanes),
    );
    const names = await run.options.types.resolve(
      result.fields.map(({ dataTypeID }) => dataTypeID),
      originOf(result),
      lanes,
    );
    const source = rowsSource(
      result.fields,
      names.map(({ name }) => name),
      values.length + 1,
      `${prefix}${i}`,
    );
    text = text.replace(new RegExp(`\\b${prefix}${i}\\b`), () => source);
    values.push(
      ...columnsOf(result.rows as unknown as RawRow[], Math.max(1, result.fields.length)),
    );
  }
  const { name: _name, ...statement } = run.statement;
  return { ...statement, text, values };
}
