/** No difference between one PostgreSQL and 1, 2, 4 or 7 shards, whatever is asked of them. */
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { TestPostgres } from '../../../support/postgres.ts';
import { Differential } from './differential.ts';
import { generate } from './grammar.ts';

/** `scripts/differential.ts` runs as many as one likes. */
const STATEMENTS = Number(process.env.STATEMENTS ?? 400);

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
    { numRuns: STATEMENTS },
  );
  const { answered, scattered, refused, statements } = differential.counts;
  console.log(differential.counts, differential.refusals);
  expect(statements).toBeGreaterThanOrEqual(STATEMENTS);
  // All that was to be tried, was.
  expect(answered).toBeGreaterThan(STATEMENTS);
  expect(scattered).toBeGreaterThan(STATEMENTS / 4);
  expect(refused).toBeGreaterThan(STATEMENTS / 20);
}, 600_000);
