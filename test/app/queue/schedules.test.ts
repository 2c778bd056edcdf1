/** Which times of a schedule fire, whatever the clock does; and how long is waited between attempts. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { backoffMs } from '../../../src/app/queue/options.ts';
import { dueTimes, nextTime } from '../../../src/app/queue/postgres/schedules.ts';

const HOURLY = { cron: '0 * * * *', timeZone: 'UTC', missed: 'latest' } as const;
const at = (text: string) => new Date(`2026-03-01T${text}Z`);

test('a clock that jumps ahead an hour fires what was missed once, and one that jumps back fires nothing twice', () => {
  const jumped = dueTimes(HOURLY, at('11:00:00'), at('11:30:00'));
  expect(jumped).toEqual({ fire: at('11:00:00'), next: at('12:00:00') });
  const late = dueTimes(HOURLY, at('11:00:00'), at('14:30:00'));
  expect(late).toEqual({ fire: at('14:00:00'), next: at('15:00:00') });
  expect(dueTimes({ ...HOURLY, missed: 'skip' }, at('11:00:00'), at('14:30:00')).fire).toBe(
    undefined,
  );
});

test('whatever the clock does, each time fires at most once and the next is later than now', () => {
  const cron = fc.constantFrom('* * * * *', '*/7 * * * *', '0 * * * *', '30 2 * * *', '0 0 * * 1');
  const zone = fc.constantFrom('UTC', 'Europe/Zurich', 'America/New_York', 'Asia/Kolkata');
  const steps = fc.array(fc.integer({ min: -7_200_000, max: 86_400_000 }), { maxLength: 20 });
  fc.assert(
    fc.property(cron, zone, steps, (text, timeZone, jumps) => {
      let now = at('01:00:00').getTime();
      let next = nextTime(text, timeZone, new Date(now))!;
      const fired: number[] = [];
      for (const jump of jumps) {
        now += jump;
        if (next.getTime() > now) continue;
        const due = dueTimes({ cron: text, timeZone, missed: 'latest' }, next, new Date(now));
        expect(due.fire!.getTime()).toBeLessThanOrEqual(now);
        expect(due.next!.getTime()).toBeGreaterThan(now);
        fired.push(due.fire!.getTime());
        next = due.next!;
      }
      expect(fired).toEqual([...new Set(fired)].sort((a, b) => a - b));
    }),
    { numRuns: 50 },
  );
});

test('the wait grows, is never longer than the longest, and never shorter than half of what it is without jitter', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 60_000 }),
      fc.double({ min: 1, max: 10, noNaN: true }),
      fc.integer({ min: 1, max: 3_600_000 }),
      fc.integer({ min: 1, max: 1_000 }),
      fc.double({ min: 0, max: 1, noNaN: true }),
      (firstMs, factor, maxMs, failed, random) => {
        const whole = Math.min(maxMs, firstMs * factor ** (failed - 1));
        const wait = backoffMs({ firstMs, factor, maxMs }, failed, random);
        expect(wait).toBeGreaterThanOrEqual(whole / 2);
        expect(wait).toBeLessThanOrEqual(maxMs);
      },
    ),
  );
});
