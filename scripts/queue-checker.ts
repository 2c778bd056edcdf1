/**
 * The long run of the queue's checker: `node --conditions=banyan-source scripts/queue-checker.ts --messages 100000`.
 * With `--broken` a build without the lease's guard, which it has to find.
 */
import { parseArgs } from 'node:util';
import { TestPostgres } from '../test/support/postgres.ts';
import { checkQueue } from '../test/support/queue-checker.ts';

const { values } = parseArgs({
  options: {
    messages: { type: 'string', default: '100000' },
    workers: { type: 'string', default: '3' },
    every: { type: 'string', default: '1500' },
    broken: { type: 'boolean', default: false },
  },
});
const postgres = await TestPostgres.start();
try {
  const report = await checkQueue(postgres, {
    messages: Number(values.messages),
    workers: Number(values.workers),
    faultEveryMs: Number(values.every),
    unguarded: values.broken,
    log: line => process.stdout.write(`\r${line}   `),
  });
  const { lost, twice, ofRolledBack, outOfOrder } = report;
  console.log('\n', report);
  process.exitCode = lost + twice + ofRolledBack + outOfOrder > 0 ? 1 : 0;
} finally {
  await postgres.remove();
}
