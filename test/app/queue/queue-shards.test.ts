/** The queue over several shards: each with a server of its own. */
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { createQueue } from '../../../src/app/queue/create-queue.ts';
import { defineJob } from '../../../src/app/queue/definitions.ts';
import type { Queue } from '../../../src/app/queue/types.ts';
import { log } from '../../../src/app/telemetry/log.ts';
import { HintedPools } from '../../support/hinted-shards.ts';
import { ShardServers } from '../../support/shard-servers.ts';
import { until } from '../../support/until.ts';

// Failures are what is tried here.
log.level = 'silent';

let shards: ShardServers;
let hinted: HintedPools;
const queues: Queue[] = [];
const job = defineJob({ name: 'job', retry: { first: 10, factor: 1 } });

beforeAll(async () => {
  shards = await ShardServers.start(2, { servers: 2 });
  hinted = HintedPools.of(shards);
  await hinted.publish();
  await shards.everywhere('create table rows (id text, text text)');
});
afterEach(async () => {
  await Promise.all(queues.splice(0).map(queue => queue.close(5_000)));
});
afterAll(async () => {
  await hinted?.remove();
  await shards?.remove();
});

const messages = async () => {
  const results = await shards.everywhere(
    'select (select count(*)::int from banyan_queue.delivery) + (select count(*)::int from banyan_queue.unsubscribed) as n',
  );
  return results.map(({ rows }) => rows[0].n);
};

test('a message lies on a shard that its transaction wrote to, and makes it no two-phase one', async () => {
  const pool = hinted.pool();
  const queue = createQueue({ pool });
  queues.push(queue);
  await pool.transaction(async tx => {
    await queue.publish(job, 'before the write');
    await tx.query(`/* 1 */ insert into rows values ('a', 'one')`);
    await queue.publish(job, 'after it');
    await tx.query('savepoint s');
    await queue.publish(job, 'taken back');
    await tx.query('rollback to savepoint s');
  });
  expect(await messages()).toEqual([0, 2]);
  await expect(
    pool.transaction(async tx => {
      await tx.query(`/* 1 */ insert into rows values ('b', 'two')`);
      await queue.publish(job, 'rolled back');
      throw new Error('no');
    }),
  ).rejects.toThrow('no');
  expect(await messages()).toEqual([0, 2]);
  const decisions = await shards.everywhere('select from banyan.decisions');
  expect(decisions.map(({ rowCount }) => rowCount)).toEqual([0, 0]);

  const seen: unknown[] = [];
  queue.work(job, each => {
    seen.push(each.payload);
  });
  await until(() => seen.length === 2);
  expect(seen.sort()).toEqual(['after it', 'before the write']);
});

test('effects on another shard than the delivery happen once', async () => {
  const pool = hinted.pool();
  const queue = createQueue({ pool });
  queues.push(queue);
  let calls = 0;
  const effects = defineJob({ name: 'effects', retry: { first: 10, factor: 1 } });
  queue.work(effects, async each => {
    calls++;
    await each.transaction(tx =>
      tx.query(`/* 1 */ insert into rows values ($1, 'effect')`, [each.id]),
    );
    // Committed there; the delivery, on the first shard, is not completed: it comes again.
    if (calls === 1) throw new Error('it dies here');
  });
  await queue.ready();
  const id = await pool.transaction(async tx => {
    await tx.query(`/* 0 */ insert into rows values ('c', 'three')`);
    return queue.publish(effects, null);
  });
  await until(
    async () => (await queue.stats()).find(each => each.topic === 'effects')?.completed === 1,
  );
  const found = await shards.everywhere('select count(*)::int as n from rows where id = $1', [id]);
  expect(found.map(({ rows }) => rows[0].n)).toEqual([0, 1]);
  expect(calls).toBe(2);
  expect((await shards.everywhere('select from banyan_queue.effect')).map(r => r.rowCount)).toEqual(
    [0, 1],
  );
});

test('a shard that is away stops nobody else, and what lies there is handled when it is back', async () => {
  const pool = hinted.pool();
  const queue = createQueue({ pool });
  queues.push(queue);
  const seen: unknown[] = [];
  const publish = (shard: number, payload: string) =>
    pool.transaction(async tx => {
      await tx.query(`/* ${shard} */ insert into rows values ('d', 'four')`);
      await queue.publish(job, payload);
    });
  queue.work(job, async each => {
    seen.push(each.payload);
  });
  await queue.ready();
  await shards.servers[1]!.kill();
  await publish(0, 'there');
  await until(() => seen.includes('there'));
  await shards.servers[1]!.start();
  await publish(1, 'back');
  await until(() => seen.includes('back'));
});
