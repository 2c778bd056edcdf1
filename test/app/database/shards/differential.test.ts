/** No difference between one PostgreSQL and 1, 2, 4 or 7 shards, whatever is asked of them. */
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { TestPostgres } from '../../../support/postgres.ts';
import { Differential } from './differential.ts';
import { generate } from './grammar.ts';

/** As many as there is time for; `scripts/differential.ts` runs as many as one likes. */
const MOST_STATEMENTS = 1_000;
const TIME_LIMIT_MS = 20_000;

let postgres: TestPostgres;
let differential: Differential;

beforeAll(async () => {
  postgres = await TestPostgres.start();
  differential = await Differential.start(postgres, [1, 2, 4, 7]);
});
afterAll(async () => {
  differential?.close();
  await postgres?.remove();
});

test('generated statements: rows, counts and SQLSTATEs are those of one PostgreSQL', async () => {
  await fc.assert(
    fc.asyncProperty(fc.gen(), async draw => {
      const statement = generate(draw);
      const difference = await differential.difference(statement);
      expect(difference, `${statement.text}\n${JSON.stringify(statement.values)}`).toBeUndefined();
    }),
    {
      numRuns: MOST_STATEMENTS,
      interruptAfterTimeLimit: TIME_LIMIT_MS,
      markInterruptAsFailure: false,
    },
  );
  const { answered, scattered, refused, zeros, statements } = differential.counts;
  // All that was to be tried, was: each statement goes to four.
  expect(statements).toBeGreaterThan(20);
  expect(answered).toBeGreaterThan(statements);
  expect(scattered).toBeGreaterThan(statements / 4);
  expect(refused).toBeGreaterThan(0);
  expect(zeros).toBeLessThan(answered / 20);
}, 600_000);
