/** A RabbitMQ that has no memory left takes no messages: publishers go on, or are told why not, and nothing is lost. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createPool, type Pool } from '../../../../src/app/database/pool.ts';
import { createQueue } from '../../../../src/app/queue/create-queue.ts';
import { defineJob } from '../../../../src/app/queue/definitions.ts';
import type { PublishUncertain } from '../../../../src/app/queue/rabbitmq/errors.ts';
import type { Queue } from '../../../../src/app/queue/types.ts';
import { log } from '../../../../src/app/telemetry/log.ts';
import { TestPostgres } from '../../../support/postgres.ts';
import { TestRabbitMq } from '../../../support/rabbitmq.ts';
import { until } from '../../../support/until.ts';

log.level = 'silent';

let postgres: TestPostgres;
let rabbit: TestRabbitMq;
let pool: Pool;
let queue: Queue;
beforeAll(async () => {
  [postgres, rabbit] = await Promise.all([TestPostgres.start(), TestRabbitMq.start(1)]);
  pool = postgres.adopt(createPool({ connectionString: await postgres.database() }));
  queue = createQueue({ pool }, { env: rabbit.env });
}, 180_000);
afterAll(async () => {
  await queue?.close();
  await Promise.all([postgres?.remove(), rabbit?.remove()]);
});

test('what is under way is uncertain and says why, what comes then goes to PostgreSQL, and all of it is done', async () => {
  const job = defineJob({ name: 'alarmed' });
  const first = createQueue({ pool }, { env: rabbit.env });
  first.work(job, () => {});
  await first.ready();
  await first.close();
  const inPostgres = async () => {
    const { rows } = await pool.query('select count(*)::int as n from banyan_queue.delivery');
    return rows[0].n as number;
  };
  const published = [await queue.publish(job, 'before')];
  expect(await inPostgres()).toBe(0);

  await rabbit.setMemoryLimit(1);
  // The node says it to who publishes, and no sooner.
  const refused = await until(
    async () => {
      try {
        published.push(await queue.publish(job, 'while nobody has noticed'));
        return undefined;
      } catch (error) {
        return error as PublishUncertain;
      }
    },
    { what: 'it takes no more' },
  );
  expect(refused).toMatchObject({ code: 'PUBLISH_UNCERTAIN' });
  expect(refused.message).toMatch(/takes none for now \(.*memory/);
  const before = await inPostgres();
  for (let n = 0; n < 20; n++) published.push(await queue.publish(job, n));
  expect(await inPostgres()).toBe(before + 20);

  await rabbit.setMemoryLimit(256);
  const seen: string[] = [];
  const worker = createQueue({ pool }, { env: rabbit.env });
  worker.work(job, ({ id }) => {
    seen.push(id);
  });
  await until(() => published.every(id => seen.includes(id)), { what: 'all are done' });
  await until(async () => (await queue.stats())[0]?.depth === 0);
  // One that is uncertain is done or not; nothing else is.
  const expected = new Set([...published, ...refused.ids]);
  expect(seen.filter(id => !expected.has(id))).toEqual([]);
  expect(new Set(seen).size).toBe(seen.length);
  await worker.close();
  await until(
    async () => {
      const count = await inPostgres();
      await queue.publish(job, 'after');
      return (await inPostgres()) === count;
    },
    { what: 'messages go over RabbitMQ again' },
  );
}, 180_000);
