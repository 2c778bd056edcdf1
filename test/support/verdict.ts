/** What a witness's account has to say, by how much of a fault may be felt. */
import { expect } from 'vitest';
import type { Account } from './witness.ts';

const NOTHING = { lost: [], stale: [], duplicated: [], phantoms: [] };

/** Every acknowledgement holds. Requests may have failed. */
export function expectNothingLost({ lost, stale, duplicated, phantoms }: Account): void {
  // The same write may be missed by a thousand reads.
  expect({ lost, stale: [...new Set(stale)], duplicated, phantoms }).toEqual(NOTHING);
}

/** And no read failed; of writes, one at the most for each session, which was under way: what comes after is held. */
export function expectHeld(account: Account, sessions: number): void {
  expectNothingLost(account);
  expect(account.reads.failed, JSON.stringify(account.failures)).toBe(0);
  expect(account.writes.unknown).toBeLessThanOrEqual(sessions);
}

/** And nothing at all failed. */
export function expectUnnoticed(account: Account): void {
  expect(account.failures).toEqual({});
  expect(account).toMatchObject({ writes: { refused: 0, unknown: 0 }, reads: { failed: 0 } });
  expectNothingLost(account);
}
