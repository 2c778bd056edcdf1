/** Durations as people write them in a topology: `30s`, `15m`, `6h`, `1d`. Pure. */

const UNIT_MS = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;

/** @returns milliseconds; undefined for what is no duration */
export function parseDuration(text: string): number | undefined {
  const [, amount, unit] = /^(\d{1,6}(?:\.\d{1,3})?)\s*([smhd])$/.exec(text.trim()) ?? [];
  if (!amount || !unit) return undefined;
  const ms = Math.round(Number(amount) * UNIT_MS[unit as keyof typeof UNIT_MS]);
  return ms > 0 ? ms : undefined;
}
