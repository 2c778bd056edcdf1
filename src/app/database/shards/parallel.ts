/** Shards side by side, and their results as one. */
import type pg from 'pg';
import { quote } from './plan/tree.ts';
import type { Result, Results } from './run.ts';

/** Rows that are parameters, as a table. */
export function rowsSource(
  fields: readonly pg.FieldDef[],
  types: readonly string[],
  first: number,
  name: string,
): string {
  // Rows without columns are counted all the same.
  if (fields.length === 0) return `(select from unnest($${first}::text[])) as ${name}`;
  const list = fields.map((field, i) => `a${i}::${types[i]} as ${quote(field.name)}`);
  const arrays = fields.map((_field, i) => `$${first + i}::text[]`);
  const columns = fields.map((_field, i) => `a${i}`);
  return `(select ${list.join(', ')} from unnest(${arrays.join(', ')}) as u(${columns.join(', ')})) as ${name}`;
}

export function one(results: Results): Result {
  return Array.isArray(results) ? results[0]! : results;
}

/** Runs on each shard. The first error ends the others, and is thrown when all have ended. */
export async function inParallel<T>(
  shards: readonly number[],
  run: (shard: number, signal: AbortSignal) => Promise<T>,
): Promise<T[]> {
  const controller = new AbortController();
  let failed: { error: unknown } | undefined;
  const results = await Promise.all(
    shards.map(async shard => {
      try {
        return await run(shard, controller.signal);
      } catch (error) {
        if (!failed) {
          failed = { error };
          // Where nobody has said already which shard it was.
          if (error instanceof Error && !('shard' in error)) Object.assign(error, { shard });
          controller.abort();
        }
        return undefined;
      }
    }),
  );
  if (failed) throw failed.error;
  return results as T[];
}

/** Counts are added up, rows put one after the other. */
export function addUp(results: readonly Result[]): Result {
  const [first, ...others] = results;
  for (const { rows, rowCount } of others) {
    for (const row of rows) first!.rows.push(row);
    first!.rowCount = (first!.rowCount ?? 0) + (rowCount ?? 0);
  }
  return first!;
}

/** Rows that were returned are in the order of those that were given, when there is one for each. */
export function inOrder(results: readonly Result[], given: readonly (readonly number[])[]): Result {
  const isWhole = results.every(({ rows }, i) => rows.length === given[i]!.length);
  if (!isWhole) return addUp(results);
  const placed: never[] = [];
  for (const [i, { rows }] of results.entries()) {
    for (const [j, row] of rows.entries()) placed[given[i]![j]!] = row;
  }
  const sum = addUp(results);
  sum.rows = placed;
  return sum;
}
