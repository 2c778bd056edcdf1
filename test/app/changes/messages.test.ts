/** The pure parts: what a slot's state means, which transactions have ended, bad messages. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Assembler } from '../../../src/app/changes/assemble.ts';
import { formatLsn } from '../../../src/app/changes/change.ts';
import { parseMessage } from '../../../src/app/changes/pgoutput.ts';
import { judge, type Memory, type Note } from '../../../src/app/changes/slot.ts';
import { fullXid, hasEnded, parseSnapshot } from '../../../src/app/changes/snapshot.ts';
import { parseLsn } from '../../../src/app/database/timelines.ts';

const HISTORY = [
  { timeline: 1, leftAt: 100n },
  { timeline: 2, leftAt: 200n },
];
const HERE = { system: 'one', timeline: 3, history: HISTORY };
const NOTE: Note = { system: 'one', timeline: 3, reader: 'me', gap: undefined };
const MEMORY: Memory = {
  reader: 'me',
  acknowledged: undefined,
  dealtWith: undefined,
  isUnreadable: false,
};
const slot = (confirmed: bigint) => ({ confirmed, isUnusable: false });

test('a slot goes on where it was left, through a failover that kept it', () => {
  expect(judge(HERE, slot(250n), NOTE, MEMORY)).toEqual({ verdict: 'go on' });
  for (const confirmed of [150n, 200n]) {
    expect(judge(HERE, slot(confirmed), { ...NOTE, timeline: 2 }, MEMORY)).toEqual({
      verdict: 'go on',
    });
  }
});

test('a slot that was made after the log left the timeline is another one', () => {
  expect(judge(HERE, slot(201n), { ...NOTE, timeline: 2 }, MEMORY)).toMatchObject({
    reason: 'vanished',
    makes: false,
  });
  expect(judge(HERE, slot(150n), { ...NOTE, timeline: 1 }, MEMORY)).toMatchObject({
    reason: 'vanished',
  });
});

test('what only a lost server has told is a gap, what it acknowledged on idle is none', () => {
  const note = { ...NOTE, timeline: 2 };
  const memory = { ...MEMORY, acknowledged: 230n };
  expect(judge(HERE, slot(190n), note, { ...memory, dealtWith: 220n })).toEqual({
    verdict: 'gap',
    reason: 'diverged',
    from: 200n,
    makes: false,
  });
  expect(judge(HERE, slot(190n), note, { ...memory, dealtWith: 199n })).toEqual({
    verdict: 'go on',
  });
});

test('a slot that is further than who read it is another one, unless somebody else has read', () => {
  const memory = { ...MEMORY, acknowledged: 210n };
  expect(judge(HERE, slot(220n), NOTE, memory)).toMatchObject({ reason: 'vanished', from: 210n });
  expect(judge(HERE, slot(220n), { ...NOTE, reader: 'you' }, memory)).toEqual({ verdict: 'go on' });
});

test('a gap that nobody dealt with is told again', () => {
  const gap = { reason: 'invalidated' as const, from: 7n };
  expect(judge(HERE, slot(250n), { ...NOTE, gap }, MEMORY)).toMatchObject({
    ...gap,
    makes: false,
  });
});

test('no slot, a useless one, no note, another cluster', () => {
  expect(judge(HERE, undefined, undefined, MEMORY)).toMatchObject({ reason: 'first', makes: true });
  expect(judge(HERE, undefined, NOTE, MEMORY)).toMatchObject({ reason: 'vanished', makes: true });
  expect(judge(HERE, { confirmed: 1n, isUnusable: true }, NOTE, MEMORY)).toMatchObject({
    reason: 'invalidated',
    makes: true,
  });
  expect(judge(HERE, slot(1n), { ...NOTE, system: 'two' }, MEMORY)).toMatchObject({
    reason: 'other-cluster',
    makes: false,
  });
  expect(judge(HERE, slot(1n), NOTE, { ...MEMORY, isUnreadable: true })).toMatchObject({
    reason: 'unreadable',
    makes: true,
  });
});

test('a position is printed as PostgreSQL reads it', () => {
  fc.assert(
    fc.property(fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }), lsn => {
      expect(parseLsn(formatLsn(lsn))).toBe(lsn);
    }),
  );
});

test("a transaction's number gets the epoch that it has", () => {
  const number = fc.bigInt({ min: 3n, max: 1n << 40n });
  const distance = fc.bigInt({ min: -(1n << 30n), max: 1n << 30n });
  fc.assert(
    fc.property(number, distance, (xid, ahead) => {
      const xmax = xid + ahead > 3n ? xid + ahead : 3n;
      const short = Number(xid & 0xffff_ffffn);
      expect(fullXid(short, { xmin: 3n, xmax, running: new Set() })).toBe(xid);
    }),
  );
});

test('a transaction has ended when a snapshot does not list it', () => {
  const snapshot = parseSnapshot('10:20:12,15');
  expect([9n, 10n, 12n, 14n, 15n, 19n, 20n, 21n].map(xid => hasEnded(xid, snapshot))).toEqual([
    true,
    true,
    false,
    true,
    false,
    true,
    false,
    false,
  ]);
  expect(hasEnded(4n, parseSnapshot('5:5:'))).toBe(true);
});

test('bytes that are no message throw, and are never a change', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 60 }), bytes => {
      const assembler = new Assembler({ maxChanges: 10, maxBytes: 1000 });
      let taken: unknown;
      try {
        taken = assembler.take(Buffer.from(bytes));
      } catch (error) {
        expect(error).toBeInstanceOf(RangeError);
      }
      expect(taken).toBeUndefined();
    }),
  );
  expect(() => parseMessage(Buffer.from('I\0\0\0\x01N\0\x01t\0\0\0\x05ab', 'latin1'))).toThrow(
    RangeError,
  );
});
