/** Who publishes while somebody subscribes for the first time: the message waits for a subscription, or has one. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createPool, type Pool } from '../../../src/app/database/pool.ts';
import { createQueue } from '../../../src/app/queue/create-queue.ts';
import { defineJob } from '../../../src/app/queue/definitions.ts';
import { TestPostgres } from '../../support/postgres.ts';
import { until } from '../../support/until.ts';

let postgres: TestPostgres;
let pool: Pool;

beforeAll(async () => {
  postgres = await TestPostgres.start();
});
afterAll(() => postgres.remove());

/** In one session, without a pause: so it meets whatever lies between two of its statements. */
const PUBLISH_ALL = `do $$ begin
  for topic in 1 .. 3000 loop
    perform banyan_queue.publish('topic ' || topic, array[topic::bigint], array['{}'], null, null, null, null, null, false);
    commit;
  end loop;
end $$`;
/** The same topics at about the same pace, as `declare` does it: so each publish meets its topic's first subscription, or nearly. */
const SUBSCRIBE_ALL = `do $$ begin
  for topic in 1 .. 3000 loop
    insert into banyan_queue.subscription (topic, name, max_attempts, first_ms, factor, max_ms, keep_results_ms)
    values ('topic ' || topic, 'work', 1, 1, 1, 1, 0);
    commit;
    perform banyan_queue.adopt('topic ' || topic);
    commit;
  end loop;
end $$`;

test('none is lost between the look for subscriptions and the look that finds none', async () => {
  pool = postgres.adopt(createPool({ connectionString: await postgres.database() }));
  const queue = createQueue({ pool });
  await queue.publish(defineJob({ name: 'first' }), {});
  for (let round = 0; round < 5; round++) {
    await pool.query(
      'truncate banyan_queue.subscription, banyan_queue.delivery, banyan_queue.unsubscribed',
    );
    await Promise.all([pool.query(PUBLISH_ALL), pool.query(SUBSCRIBE_ALL)]);
    const { rows } = await pool.query<{ kept: number }>(
      'select (select count(*) from banyan_queue.delivery)::int + (select count(*) from banyan_queue.unsubscribed)::int as kept',
    );
    expect(rows[0]!.kept).toBe(3000);
  }
  await queue.close();
});

test('what was committed after a worker had looked for it is found all the same', async () => {
  pool = postgres.adopt(createPool({ connectionString: await postgres.database() }));
  const queue = createQueue({ pool, lease: '1 s' });
  const job = defineJob({ name: 'late' });
  let handled = 0;
  await pool.transaction(async () => {
    await queue.publish(job, {});
    queue.work(job, () => {
      handled++;
    });
    await queue.ready();
  });
  await until(() => handled === 1);
  await queue.close();
});
