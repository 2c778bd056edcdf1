/**
 * Order of values by their text, where it is certain to be PostgreSQL's.
 *
 * Holds true here: a type that is not listed has no comparison, and its rows are sorted by PostgreSQL.
 */
import type { RawRow } from './gathered.ts';

type Compare = (a: string, b: string) => number;

const byNumber: Compare = (a, b) => {
  const [x, y] = [Number(a), Number(b)];
  // NaN is larger than all, and equal to itself.
  if (Number.isNaN(x) || Number.isNaN(y)) return Number(Number.isNaN(x)) - Number(Number.isNaN(y));
  return x - y || 0;
};
const byBigInt: Compare = (a, b) => {
  const [x, y] = [BigInt(a), BigInt(b)];
  return x < y ? -1 : x > y ? 1 : 0;
};
const byUnits: Compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
/** The collation "C" compares bytes. */
const byBytes: Compare = (a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b));

/** A date of four digits, and a time: as text in order, when the zone is the same. */
const DATE = /^\d{4}-\d\d-\d\d( \d\d:\d\d:\d\d(\.\d+)?([+-][\d:]+)?)?$/;

/**
 * @param oid of the type
 * @param values all that will be compared
 * @param isBytewise it is text in the collation "C"
 */
export function comparison(
  oid: number,
  values: Iterable<string | null>,
  isBytewise: boolean,
): Compare | undefined {
  switch (oid) {
    case 21:
    case 23:
    case 700:
    case 701:
      return byNumber;
    case 20:
      return byBigInt;
    // `f` and `t`; digits and lower letters.
    case 16:
    case 2950:
      return byUnits;
    case 25:
    case 1043:
      return isBytewise ? byBytes : undefined;
    case 1082:
    case 1114:
    case 1184:
      return isUniform(values) ? byUnits : undefined;
    default:
      return undefined;
  }
}

function isUniform(values: Iterable<string | null>): boolean {
  let zone: string | undefined;
  for (const value of values) {
    if (value === null) continue;
    const match = DATE.exec(value);
    if (!match) return false;
    const own = match[3] ?? '';
    zone ??= own;
    if (own !== zone) return false;
  }
  return true;
}

export interface ResolvedKey {
  readonly at: number;
  readonly isDescending: boolean;
  readonly nullsFirst: boolean;
}

/** Sorts rows that are of known types; those that are equal stay in their order. */
export function sortRows(
  rows: readonly RawRow[],
  keys: readonly ResolvedKey[],
  compare: readonly Compare[],
): RawRow[] {
  return [...rows].sort((a, b) => {
    for (const [i, { at, isDescending, nullsFirst }] of keys.entries()) {
      const [x, y] = [a[at] ?? null, b[at] ?? null];
      if (x === null || y === null) {
        if (x === y) continue;
        return (x === null) === nullsFirst ? -1 : 1;
      }
      const order = compare[i]!(x, y);
      if (order !== 0) return isDescending ? -order : order;
    }
    return 0;
  });
}
