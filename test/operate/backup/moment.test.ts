/** What `--to` takes. */
import { expect, test } from 'vitest';
import { parseTarget } from '../../../src/operate/backup/moment.ts';
import { isDue, typeOfNext } from '../../../src/operate/backup/schedule.ts';

const NOW = new Date('2026-11-25T20:00:00.000Z');
const local = (year: number, month: number, day: number, h = 0, min = 0, s = 0) =>
  new Date(year, month, day, h, min, s).toISOString();

test.for([
  ['2026-11-25T19:07:23Z', '2026-11-25T19:07:23.000Z'],
  ['2026-11-25 19:07:23.5Z', '2026-11-25T19:07:23.500Z'],
  ['2026-11-25T19:07:23.123456+02:00', '2026-11-25T17:07:23.123Z'],
  ['2026-11-25 09:07-0330', '2026-11-25T12:37:00.000Z'],
  ['2024-02-29 10:00+01', '2024-02-29T09:00:00.000Z'],
  ['10m ago', '2026-11-25T19:50:00.000Z'],
  ['2 hours ago', '2026-11-25T18:00:00.000Z'],
  ['2026-01-02 03:04:05', local(2026, 0, 2, 3, 4, 5)],
  ['2026-01-02', local(2026, 0, 2)],
] as const)('%s is a moment', ([text, wanted]) => {
  expect(parseTarget(text, NOW)).toEqual({ kind: 'time', at: new Date(wanted) });
});

test('the latest, and labels of all kinds', () => {
  expect(parseTarget('latest', NOW)).toEqual({ kind: 'latest' });
  for (const label of ['20261125-190723F', '20261125-190723F_20261126-000000I']) {
    expect(parseTarget(label, NOW)).toEqual({ kind: 'backup', label });
  }
});

test.for([
  '',
  'now',
  '2026-02-30',
  '2026-13-01',
  '2026-11-25 25:00',
  '25:00',
  '10 ago',
  'm ago',
  '2026-11-25T19:07:23 Berlin',
  '20261125-190723',
  "2026-11-25'; drop table users",
])('%j is none, and the forms that are one are told', text => {
  expect(() => parseTarget(text, NOW)).toThrow(/latest; the label of a backup/);
});

test('a moment that is still to come is refused', () => {
  expect(() => parseTarget('2026-11-25T20:00:01Z', NOW)).toThrow('still to come');
});

test('every seventh backup is a full one, and each is due when its time has passed', () => {
  const day = 86_400_000;
  const made = (kind: 'full' | 'incremental', daysAgo: number) => ({
    label: '',
    kind,
    startedAt: new Date(NOW.getTime() - daysAgo * day),
    endedAt: new Date(NOW.getTime() - daysAgo * day),
    databaseBytes: 1,
    repositoryBytes: 1,
    firstSegment: '',
    lastSegment: '',
    isDamaged: false,
  });
  expect(isDue([], day, NOW)).toBe(true);
  expect(typeOfNext([], day, NOW)).toBe('full');
  expect(isDue([made('full', 0.5)], day, NOW)).toBe(false);
  expect(isDue([made('full', 1)], day, NOW)).toBe(true);
  expect(typeOfNext([made('full', 6), made('incremental', 1)], day, NOW)).toBe('incr');
  expect(typeOfNext([made('full', 7), made('incremental', 1)], day, NOW)).toBe('full');
  // What others build on must be whole.
  expect(typeOfNext([{ ...made('full', 1), isDamaged: true }], day, NOW)).toBe('full');
});
