/** `database.backup`: what is taken, what is refused in which words, what it is by default. */
import { expect, test } from 'vitest';
import { completeTopology } from '../../src/topology/defaults.ts';
import { parseDuration } from '../../src/topology/duration.ts';
import type { Backup } from '../../src/topology/topology.ts';
import { InvalidTopology, validateTopology } from '../../src/topology/validate.ts';

const FILE = '/app/banyan.config.ts';
const FOLDER = {
  path: '/app',
  files: ['server.ts'],
  hasMigrations: false,
  machineMemoryMb: 4_000,
};

function complete(backup: Backup) {
  const topology = validateTopology({ database: { replicas: 1, backup } }, FILE);
  return completeTopology(topology, FOLDER).database.backup;
}

test('an empty object takes all defaults, and what is written counts', () => {
  expect(complete({})).toEqual({ keep: 2, everyMs: 86_400_000, encrypt: false, backlogMb: 4_096 });
  expect(
    complete({ repository: '/mnt/b', keep: 5, every: '6h', encrypt: true, backlogMb: 64 }),
  ).toEqual({ repository: '/mnt/b', keep: 5, everyMs: 21_600_000, encrypt: true, backlogMb: 64 });
});

test.for([
  [{ replicas: 1, backup: { every: '1 day' } }, 'database.backup.every', '1m to 31d'],
  [{ replicas: 1, backup: { every: '30s' } }, 'database.backup.every', '1m to 31d'],
  [{ replicas: 1, backup: { keep: 0 } }, 'database.backup.keep', '1 to 1000'],
  [{ replicas: 1, backup: { repository: "/a'b" } }, 'database.backup.repository', 'without quotes'],
  [{ replicas: 1, backup: { repository: '/a\nb' } }, 'database.backup.repository', 'line ends'],
  [{ replicas: 1, backup: { repositry: '/a' } }, 'database.backup.repositry', 'no such key'],
  [{ backup: {} }, 'database.backup', 'replicas'],
  [{ url: 'postgres://h/d', backup: {} }, 'database.backup', 'beside `url`'],
  [{ settings: { archive_command: 'cp' } }, 'database.settings.archive_command', 'sets itself'],
] as const)('%j is refused', ([database, path, words]) => {
  try {
    validateTopology({ database }, FILE);
  } catch (error) {
    expect(error).toBeInstanceOf(InvalidTopology);
    const { mistakes } = error as InvalidTopology;
    expect(mistakes.map(each => each.path)).toContain(path);
    expect(mistakes.find(each => each.path === path)!.allowed).toContain(words);
    return;
  }
  expect.unreachable('it was taken for valid');
});

test('durations', () => {
  const cases = { '30s': 30_000, '1.5h': 5_400_000, '15 m': 900_000, '1d': 86_400_000 };
  for (const [text, ms] of Object.entries(cases)) expect(parseDuration(text)).toBe(ms);
  for (const text of ['', '1', 'd', '-1d', '1w', '0s', '1d2h', 'NaNd']) {
    expect(parseDuration(text)).toBeUndefined();
  }
});
