/** What the router decides by itself: lag, choice, positions, staleness, what an error means. */
import fc from 'fast-check';
import pg from 'pg';
import { describe, expect, test } from 'vitest';
import {
  isBroken,
  isRefusal,
  isStandbysTrouble,
  wasNotSent,
} from '../../../../src/app/database/breakage.ts';
import { covers, endOfLastRecord } from '../../../../src/app/database/consistency/position.ts';
import { Scope } from '../../../../src/app/database/consistency/scope.ts';
import { stalenessMs } from '../../../../src/app/database/consistency/staleness.ts';
import { choose } from '../../../../src/app/database/members/choose.ts';
import { PrimaryHistory } from '../../../../src/app/database/members/lag.ts';

describe('lag', () => {
  test('who has replayed what the primary had last is not behind; who has less is by the time since then', () => {
    const history = new PrimaryHistory();
    history.add(1_000, 100n);
    history.add(2_000, 200n);
    history.add(3_000, 300n);
    expect(history.lagMs(300n)).toBe(0);
    expect(history.lagMs(299n)).toBe(1_000);
    expect(history.lagMs(100n)).toBe(2_000);
    expect(history.lagMs(99n)).toBe(Number.POSITIVE_INFINITY);
    expect(history.stalenessMs(300n, 3_400)).toBe(400);
    history.clear();
    expect(history.lagMs(300n)).toBe(Number.POSITIVE_INFINITY);
  });

  test('a quiet primary leaves nobody behind', () => {
    const history = new PrimaryHistory();
    for (let at = 0; at < 60_000; at += 500) history.add(at, 100n);
    expect(history.lagMs(100n)).toBe(0);
    expect(history.stalenessMs(100n, 60_000)).toBe(500);
  });

  test('property: never less than it is', () => {
    const steps = fc.array(
      fc.record({
        afterMs: fc.integer({ min: 1, max: 2_000 }),
        bytes: fc.integer({ min: 0, max: 50 }),
      }),
      { minLength: 1, maxLength: 100 },
    );
    fc.assert(
      fc.property(steps, fc.nat(2_000), (moves, replayed) => {
        const history = new PrimaryHistory();
        let [at, lsn] = [0, 0n];
        // The last moment at which the primary was not past the replica.
        let together: number | undefined;
        for (const { afterMs, bytes } of moves) {
          at += afterMs;
          lsn += BigInt(bytes);
          history.add(at, lsn);
          if (lsn <= BigInt(replayed)) together = at;
        }
        const real = together === undefined ? Number.POSITIVE_INFINITY : at - together;
        expect(history.lagMs(BigInt(replayed))).toBeGreaterThanOrEqual(real);
      }),
    );
  });
});

describe('choice', () => {
  const one = (name: string, dataCentre: string, latencyMs: number, inFlight = 0) => ({
    name,
    dataCentre,
    latencyMs,
    inFlight,
  });

  test('the same data centre before all others, whatever the speed', () => {
    const all = [one('a', 'far', 1), one('b', 'here', 100), one('c', 'far', 1)];
    for (let i = 0; i < 50; i++) expect(choose(all, 'here')?.name).toBe('b');
    expect(choose([], 'here')).toBeUndefined();
    expect(choose([all[0]!], 'here')?.name).toBe('a');
  });

  test('of two the one that answers sooner, counted with what it has to do', () => {
    const pair = [one('slow', 'here', 10), one('fast', 'here', 1)];
    for (let i = 0; i < 50; i++) expect(choose(pair, 'here')?.name).toBe('fast');
    const busy = [one('slow', 'here', 10), one('fast', 'here', 1, 20)];
    for (let i = 0; i < 50; i++) expect(choose(busy, 'here')?.name).toBe('slow');
  });

  test('property: never the worst of three or more that differ, and each of equals now and then', () => {
    const all = [one('a', 'x', 1), one('b', 'x', 2), one('c', 'x', 3)];
    const equals = [one('a', 'x', 1), one('b', 'x', 1), one('c', 'x', 1)];
    const seen = new Set<string>();
    fc.assert(
      fc.property(fc.infiniteStream(fc.double({ min: 0, max: 0.999, noNaN: true })), numbers => {
        const random = () => numbers.next().value as number;
        expect(choose(all, 'x', random)?.name).not.toBe('c');
      }),
      { numRuns: 500 },
    );
    for (let i = 0; i < 500; i++) seen.add(choose(equals, 'x')!.name);
    expect(seen.size).toBe(3);
  });
});

describe('positions', () => {
  test('of different timelines nothing covers anything', () => {
    expect(covers({ timeline: 2, lsn: 10n }, { timeline: 2, lsn: 10n })).toBe(true);
    expect(covers({ timeline: 2, lsn: 9n }, { timeline: 2, lsn: 10n })).toBe(false);
    expect(covers({ timeline: 2, lsn: 99n }, { timeline: 1, lsn: 10n })).toBe(false);
    expect(covers({ timeline: 1, lsn: 99n }, { timeline: 2, lsn: 10n })).toBe(false);
  });

  test('a page’s header is not part of a record', () => {
    const segment = 16n * 1024n * 1024n;
    expect(endOfLastRecord(segment * 4n + 40n, segment)).toBe(segment * 4n);
    expect(endOfLastRecord(segment * 4n + 8_192n + 24n, segment)).toBe(segment * 4n + 8_192n);
    // The end of a record that goes on in this page.
    expect(endOfLastRecord(segment * 4n + 8_192n + 40n, segment)).toBe(segment * 4n + 8_192n + 40n);
    expect(endOfLastRecord(segment + 100n, segment)).toBe(segment + 100n);
  });

  test('a position that was asked before the write proves nothing', () => {
    const scope = new Scope();
    const asked = scope.since + 1;
    scope.noteWrite();
    scope.resolve({ timeline: 1, lsn: 1n }, asked);
    expect(scope.token).toBeUndefined();
    expect(scope.isUnresolved).toBe(true);
    scope.resolve({ timeline: 1, lsn: 2n }, scope.since + 1);
    expect(scope.token).toEqual({ timeline: 1, lsn: 2n });
    expect(scope.isUnresolved).toBe(false);
  });

  test('what it is to see at least raises every position, of before and of after, and lowers none', () => {
    const scope = new Scope();
    scope.resolve({ timeline: 1, lsn: 5n }, scope.since + 1);
    scope.atLeast(7n);
    expect(scope.token).toEqual({ timeline: 1, lsn: 7n });
    scope.atLeast(3n);
    expect(scope.token).toEqual({ timeline: 1, lsn: 7n });
    scope.resolve({ timeline: 2, lsn: 6n }, scope.since + 1);
    expect(scope.token).toEqual({ timeline: 2, lsn: 7n });
    scope.resolve({ timeline: 2, lsn: 9n }, scope.since + 1);
    expect(scope.token).toEqual({ timeline: 2, lsn: 9n });
  });
});

test('staleness in words', () => {
  expect(['500ms', '5s', '1.5 s', '1m', 0, 250].map(value => stalenessMs(value, 'here'))).toEqual([
    500, 5_000, 1_500, 60_000, 0, 250,
  ]);
  for (const wrong of [
    '5',
    '5h',
    '',
    's',
    '-1s',
    -1,
    Number.NaN,
    Number.POSITIVE_INFINITY,
    '11m',
  ]) {
    expect(() => stalenessMs(wrong, 'here'), String(wrong)).toThrow('how old');
  }
});

test('what an error says', () => {
  const code = (value: string) => Object.assign(new Error('x'), { code: value });
  for (const each of ['57P01', '57P02', '57P03', '08006', 'ECONNRESET', 'EPIPE']) {
    expect(isBroken(code(each)), each).toBe(true);
  }
  for (const each of ['57014', '23505', '40001', '25006', '53300']) {
    expect(isBroken(code(each)), each).toBe(false);
  }
  expect(isBroken(new Error('Connection terminated unexpectedly'))).toBe(true);
  expect(
    wasNotSent(new Error('Client has encountered a connection error and is not queryable')),
  ).toBe(true);
  expect(isStandbysTrouble(code('40001'))).toBe(true);
  expect(isRefusal(code('25006'))).toBe(true);
  expect(isBroken(new pg.DatabaseError('no', 1, 'error'))).toBe(false);
});
