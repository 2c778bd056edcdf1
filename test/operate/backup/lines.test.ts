/** Which backup leads to which moment, when the database was restored in between. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  afterRestore,
  backupFor,
  FIRST_LINES,
  type Line,
  lineAt,
} from '../../../src/operate/backup/lines.ts';

const at = (minute: number) => new Date(minute * 60_000);
const made = (from: number, to = from + 1) => ({ startedAt: at(from), endedAt: at(to) });

describe('a database that was restored at minute 100 to minute 50', () => {
  const lines = afterRestore(FIRST_LINES, 1, { line: 0, at: at(50) }, at(100));

  test('asked for a moment before the restore, it is the line that was left', () => {
    expect(lineAt(lines, at(75))).toBe(0);
    expect(backupFor([made(10), made(60)], lines, 0, at(75))).toEqual(made(60));
  });

  test('asked for a moment after it, no backup of what was taken back is used', () => {
    expect(lineAt(lines, at(110))).toBe(1);
    expect(backupFor([made(10), made(60)], lines, 1, at(110))).toEqual(made(10));
    expect(backupFor([made(10), made(60), made(105)], lines, 1, at(110))).toEqual(made(105));
  });

  test('a backup that was not finished at the moment is none', () => {
    expect(backupFor([made(105, 120)], lines, 1, at(110))).toBeUndefined();
    expect(backupFor([made(45, 55)], lines, 1, at(110))).toBeUndefined();
  });
});

/** A database of numbers: minute n writes n. Restores and backups, done to a model of it and to the lines. */
const history = fc.array(
  fc.record({
    what: fc.constantFrom('backup', 'restore', 'wait'),
    back: fc.integer({ min: 1, max: 40 }),
  }),
  { minLength: 1, maxLength: 25 },
);

test('whatever was restored, backed up and restored again, a backup holds nothing that the moment does not have', () => {
  fc.assert(
    fc.property(history, fc.integer({ min: 1, max: 400 }), (events, asked) => {
      let lines: readonly Line[] = FIRST_LINES;
      let content: number[] = [];
      /** What the database had at the end of each minute. */
      const states: number[][] = [[]];
      const backups: { startedAt: Date; endedAt: Date; content: number[] }[] = [];
      const pass = (minutes: number) => {
        for (let i = 0; i < minutes; i++) {
          content = [...content, states.length];
          states.push(content);
        }
      };
      for (const { what, back } of events) {
        pass(5);
        const now = states.length - 1;
        if (what === 'backup') backups.push({ startedAt: at(now), endedAt: at(now), content });
        if (what !== 'restore') continue;
        const target = Math.max(0, now - back);
        const line = lineAt(lines, at(target));
        // Between two minutes: what is of minute `now` belongs to the line that is left.
        const moment = new Date(at(now).getTime() + 1);
        lines = afterRestore(lines, lines.length, { line, at: at(target) }, moment);
        content = states[target]!;
      }
      pass(5);
      const minute = Math.min(asked, states.length - 1);
      const found = backupFor(backups, lines, lineAt(lines, at(minute)), at(minute));
      const wanted = new Set(states[minute]);
      if (found) expect(found.content.every(value => wanted.has(value))).toBe(true);
      // None is overlooked: of those that hold nothing else, and were made by then, it is the newest.
      const fit = backups.filter(
        ({ content: has, endedAt }) =>
          endedAt <= at(minute) && has.every(value => wanted.has(value)),
      );
      if (!found) expect(fit.every(({ content: has }) => has.length === 0)).toBe(true);
    }),
  );
});
