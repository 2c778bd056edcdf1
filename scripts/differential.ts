/**
 * The differential test of the shards, for as long as one likes:
 *
 *     node scripts/differential.ts --statements 100000 --seed 1 --shards 1,2,4,7
 *
 * Each statement goes to one PostgreSQL and to each of the sharded ones. Prints a difference with its seed and
 * goes on, up to ten.
 */
import { parseArgs } from 'node:util';
import fc from 'fast-check';
import { Differential } from '../test/app/database/shards/differential.ts';
import { generate } from '../test/app/database/shards/grammar.ts';
import { TestPostgres } from '../test/support/postgres.ts';

const { values } = parseArgs({
  options: {
    statements: { type: 'string', default: '100000' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    shards: { type: 'string', default: '1,2,4,7' },
    differences: { type: 'string', default: '10' },
  },
});
const statements = Number(values.statements);
const batch = 1_000;
const postgres = await TestPostgres.start();
let found = 0;
try {
  const differential = await Differential.start(postgres, values.shards.split(',').map(Number));
  const began = performance.now();
  let seed = Number(values.seed);
  for (let done = 0; done < statements && found < Number(values.differences); done += batch) {
    let run = 0;
    await fc.assert(
      fc.asyncProperty(fc.gen(), async draw => {
        const statement = generate(draw);
        run++;
        const difference = await differential.difference(statement);
        if (!difference) return;
        found++;
        const what = JSON.stringify({ values: statement.values, ...difference });
        console.log(`difference ${found}, seed ${seed}, run ${run}:\n${statement.text}\n${what}`);
      }),
      { numRuns: Math.min(batch, statements - done), seed },
    );
    const seconds = (performance.now() - began) / 1_000;
    const { counts } = differential;
    console.log(
      `seed ${seed}: ${JSON.stringify(counts)}, ${Math.round(counts.statements / seconds)} a second`,
    );
    seed++;
  }
  const common = [...differential.refusals].sort(([, a], [, b]) => b - a).slice(0, 25);
  for (const [what, times] of common) console.log(`${times} refused: ${what}`);
  differential.close();
} finally {
  await postgres.remove();
}
process.exitCode = found > 0 ? 1 : 0;
