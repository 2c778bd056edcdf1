/** The queue's promises while everything is killed; and that the checker would see it if they did not hold. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { log } from '../../../src/app/telemetry/log.ts';
import { TestPostgres } from '../../support/postgres.ts';
import { checkQueue } from '../../support/queue-checker.ts';
import { plainGround } from '../../support/queue-grounds.ts';

// Failures are what is tried here.
log.level = 'silent';

let postgres: TestPostgres;

beforeAll(async () => {
  postgres = await TestPostgres.start();
});
afterAll(() => postgres.remove());

test('every committed message has its effect once and in order, through kills of workers, producers and PostgreSQL', {
  timeout: 900_000,
}, async () => {
  const report = await checkQueue(await plainGround(postgres), {
    messages: 2_000,
    faultEveryMs: 2_000,
  });
  expect(report.published).toBeGreaterThanOrEqual(2_000);
  expect(report).toMatchObject({ lostOnes: [], lost: 0, twice: 0, ofRolledBack: 0, outOfOrder: 0 });
  expect(report.effects).toBe(report.published);
  expect(report.plain).toMatchObject({ lost: 0, twice: 0, untried: 0 });
});

test('a build without the guard of the lease is found', { timeout: 900_000 }, async () => {
  let twice = 0;
  for (let round = 0; round < 5 && twice === 0; round++) {
    const ground = await plainGround(postgres, { restarts: false });
    ({ twice } = await checkQueue(ground, { messages: 300, faultEveryMs: 1_500, unguarded: true }));
  }
  expect(twice).toBeGreaterThan(0);
});
