/** How old an answer may be, where the application says that it may be old at all. */
import { BanyanError } from '../../../errors.ts';

/** Milliseconds, or a text with its unit: `500ms`, `5s`, `1m`. */
export type Staleness = number | string;

export class InvalidStaleness extends BanyanError {
  constructor(value: unknown, where: string) {
    super('INVALID_STALENESS', {
      what: `${JSON.stringify(value) ?? String(value)} does not say how old an answer may be`,
      where,
      remedy:
        "Give a number of milliseconds, or a text such as '500ms', '5s' or '1m', up to 10 minutes",
    });
  }
}

const UNITS: Record<string, number> = { ms: 1, s: 1_000, m: 60_000 };

/** What is known of the past reaches back this far, see `lag.ts`. */
const MAX_STALENESS_MS = 600_000;

/**
 * @returns milliseconds
 * @throws InvalidStaleness
 */
export function stalenessMs(value: Staleness, where: string): number {
  const [, digits, unit = ''] = /^(\d+(?:\.\d+)?)\s*(ms|s|m)$/.exec(String(value)) ?? [];
  const ms = typeof value === 'number' ? value : Number(digits) * (UNITS[unit] ?? Number.NaN);
  if (!(ms >= 0 && ms <= MAX_STALENESS_MS)) throw new InvalidStaleness(value, where);
  return ms;
}

/**
 * What a query says of it itself.
 * @param otherwise for one that says nothing
 * @throws InvalidStaleness
 */
export function stalenessOf(config: unknown, otherwise: number | undefined): number | undefined {
  if (typeof config !== 'object' || config === null) return otherwise;
  const { staleness } = config as { staleness?: Staleness };
  return staleness === undefined ? otherwise : stalenessMs(staleness, 'query({ staleness })');
}
