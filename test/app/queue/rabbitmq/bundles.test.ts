/** Messages that travel together over a real RabbitMQ: each has a fate of its own, also when a worker dies with all of them in hand. */
import { expect, test } from 'vitest';
import type { Delivery } from '../../../../src/app/queue/engine.ts';
import { rabbitReceipt } from '../../../../src/app/queue/rabbitmq/receipt.ts';
import { log } from '../../../../src/app/telemetry/log.ts';
import { numberOf, twoEngines } from '../../../support/two-engines.ts';
import { until } from '../../../support/until.ts';

// Failures are what is tried here.
log.level = 'silent';

const queues = twoEngines();

test('of a bundle whose worker died each goes on by itself: one that kills its workers takes no other with it', async () => {
  const queue = queues.engine();
  const once = queues.policy('work', { maxAttempts: 1 });
  await queue.declare([once]);
  await queue.publish(queues.messages(6), undefined);
  expect(await queues.inRabbit()).toBe(1);
  const consumer = queues.consume(queue, [once]);
  const POISON = 3;
  const done: number[] = [];
  const want = { topic: queues.topic, subscription: 'work', count: 6, suspects: 1 };
  const first = await queues.takeAll(consumer, 'work', 6);
  // Two are done before it dies; of one the acknowledgement is all that is missing.
  await consumer.transaction([first[0]!], tx =>
    tx.query('insert into effects values ($1)', [numberOf(first[0]!)]),
  );
  await rabbitReceipt(first[0]!)!.channel.close();
  await until(
    async () => {
      for (const delivery of await consumer.take([want])) {
        expect(delivery.isSuspect).toBe(true);
        if (numberOf(delivery) === POISON) await rabbitReceipt(delivery)!.channel.close();
        else {
          await consumer.transaction([delivery], tx =>
            tx.query('insert into effects values ($1)', [numberOf(delivery)]),
          );
          await consumer.complete([{ delivery }]);
          done.push(numberOf(delivery));
        }
      }
      return done.length >= 4 && (await queue.deadLetters({ topic: queues.topic }, 10)).length > 0
        ? true
        : undefined;
    },
    { what: 'all but the poisonous one are done', timeoutMs: 60_000 },
  );
  expect(await queues.effects()).toEqual([0, 1, 2, 4, 5]);
  expect(await queue.deadLetters({ topic: queues.topic }, 10)).toMatchObject([
    { payload: { n: POISON } },
  ]);
  expect(await queues.inRabbit()).toBe(0);
}, 180_000);

test('suspects that are in hand together are not counted when their worker dies, and come alone from then on; one alone is', async () => {
  const queue = queues.engine();
  const policy = queues.policy('work', { maxAttempts: 5 });
  await queue.declare([policy]);
  await queue.publish(queues.messages(6), undefined);
  const consumer = queues.consume(queue, [policy]);
  const wave = (suspects: number, least: number) =>
    until(
      async () => {
        const want = { topic: queues.topic, subscription: 'work', count: 6, suspects };
        const got = await consumer.take([want]);
        // What came before the others is in hand as well, and counted.
        return got.length >= least ? got : undefined;
      },
      { what: `${least} suspects`, timeoutMs: 60_000 },
    );
  const trialsOf = async (deliveries: readonly Delivery[]) => {
    const { rows } = await queues.pool.query<{ trials: number }>(
      'select trials from banyan_queue.trial where message = any ($1::bigint[])',
      [deliveries.map(({ id }) => id)],
    );
    return rows.map(({ trials }) => trials);
  };
  const [first] = await queues.takeAll(consumer, 'work', 6);
  await rabbitReceipt(first!)!.channel.close();
  const several = await wave(4, 2);
  expect(several.every(({ isSuspect }) => isSuspect)).toBe(true);
  expect(await trialsOf(several)).toEqual(several.map(() => 0));
  await rabbitReceipt(several[0]!)!.channel.close();
  const [alone] = await wave(1, 1);
  expect(await trialsOf([alone!])).toEqual([alone!.attempt]);
  await rabbitReceipt(alone!)!.channel.close();
  const done = new Set<string>();
  await until(
    async () => {
      const got = await wave(6, 1);
      const again = got.filter(({ id }) => [...several, alone!].some(each => each.id === id));
      if (again.length > 0) expect(got.length).toBe(1);
      if (again[0]?.id === alone!.id) expect(again[0].attempt).toBe(alone!.attempt + 1);
      await consumer.complete(got.map(delivery => ({ delivery })));
      for (const { id } of got) done.add(id);
      return done.size === 6 ? true : undefined;
    },
    { what: 'all are done', timeoutMs: 60_000 },
  );
  await queues.emptyRabbit();
}, 180_000);

test('what was done of a bundle that takes long is not done again when its worker dies', async () => {
  const queue = queues.engine();
  await queue.declare([queues.policy('work')]);
  await queue.publish([queues.message(1), queues.message(2), queues.message(3)], undefined);
  const consumer = queues.consume(queue, [queues.policy('work')]);
  const got = await queues.takeAll(consumer, 'work', 3);
  // Without `job.transaction`: nothing but the acknowledgement says that they are done.
  expect(await consumer.complete(got.slice(0, 2).map(delivery => ({ delivery })))).toEqual([]);
  await until(
    async () => {
      const { rows } = await queues.pool.query(
        'select message::text as id from banyan_queue.effect',
      );
      return rows.length === 2 ? true : undefined;
    },
    { what: 'it is noted' },
  );
  await rabbitReceipt(got[2]!)!.channel.close();
  const [again] = await queues.takeAll(consumer, 'work', 1);
  expect(numberOf(again!)).toBe(numberOf(got[2]!));
  expect(await consumer.complete([{ delivery: again! }])).toEqual([]);
  await queues.emptyRabbit();
}, 180_000);

test('how many messages wait in bundles is about known', async () => {
  const queue = queues.engine();
  await queue.declare([queues.policy('work')]);
  await queue.publish(queues.messages(80), undefined);
  expect(await queues.inRabbit()).toBe(5);
  await until(async () => ((await queue.stats())[0]?.depth === 80 ? true : undefined), {
    what: 'the sizes of bundles are noted',
    timeoutMs: 60_000,
  });
  const consumer = queues.consume(queue, [queues.policy('work')]);
  const got = await queues.takeAll(consumer, 'work', 80);
  await consumer.complete(got.map(delivery => ({ delivery })));
  await until(async () => ((await queue.stats())[0]?.depth === 0 ? true : undefined));
}, 180_000);
