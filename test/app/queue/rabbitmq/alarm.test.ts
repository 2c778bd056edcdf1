/** A RabbitMQ that has no memory left takes no messages: publishers go on, or are told why not, and nothing is lost. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createPool, type Pool } from '../../../../src/app/database/pool.ts';
import { nextId } from '../../../../src/app/ids/next-id.ts';
import { createQueue } from '../../../../src/app/queue/create-queue.ts';
import { defineJob } from '../../../../src/app/queue/definitions.ts';
import { PostgresEngine } from '../../../../src/app/queue/postgres/engine.ts';
import { placesOf } from '../../../../src/app/queue/postgres/places.ts';
import { Broker } from '../../../../src/app/queue/rabbitmq/broker.ts';
import { TwoEngines } from '../../../../src/app/queue/rabbitmq/engine.ts';
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

const inPostgres = async () => {
  const { rows } = await pool.query('select count(*)::int as n from banyan_queue.delivery');
  return rows[0].n as number;
};

test('what is under way, and what comes then, goes to PostgreSQL; all of it is done, and has its effect once', async () => {
  const job = defineJob({ name: 'alarmed' });
  await pool.query('create table effects (id bigint not null)');
  const work = async () => {
    const worker = createQueue({ pool }, { env: rabbit.env });
    worker.work(job, each =>
      each.transaction(tx => tx.query('insert into effects values ($1)', [each.id])),
    );
    await worker.ready();
    return worker;
  };
  await (await work()).close();
  const published = [await queue.publish(job, 'before')];
  expect(await inPostgres()).toBe(0);

  await rabbit.setMemoryLimit(1);
  // The node says it to who publishes, and no sooner: of one of these nobody knows whether RabbitMQ has it.
  await until(
    async () => {
      published.push(await queue.publish(job, 'while nobody has noticed'));
      return (await inPostgres()) > 0 ? true : undefined;
    },
    { what: 'it takes no more' },
  );
  const before = await inPostgres();
  for (let n = 0; n < 20; n++) published.push(await queue.publish(job, n));
  expect(await inPostgres()).toBe(before + 20);

  await rabbit.setMemoryLimit(256);
  const worker = await work();
  await until(async () => (await queue.stats())[0]?.depth === 0, { what: 'all are done' });
  const { rows } = await pool.query<{ id: string }>('select id from effects');
  expect(rows.map(({ id }) => id).sort()).toEqual(published.toSorted());
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

test('over several shards what is under way is uncertain, and the error says why', async () => {
  const [place] = placesOf(pool)();
  const broker = Broker.find(rabbit.env)!;
  const engine = new TwoEngines({
    pool,
    places: () => [place!, { ...place!, id: 'another' }],
    postgres: new PostgresEngine({ pool, leaseMs: 30_000 }),
    broker,
  });
  const plain = { key: undefined, priority: 0, delayMs: 0, dedupe: undefined };
  const publish = () =>
    engine.publish([{ id: nextId(), topic: 'alarmed', payload: '1', ...plain }], undefined);
  await publish();
  await rabbit.setMemoryLimit(1);
  const error = await until(
    () =>
      publish().then(
        () => undefined,
        thrown => thrown as Error,
      ),
    {
      what: 'it takes no more',
    },
  );
  expect(error).toMatchObject({ code: 'PUBLISH_UNCERTAIN' });
  expect(error.message).toMatch(/takes none for now \(.*memory/);
  const before = await inPostgres();
  await publish();
  expect(await inPostgres()).toBe(before + 1);
  await rabbit.setMemoryLimit(256);
  await engine.close();
}, 180_000);
