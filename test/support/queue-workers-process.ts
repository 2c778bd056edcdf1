/** A worker of `queue-workers.ts`. */
import { createPool } from '../../src/app/database/pool.ts';
import { createQueue } from '../../src/app/queue/create-queue.ts';
import { told } from './queue-workers.ts';
import { until } from './until.ts';

const [, , url, leaseMs] = process.argv;
// Who started it is gone.
process.on('disconnect', () => process.exit(1));
const pool = createPool({ connectionString: url!, max: 4 });
pool.on('error', () => {});
const queue = createQueue({ pool, lease: Number(leaseMs) });

queue.work(
  told,
  async job => {
    const { n, does } = job.payload;
    if (does === 'die') process.kill(process.pid, 'SIGKILL');
    await pool.query('insert into begun values ($1, $2)', [n, process.pid]);
    if (does === 'hang') await new Promise(() => {});
    if (does === 'wait') {
      await until(async () => {
        const { rowCount } = await pool.query('select from gate where pid = $1', [process.pid]);
        return rowCount === 1;
      });
    }
    try {
      await job.transaction(tx =>
        tx.query('insert into effects values ($1, $2)', [n, process.pid]),
      );
    } catch (error) {
      process.send?.((error as { code?: string }).code ?? String(error));
      throw error;
    }
  },
  { concurrency: 2 },
);
await queue.ready();
process.send?.('ready');
