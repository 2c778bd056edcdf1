/** The queue over RabbitMQ and PostgreSQL, with both of them real: what goes where, and that each message has its effect once. */
import { setImmediate as turn } from 'node:timers/promises';
import type pg from 'pg';
import { expect, test } from 'vitest';
import type { Delivery } from '../../../../src/app/queue/engine.ts';
import { AlreadyDone } from '../../../../src/app/queue/errors.ts';
import { rabbitReceipt } from '../../../../src/app/queue/rabbitmq/receipt.ts';
import { log } from '../../../../src/app/telemetry/log.ts';
import { numberOf, twoEngines } from '../../../support/two-engines.ts';
import { until } from '../../../support/until.ts';

// Failures are what is tried here.
log.level = 'silent';

const queues = twoEngines();

test('what needs nothing of the database goes over RabbitMQ, to each subscription; the rest stays', async () => {
  const queue = queues.engine();
  await queue.declare([queues.policy('a'), queues.policy('b')]);
  await queue.publish([queues.message(1), queues.message(2)], undefined);
  expect(await queues.inPostgres()).toBe(0);
  // At once: whoever takes RabbitMQ away relies on it. A bundle for each subscription.
  expect(await queues.inRabbit()).toBe(2);
  await queue.publish([queues.message(3, { key: 'k' })], undefined);
  await queue.publish([queues.message(4, { priority: 1 })], undefined);
  const client = await queues.pool.connect();
  await client.query('begin');
  await queue.publish([queues.message(5)], client);
  await client.query('commit');
  client.release();
  // For both subscriptions.
  expect(await queues.inPostgres()).toBe(6);
  await until(
    async () => ((await queue.stats()).every(({ depth }) => depth === 5) ? true : undefined),
    { what: 'both are counted together' },
  );

  const consumer = queues.consume(queue, [queues.policy('a'), queues.policy('b')]);
  for (const name of ['a', 'b']) {
    const got = await queues.takeAll(consumer, name, 5);
    expect(got.map(numberOf).sort()).toEqual([1, 2, 3, 4, 5]);
    expect(
      got
        .filter(each => rabbitReceipt(each))
        .map(numberOf)
        .sort(),
    ).toEqual([1, 2]);
    expect(await consumer.complete(got.map(delivery => ({ delivery })))).toEqual([]);
  }
  await until(
    async () => ((await queue.stats()).every(each => each.completed === 5) ? true : undefined),
    { what: 'all are counted as done' },
  );
  expect(await queues.inRabbit()).toBe(0);
}, 180_000);

test('a topic without a subscription, and one that keeps results, are in PostgreSQL', async () => {
  const queue = queues.engine();
  await queue.publish([queues.message(1)], undefined);
  const { rows } = await queues.pool.query(
    'select count(*)::int as n from banyan_queue.unsubscribed',
  );
  expect(rows[0].n).toBe(1);
  await queue.declare([queues.policy('work', { keepResultsMs: 1_000 })]);
  await queue.publish([queues.message(2)], undefined);
  expect(await queues.inPostgres()).toBe(2);
}, 180_000);

test('what fails is tried again by PostgreSQL, and is a dead letter there in the end', async () => {
  const queue = queues.engine();
  await queue.declare([queues.policy('work')]);
  await queue.publish([queues.message(1)], undefined);
  const consumer = queues.consume(queue, [queues.policy('work')]);
  for (const attempt of [1, 2, 3]) {
    const [delivery] = await queues.takeAll(consumer, 'work', 1);
    expect(delivery!.attempt).toBe(attempt);
    expect(rabbitReceipt(delivery!) !== undefined).toBe(attempt === 1);
    const retryInMs = attempt < 3 ? 20 : undefined;
    expect(await consumer.fail([{ delivery: delivery!, error: 'no', retryInMs }])).toEqual([]);
  }
  const [letter] = await queue.deadLetters({}, 10);
  expect(letter).toMatchObject({
    topic: queues.topic,
    subscription: 'work',
    attempts: 3,
    payload: { n: 1 },
  });
  expect(await queues.inRabbit()).toBe(0);
}, 180_000);

test('what PostgreSQL does not take stays in RabbitMQ, and is delivered again', async () => {
  const queue = queues.engine();
  const consumer = queues.consume(queue, [queues.policy('work')]);
  const ends: Record<string, (delivery: Delivery) => Promise<unknown>> = {
    'tried again': delivery => consumer.fail([{ delivery, error: 'no', retryInMs: 1 }]),
    'a dead letter': delivery => consumer.fail([{ delivery, error: 'no', retryInMs: undefined }]),
    'handed back': delivery => consumer.handBack([delivery]),
  };
  for (const [what, end] of Object.entries(ends)) {
    await queue.declare([queues.policy('work')]);
    await queue.publish([queues.message(1)], undefined);
    const [delivery] = await queues.takeAll(consumer, 'work', 1);
    // As on a shard that has just come.
    await queues.pool.query('delete from banyan_queue.subscription');
    await end(delivery!);
    await queue.declare([queues.policy('work')]);
    const [again] = await queues.takeAll(consumer, 'work', 1);
    expect([what, again!.id, again!.isSuspect]).toEqual([what, delivery!.id, true]);
    expect(await consumer.complete([{ delivery: again! }])).toEqual([]);
  }
  await queues.emptyRabbit();
}, 180_000);

test('a worker whose line breaks loses what it has in hand; of all that do it, one has its effect', async () => {
  const queue = queues.engine();
  await queue.declare([queues.policy('work')]);
  await queue.publish([queues.message(1), queues.message(2)], undefined);
  const first = queues.consume(queue, [queues.policy('work')]);
  const got = await queues.takeAll(first, 'work', 2);
  // One is done, and its acknowledgement is never sent; the other is not.
  await first.transaction([got[0]!], tx =>
    tx.query('insert into effects values ($1)', [numberOf(got[0]!)]),
  );
  await rabbitReceipt(got[0]!)!.channel.close();
  // The first has another line in a moment, and may get it again as well.
  const second = queues.consume(queues.engine(), [queues.policy('work')]);
  const want = { topic: queues.topic, subscription: 'work', count: 1, suspects: 1 };
  const { again, taker } = await until(
    async () => {
      for (const taker of [second, first]) {
        const [again] = await taker.take([want]);
        if (again) return { again, taker };
      }
      return undefined;
    },
    { what: 'the other is delivered again' },
  );
  expect(again.isSuspect).toBe(true);
  expect(numberOf(again)).toBe(numberOf(got[1]!));
  const insert = (delivery: Delivery) => (tx: pg.PoolClient) =>
    tx.query('insert into effects values ($1)', [numberOf(delivery)]);
  const attempts = await Promise.allSettled([
    taker.transaction([again], insert(again)),
    first.transaction([got[1]!], insert(got[1]!)),
  ]);
  expect(attempts.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
  expect(attempts.find(each => each.status === 'rejected')?.reason).toBeInstanceOf(AlreadyDone);
  await taker.complete([{ delivery: again }]);
  expect(await queues.effects()).toEqual([1, 2]);
  await queues.emptyRabbit(20_000);
}, 180_000);

test('a message that kills each of its workers is a dead letter in the end', async () => {
  const queue = queues.engine();
  await queue.declare([queues.policy('work')]);
  await queue.publish([queues.message(1)], undefined);
  const seen: Delivery[] = [];
  const consumer = queues.consume(queue, [queues.policy('work')]);
  for (let time = 0; time < 4; time++) {
    const [delivery] = await queues.takeAll(consumer, 'work', 1);
    seen.push(delivery!);
    await rabbitReceipt(delivery!)!.channel.close();
  }
  await until(async () => ((await queue.deadLetters({}, 10)).length === 1 ? true : undefined), {
    what: 'it is dead',
    timeoutMs: 20_000,
  });
  expect(seen.map(({ attempt, isSuspect }) => [attempt, isSuspect])).toEqual([
    [1, false],
    [1, true],
    [2, true],
    [3, true],
  ]);
}, 180_000);

test('what a worker hands back, or has not begun when it closes, is another’s at once and not counted', async () => {
  const queue = queues.engine();
  await queue.declare([queues.policy('work')]);
  await queue.publish(queues.messages(10), undefined);
  const first = queues.consume(queue, [queues.policy('work')]);
  const got = await queues.takeAll(first, 'work', 3);
  await first.handBack(got);
  await first.close();
  const second = queues.consume(queues.engine(), [queues.policy('work')]);
  const rest = await queues.takeAll(second, 'work', 10);
  expect(rest.map(numberOf).sort()).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  expect(rest.every(({ attempt }) => attempt === 1)).toBe(true);
  // What was on its way when the first left is looked up before it is done; what it gave back is known not to be.
  const givenBack = got.map(numberOf);
  const suspects = rest.filter(({ isSuspect }) => isSuspect).map(numberOf);
  expect(suspects.filter(n => givenBack.includes(n))).toEqual([]);
  await second.complete(rest.map(delivery => ({ delivery })));
}, 180_000);

test('what was sent to a worker that has no time for it goes to one that has', async () => {
  const here = queues.engine();
  await here.declare([queues.policy('work')]);
  const busy = queues.consume(here, [queues.policy('work')]);
  await busy.take([{ topic: queues.topic, subscription: 'work', count: 1, suspects: 1 }]);
  await here.publish(queues.messages(4), undefined);
  const [long] = await queues.takeAll(busy, 'work', 1);
  const idle = queues.consume(queues.engine(), [queues.policy('work')]);
  const got = await queues.takeAll(idle, 'work', 3);
  expect([long!, ...got].map(numberOf).sort()).toEqual([0, 1, 2, 3]);
  for (const { attempt, isSuspect } of got) {
    expect({ attempt, isSuspect }).toEqual({ attempt: 1, isSuspect: false });
  }
  // Nothing is left to the next test.
  expect(await busy.complete([{ delivery: long! }])).toEqual([]);
  expect(await idle.complete(got.map(delivery => ({ delivery })))).toEqual([]);
}, 180_000);

test('to RabbitMQ and back while messages are published and done: none is lost, none is done twice', async () => {
  await queues.emptyRabbit(30_000);
  await queues.rabbit.setMap(undefined);
  // Nobody dies here: a lease that a busy machine overruns three times would make dead letters.
  const queue = queues.engine(30_000);
  await queue.declare([queues.policy('work')]);
  const consumer = queues.consume(queue, [queues.policy('work')]);
  let published = 0;
  const done = new Set<number>();
  let isOver = false;
  const kinds = new Set<boolean>();
  const publishing = (async () => {
    while (!isOver) {
      // Faster than they are done they would never be done.
      await until(async () => (published - done.size < 50 ? true : undefined), {
        what: 'some are done',
      });
      await queue.publish(
        Array.from({ length: 5 }, () => queues.message(published++)),
        undefined,
      );
    }
  })();
  const working = (async () => {
    while (!isOver || done.size < published) {
      const got = await consumer.take([
        { topic: queues.topic, subscription: 'work', count: 20, suspects: 1 },
      ]);
      // While a shard makes a pause it is answered at once: others have to have a turn.
      await turn();
      for (const delivery of got) {
        kinds.add(rabbitReceipt(delivery) !== undefined);
        const n = numberOf(delivery);
        try {
          const { isComplete } = await consumer.transaction([delivery], tx =>
            tx.query('insert into effects values ($1)', [n]),
          );
          if (!isComplete) await consumer.complete([{ delivery }]);
        } catch (error) {
          if (!(error instanceof AlreadyDone)) throw error;
          await consumer.complete([{ delivery }]);
        }
        done.add(n);
      }
    }
  })();
  const more = (count: number) => {
    const from = published;
    return until(async () => (published > from + count ? true : undefined), {
      what: `${count} more are published`,
      timeoutMs: 30_000,
    });
  };
  await more(50);
  await queues.rabbit.setMap({});
  await more(200);
  await queues.rabbit.setMap({ draining: true });
  await more(50);
  await queues.emptyRabbit(60_000);
  await queues.rabbit.setMap(undefined);
  await more(50);
  isOver = true;
  await publishing;
  await working;
  expect(await queues.effects()).toEqual(Array.from({ length: published }, (_, n) => n));
  expect(kinds).toEqual(new Set([true, false]));
}, 180_000);

test('who stood still since he looked at the map can publish nothing to a RabbitMQ that is about to go', async () => {
  await queues.rabbit.setMap({});
  const queue = queues.engine(30_000);
  await queue.declare([queues.policy('work')]);
  await queue.publish([queues.message(0)], undefined);
  const consumer = queues.consume(queue, [queues.policy('work')]);
  const [first] = await queues.takeAll(consumer, 'work', 1);
  expect(await consumer.complete([{ delivery: first! }])).toEqual([]);
  await queues.emptyRabbit();
  // To this queue it is as if nothing had been said.
  await queues.rabbit.fence();
  await queue.publish([queues.message(1)], undefined);
  expect(await queues.inRabbit()).toBe(0);
  expect(await queues.inPostgres()).toBe(1);
  await queues.rabbit.admit();
  const kept = await queues.inPostgres();
  await until(
    async () => {
      await queue.publish([queues.message(2)], undefined).catch(() => {});
      return (await queues.inRabbit()) > 0 ? true : undefined;
    },
    { what: 'it takes messages again', timeoutMs: 120_000 },
  );
  await queues
    .takeAll(consumer, 'work', kept + 1)
    .then(got => consumer.complete(got.map(delivery => ({ delivery }))));
}, 240_000);
