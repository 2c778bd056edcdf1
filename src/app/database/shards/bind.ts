/**
 * A plan with the values of one execution: which shards its keys lead to, and what is sent for its parameters. Pure.
 */
import type { LimitValues } from './merge/merge.ts';
import type { Placement } from './plan/placement.ts';
import { COMPUTED_PARAMETER, LIMIT_PARAMETER, type Pins } from './plan/plan.ts';
import type { Written } from './plan/tree.ts';
import { shardsOf } from './plan/values.ts';

/**
 * The shards that own the keys of all parts.
 * @returns undefined when a value's shard cannot be told by itself
 */
export function ownersOf(
  parts: readonly Pins[],
  values: readonly unknown[],
  placement: Placement,
): number[] | undefined {
  if (parts.length === 0) return undefined;
  const found = new Set<number>();
  for (const pins of parts) {
    let part: Set<number> | undefined;
    for (const pin of pins) {
      const shards = shardsOf(pin, values, placement);
      if (!shards) continue;
      part = part ? new Set([...part].filter(shard => shards.has(shard))) : shards;
    }
    if (!part) return undefined;
    for (const shard of part) found.add(shard);
  }
  // A key that is NULL is nowhere, and any shard says so.
  return found.size > 0 ? [...found].sort((a, b) => a - b) : [0];
}

/**
 * The values of a text's parameters.
 * @param limit of rows that a shard is to send; null: none
 */
export function bindParameters(
  { parameters }: Written,
  values: readonly unknown[],
  limit: bigint | null = 0n,
  computed: readonly (string | null)[] = [],
): unknown[] {
  return parameters.map(number =>
    number >= COMPUTED_PARAMETER
      ? computed[number - COMPUTED_PARAMETER]
      : number === LIMIT_PARAMETER
        ? limit === null
          ? null
          : String(limit)
        : values[number - 1],
  );
}

/** How many rows each shard is to send at most: one more than may be merged shows that there are more. */
export function rowsWanted({ count, offset }: LimitValues, maxMergedRows: number): bigint {
  const most = BigInt(maxMergedRows) + 1n;
  if (count === undefined) return most;
  const sum = count + (offset ?? 0n);
  return sum < 0n ? 0n : sum < most ? sum : most;
}
