/** A worker, or a producer, of `queue-checker.ts`: a process of its own, to be killed. */
import { setTimeout as delay } from 'node:timers/promises';
import { createQueue } from '../../src/app/queue/create-queue.ts';
import { defineJob } from '../../src/app/queue/definitions.ts';
import { poolOn, type QueueGround } from './queue-grounds.ts';

/** What the checker tells its processes. */
export interface Instructions extends Pick<QueueGround, 'url' | 'mapFile' | 'queueEnv'> {
  role: 'work' | 'produce';
  messages: number;
  unguarded: boolean;
}

const { role, messages, unguarded, ...ground } = JSON.parse(process.argv[2]!) as Instructions;
// Who started it is gone.
process.on('disconnect', () => process.exit(1));
const pool = poolOn(ground, 60_000);
const queue = createQueue(
  { pool, lease: 1_500 },
  { unguarded, ...(Object.keys(ground.queueEnv).length > 0 ? { env: ground.queueEnv } : {}) },
);
const retry = { maxAttempts: 1_000, first: 20, factor: 1 };
const keyed = defineJob({ name: 'checked', retry });
/** Over RabbitMQ, where there is one. */
const plain = defineJob({ name: 'checked-plain', retry });

/** Of each round. */
const KEYED = 20;
const PLAIN = 10;

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
    await queue.publish(keyed, { key, n }, { key });
    if (Math.random() < 0.1) throw new Unwanted();
  });
}

/** What is in `acknowledged` was published for certain; what is in `tried` alone may have been. */
async function producePlain(): Promise<void> {
  const { rows } = await pool.query<{ id: number }>(
    'insert into tried select nextval($1) from generate_series(1, $2) returning id::int',
    ['tried_ids', PLAIN],
  );
  const outcomes = await Promise.allSettled(rows.map(({ id }) => queue.publish(plain, { id })));
  const done = rows.filter((_, index) => outcomes[index]!.status === 'fulfilled');
  await pool.query('insert into acknowledged select unnest($1::int[])', [done.map(({ id }) => id)]);
}

if (role === 'work') {
  queue.work(
    keyed,
    each =>
      each.transaction(async tx => {
        begun();
        const { key, n } = each.payload as { key: string; n: number };
        await tx.query('insert into effects (key, n) values ($1, $2)', [key, n]);
      }),
    { concurrency: 8 },
  );
  queue.work(
    plain,
    each =>
      each.transaction(async tx => {
        begun();
        await tx.query('insert into plain_effects values ($1)', [
          (each.payload as { id: number }).id,
        ]);
      }),
    { concurrency: 4 },
  );
} else {
  for (;;) {
    const { rows } = await pool
      .query<{ n: string; keys: string[] }>('select sum(n) as n, array_agg(key) as keys from keys')
      .catch(() => ({ rows: [] }));
    if (!rows[0]) {
      await delay(100);
      continue;
    }
    if (Number(rows[0].n) >= messages) break;
    const { keys } = rows[0];
    const any = () => keys[Math.floor(Math.random() * keys.length)]!;
    begun();
    await Promise.allSettled([
      ...Array.from({ length: KEYED }, () => produce(any())),
      producePlain(),
    ]);
  }
  process.exit(0);
}
