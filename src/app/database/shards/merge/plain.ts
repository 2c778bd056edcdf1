/**
 * One row of aggregates, combined here: counts, sums of integers, the least and the greatest of what has a certain
 * order.
 *
 * Holds true here: it gives what PostgreSQL would, or nothing; then PostgreSQL does it.
 */
import type pg from 'pg';
import type { QueryMerge, Slot } from '../plan/plan.ts';
import { comparison } from './compare.ts';
import { type Gathered, type RawRow, resultOf } from './gathered.ts';

const BIGINT = 20;
const BOOLEAN = 16;
const MAX_BIGINT = 2n ** 63n - 1n;

/** @returns undefined when it is not certain what PostgreSQL would give */
export function mergePlain(
  { fields, rows }: Gathered,
  { plain, slots }: QueryMerge,
  options: Parameters<typeof resultOf>[3],
): pg.QueryResult<never> | undefined {
  if (!plain) return undefined;
  const row: RawRow = [];
  const named: pg.FieldDef[] = [];
  for (const { name, slot: number } of plain) {
    const slot = slots[number]!;
    const at = slot.columns[0]!;
    const field = fields[at]!;
    const values = rows.map(one => one[at] ?? null);
    const value = combine(slot, field.dataTypeID, values);
    if (value === undefined) return undefined;
    row.push(value);
    named.push({ ...field, name });
  }
  return resultOf('SELECT', named, [row], options);
}

function combine(
  slot: Slot,
  type: number,
  values: readonly (string | null)[],
): string | null | undefined {
  const known = values.filter(value => value !== null);
  if (slot.kind === 'count') return sumOf(known);
  if (known.length === 0)
    return slot.kind === 'average' || slot.kind === 'value' ? undefined : null;
  // Of int2 and int4; those of int8 are numeric.
  if (slot.kind === 'sum') return type === BIGINT ? sumOf(known) : undefined;
  if (slot.kind !== 'same') return undefined;
  if (type === BOOLEAN) {
    if (slot.name === 'bool_or') return known.includes('t') ? 't' : 'f';
    return slot.name === 'bool_and' || slot.name === 'every'
      ? known.includes('f')
        ? 'f'
        : 't'
      : undefined;
  }
  if (slot.name !== 'min' && slot.name !== 'max') return undefined;
  const compare = comparison(type, known, false);
  if (!compare) return undefined;
  const sign = slot.name === 'min' ? 1 : -1;
  return known.reduce((best, value) => (compare(value, best) * sign < 0 ? value : best));
}

function sumOf(values: readonly string[]): string | undefined {
  const sum = values.reduce((total, value) => total + BigInt(value), 0n);
  return sum > MAX_BIGINT || sum < -MAX_BIGINT ? undefined : String(sum);
}
