/** A worker, or a producer, of `queue-checker.ts`: a process of its own, to be killed. */
import { setTimeout as delay } from 'node:timers/promises';
import { createPool } from '../../src/app/database/pool.ts';
import { createQueue } from '../../src/app/queue/create-queue.ts';
import { defineJob } from '../../src/app/queue/definitions.ts';

const [, , role, url, messages, unguarded] = process.argv;
const pool = createPool({ connectionString: url!, max: 8, holdTimeoutMs: 20_000 });
pool.on('error', () => {});
const queue = createQueue({ pool, lease: 1_500 }, { unguarded: unguarded === 'true' });
const job = defineJob<undefined>({
  name: 'checked',
  retry: { maxAttempts: 1_000, first: 20, factor: 1 },
});
interface Payload {
  key: string;
  n: number;
}

let hasBegun = false;
function begun(): void {
  if (!hasBegun) process.send?.('begun');
  hasBegun = true;
}

class Unwanted extends Error {}

/** Once, in a transaction of which a tenth roll back. */
async function produce(key: string): Promise<void> {
  await pool.transaction(async client => {
    const { rows } = await client.query<{ n: number }>(
      'update keys set n = n + 1 where key = $1 returning n',
      [key],
    );
    const { n } = rows[0]!;
    await client.query('insert into published values ($1, $2)', [key, n]);
    await queue.publish(job, { key, n }, { key });
    if (Math.random() < 0.1) throw new Unwanted();
  });
}

if (role === 'work') {
  queue.work(
    job,
    each =>
      each.transaction(async tx => {
        begun();
        const { key, n } = each.payload as Payload;
        await tx.query('insert into effects (key, n) values ($1, $2)', [key, n]);
      }),
    { concurrency: 8 },
  );
} else {
  for (;;) {
    const { rows } = await pool
      .query<{ n: string; keys: string[] }>(
        'select (select count(*) from published) as n, (select array_agg(key) from keys) as keys',
      )
      .catch(() => ({ rows: [] }));
    if (!rows[0]) {
      await delay(100);
      continue;
    }
    if (Number(rows[0].n) >= Number(messages)) break;
    const { keys } = rows[0];
    const any = () => keys[Math.floor(Math.random() * keys.length)]!;
    begun();
    await Promise.allSettled(Array.from({ length: 20 }, () => produce(any())));
  }
  process.exit(0);
}
