/** The queue's promises on one PostgreSQL, one worker process: this one. */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import * as v from 'valibot';
import { afterAll, afterEach, beforeAll, beforeEach, expect, onTestFinished, test } from 'vitest';
import { createPool, type Pool } from '../../../src/app/database/pool.ts';
import { createQueue, type QueueOptions } from '../../../src/app/queue/create-queue.ts';
import { defineJob, defineTopic } from '../../../src/app/queue/definitions.ts';
import type { Queue } from '../../../src/app/queue/types.ts';
import { log } from '../../../src/app/telemetry/log.ts';
import { publishRuntimeMap } from '../../../src/map/map-file.ts';
import { temporaryFolder } from '../../support/deployment.ts';
import { TestPostgres } from '../../support/postgres.ts';
import { until } from '../../support/until.ts';

// Failures are what is tried here.
log.level = 'silent';

let postgres: TestPostgres;
let pool: Pool;
const queues: Queue[] = [];

beforeAll(async () => {
  postgres = await TestPostgres.start();
});
afterAll(() => postgres.remove());
beforeEach(async () => {
  pool = postgres.adopt(createPool({ connectionString: await postgres.database() }));
});
afterEach(async () => {
  await Promise.all(queues.splice(0).map(queue => queue.close(5_000)));
  await pool.end();
});

function open(options: Partial<QueueOptions> = {}): Queue {
  const queue = createQueue({ pool, ...options });
  queues.push(queue);
  return queue;
}

const RETRY = { maxAttempts: 3, first: 10, factor: 1 };
const mail = defineJob({ name: 'mail', schema: v.object({ to: v.string() }), retry: RETRY });
const any = defineJob({ name: 'any', retry: RETRY });

test('a message that was published before there was a worker is handled when there is one', async () => {
  const queue = open();
  const id = await queue.publish(mail, { to: 'ann' });
  expect((await queue.stats())[0]).toMatchObject({ topic: 'mail', subscription: null, depth: 1 });
  const seen: unknown[] = [];
  queue.work(mail, job => {
    seen.push([job.id, job.payload.to, job.attempt]);
  });
  await until(() => seen.length === 1);
  expect(seen).toEqual([[id, 'ann', 1]]);
  await until(async () => (await queue.stats())[0]?.depth === 0);
});

test('tables of an older version get what they lack, with what is in them', async () => {
  await open().publish(mail, { to: 'ann' });
  await pool.query('alter table banyan_queue.delivery drop column alone');
  await pool.query('update banyan_queue.version set version = 3');
  const seen: string[] = [];
  open().work(mail, ({ payload }) => {
    seen.push(payload.to);
  });
  await until(() => seen.length === 1);
  expect(seen).toEqual(['ann']);
});

test('a message of a transaction is there exactly if it commits', async () => {
  const queue = open();
  const seen: unknown[] = [];
  queue.work(any, job => {
    seen.push(job.payload);
  });
  await queue.ready();
  await expect(
    pool.transaction(async () => {
      await queue.publish(any, 'rolled back');
      throw new Error('no');
    }),
  ).rejects.toThrow('no');
  const client = await pool.connect();
  await client.query('begin');
  await queue.publish(any, 'rolled back by hand', { tx: client });
  await client.query('rollback');
  await expect(queue.publish(any, 'x', { tx: client })).rejects.toMatchObject({
    code: 'NOT_IN_TRANSACTION',
  });
  client.release();
  await pool.transaction(async () => {
    await queue.publish(any, 'committed');
    await queue.publish(any, 'at once', { tx: null });
  });
  await until(() => seen.length >= 2);
  expect(seen.sort()).toEqual(['at once', 'committed']);
});

test('a handler that throws is called again, and then the message is a dead letter that can be replayed', async () => {
  const queue = open();
  const attempts: number[] = [];
  let isBroken = true;
  queue.work(any, job => {
    attempts.push(job.attempt);
    if (isBroken) throw new Error('the mail server is away');
  });
  const id = await queue.publish(any, { a: 1 });
  const [letter] = await until(async () => {
    const letters = await queue.deadLetters();
    return letters.length > 0 && letters;
  });
  expect(attempts).toEqual([1, 2, 3]);
  expect(letter).toMatchObject({
    id,
    topic: 'any',
    subscription: 'work',
    attempts: 3,
    payload: { a: 1 },
  });
  expect(letter!.error).toMatch('the mail server is away');
  isBroken = false;
  expect(await queue.replay({ topic: 'any' })).toBe(1);
  await until(() => attempts.length === 4);
  expect(attempts[3]).toBe(1);
  expect(await queue.deadLetters()).toEqual([]);
  await until(async () => (await queue.stats())[0]?.completed === 1);
  expect((await queue.stats())[0]).toMatchObject({ failed: 2, died: 1, completed: 1, depth: 0 });
});

test('every subscription gets every message, also while its workers are down', async () => {
  const topic = defineTopic({ name: 'article-published' });
  const first = open();
  first.subscribe(topic, 'feeds', () => {});
  first.subscribe(topic, 'search', () => {});
  await first.ready();
  await first.close();
  const queue = open();
  await queue.publishAll(topic, [{ payload: 1 }, { payload: 2 }]);
  const seen: string[] = [];
  queue.subscribe(topic, 'feeds', job => {
    seen.push(`feeds ${job.payload}`);
  });
  await until(() => seen.length === 2);
  queue.subscribe(topic, 'search', job => {
    seen.push(`search ${job.payload}`);
  });
  await until(() => seen.length === 4);
  expect(seen.sort()).toEqual(['feeds 1', 'feeds 2', 'search 1', 'search 2']);
});

test('messages of a key are handled one at a time in order, and one that fails holds back the later ones of its key alone', async () => {
  const queue = open();
  const seen: string[] = [];
  let running = 0;
  let failures = 2;
  const messages = Array.from({ length: 60 }, (_, i) => ({
    payload: i,
    key: ['a', 'b', 'c'][i % 3]!,
  }));
  await queue.publishAll(any, messages);
  const busy = new Set<string>();
  queue.work(
    any,
    async job => {
      expect(busy.has(job.key!)).toBe(false);
      busy.add(job.key!);
      running = Math.max(running, busy.size);
      await new Promise(setImmediate);
      busy.delete(job.key!);
      if (job.payload === 9 && failures-- > 0) throw new Error('not yet');
      seen.push(`${job.key}${job.payload}`);
    },
    { concurrency: 5 },
  );
  await until(() => seen.length === 60);
  for (const key of ['a', 'b', 'c']) {
    const numbers = seen.filter(text => text.startsWith(key)).map(text => Number(text.slice(1)));
    expect(numbers).toEqual([...numbers].sort((a, b) => a - b));
  }
  expect(running).toBe(3);
});

test('of a key the order is that of the commits, not that of the positions drawn without a lock', async () => {
  const queue = open();
  const seen: unknown[] = [];
  await queue.publish(any, 'first', { key: 'k' });
  const slow = await pool.connect();
  await slow.query('begin');
  await queue.publish(any, 'second', { key: 'k', tx: slow });
  let isDone = false;
  const third = queue.publish(any, 'third', { key: 'k' }).then(() => {
    isDone = true;
  });
  await queue.publish(any, 'other key', { key: 'l' });
  const waits = async () =>
    (await pool.query(`select 1 from pg_locks where locktype = 'advisory' and not granted`))
      .rowCount;
  await until(async () => (await waits()) === 1);
  expect(isDone).toBe(false);
  await slow.query('commit');
  slow.release();
  await third;
  queue.work(any, job => {
    if (job.key === 'k') seen.push(job.payload);
  });
  await until(() => seen.length === 3);
  expect(seen).toEqual(['first', 'second', 'third']);
});

test('the effects of job.transaction and the end of the message are one', async () => {
  await pool.query('create table effects (id text)');
  const queue = open();
  let calls = 0;
  queue.work(any, async job => {
    calls++;
    await job.transaction(async tx => {
      await tx.query('insert into effects values ($1)', [job.id]);
      await queue.publish(mail, { to: 'follow-up' });
      if (job.attempt === 1) throw new Error('after the write');
    });
    throw new Error('after the commit: it is done all the same');
  });
  const id = await queue.publish(any, null);
  await until(async () => (await pool.query('select * from effects')).rows.length > 0);
  await until(async () =>
    (await queue.stats()).every(each => each.topic !== 'any' || each.depth === 0),
  );
  expect((await pool.query('select * from effects')).rows).toEqual([{ id }]);
  expect(calls).toBe(2);
  expect((await queue.stats()).find(each => each.topic === 'mail')).toMatchObject({ depth: 1 });
});

test('a handler that hangs is timed out, and what it does then is void', async () => {
  await pool.query('create table effects (attempt int)');
  const queue = open();
  const late = Promise.withResolvers<void>();
  const outcomes: unknown[] = [];
  const patient = defineJob({ name: 'patient', retry: { first: 10, factor: 1 } });
  queue.work(
    patient,
    async job => {
      const write = () =>
        job.transaction(tx => tx.query('insert into effects values ($1)', [job.attempt]));
      if (job.attempt > 1) return write();
      await new Promise(resolve => job.signal.addEventListener('abort', resolve));
      outcomes.push((job.signal.reason as { code: string }).code);
      await late.promise;
      await write().catch(error => outcomes.push(error.name ?? error));
      outcomes.push('over');
    },
    { timeout: 500 },
  );
  await queue.publish(patient, null);
  await until(async () => (await pool.query('select * from effects')).rows.length === 1);
  late.resolve();
  await until(() => outcomes.includes('over'));
  expect(outcomes[0]).toBe('HANDLER_TIMEOUT');
  expect((await pool.query('select * from effects where attempt = 1')).rows).toEqual([]);
  expect((await pool.query('select * from effects')).rows).toHaveLength(1);
});

test('delay, priority, dedupe and cancellation', async () => {
  const queue = open();
  const seen: unknown[] = [];
  await queue.publish(any, 'later', { delay: 5_000 });
  await queue.publish(any, 'low', { priority: 5 });
  await queue.publish(any, 'high', { priority: -5 });
  const one = await queue.publish(any, 'once', { dedupe: 'order-1' });
  expect(await queue.publish(any, 'twice', { dedupe: 'order-1' })).toBe(one);
  const gone = await queue.publish(any, 'cancelled');
  expect(await queue.cancel(gone)).toBe(true);
  expect(await queue.cancel(gone)).toBe(false);
  queue.work(
    any,
    job => {
      seen.push(job.payload);
    },
    { concurrency: 1 },
  );
  await until(() => seen.length === 4);
  expect(seen).toEqual(['high', 'once', 'low', 'later']);
});

test('a batch handler gets many, and says which of them failed', async () => {
  const queue = open();
  const sizes: number[] = [];
  const seen = new Map<unknown, number>();
  await queue.publishAll(
    any,
    Array.from({ length: 250 }, (_, i) => ({ payload: i })),
  );
  queue.workInBatches(
    any,
    async batch => {
      sizes.push(batch.jobs.length);
      for (const job of batch.jobs) {
        seen.set(job.payload, (seen.get(job.payload) ?? 0) + 1);
        if (job.payload === 7 && job.attempt === 1) batch.fail(job, new Error('this one'));
      }
      await batch.transaction(async tx => {
        await tx.query('select 1');
      });
    },
    { size: 100, concurrency: 1 },
  );
  await until(async () => (await queue.stats())[0]?.completed === 250);
  expect(Math.max(...sizes)).toBe(100);
  expect(seen.get(7)).toBe(2);
  expect([...seen.values()].reduce((a, b) => a + b)).toBe(251);
});

test('a result can be waited for, with its progress', async () => {
  const report = defineJob({ name: 'report', keepResults: '1h', retry: { maxAttempts: 1 } });
  const queue = open();
  const go = Promise.withResolvers<void>();
  queue.work(report, async job => {
    if (job.payload === 'bad') throw new Error('no paper');
    await job.progress(0.5, 'half of it');
    await go.promise;
    return { pages: 3 };
  });
  const told: unknown[] = [];
  const id = await queue.publish(report, 'good');
  const result = queue.result(report, id, {
    onProgress: progress => {
      told.push(progress);
      if (progress.done === 0.5) go.resolve();
    },
  });
  expect(await result).toEqual({ pages: 3 });
  expect(told).toContainEqual({ done: 0.5, text: 'half of it' });
  const bad = await queue.publish(report, 'bad');
  await expect(queue.result(report, bad)).rejects.toMatchObject({ code: 'JOB_FAILED' });
  await expect(queue.result(any, id)).rejects.toMatchObject({ code: 'RESULTS_NOT_KEPT' });
});

test('bad input is refused with words, and nothing is published', async () => {
  const queue = open({ maxMessageBytes: 100 });
  const cases: [Promise<unknown> | (() => unknown), string][] = [
    [queue.publish(mail, { to: 5 } as never), 'INVALID_PAYLOAD'],
    [
      queue.publishAll(mail, [{ payload: { to: 'a' } }, { payload: {} as never }]),
      'INVALID_PAYLOAD',
    ],
    [queue.publish(any, 'x'.repeat(101)), 'MESSAGE_TOO_LARGE'],
    [queue.publish(any, 5n), 'PAYLOAD_NOT_JSON'],
    [queue.publish(any, 1, { key: 'k', priority: 1 }), 'INVALID_QUEUE_OPTION'],
    [queue.publish(any, 1, { delay: 'soon' }), 'INVALID_QUEUE_OPTION'],
    [queue.publish({ name: 'x' } as never, 1), 'INVALID_QUEUE_OPTION'],
    [queue.cancel('five'), 'INVALID_QUEUE_OPTION'],
  ];
  for (const [refused, code] of cases) await expect(refused).rejects.toMatchObject({ code });
  await expect(queue.publish(mail, { to: 5 } as never)).rejects.toThrow(/to: .*topic mail/s);
  expect(() => queue.subscribe(any, 'x', () => {})).toThrow(/queue\.work/);
  expect(() => defineAndWork(queue)).toThrow(/has a handler/);
  expect((await open().stats()).every(({ depth }) => depth === 0)).toBe(true);
});

function defineAndWork(queue: Queue): void {
  queue.work(any, () => {});
  queue.work(any, () => {});
}

test('who closes hands back at once what has not begun, and lets the rest finish', async () => {
  const queue = open();
  const go = Promise.withResolvers<void>();
  const started: unknown[] = [];
  const finished: unknown[] = [];
  await queue.publishAll(
    any,
    Array.from({ length: 20 }, (_, i) => ({ payload: i })),
  );
  queue.work(
    any,
    async job => {
      started.push(job.payload);
      await go.promise;
      finished.push(job.payload);
    },
    { concurrency: 3 },
  );
  await until(() => started.length === 3);
  const closing = queue.close(60_000);
  const other = open();
  other.work(any, job => {
    finished.push(job.payload);
  });
  await until(() => finished.length === 17);
  go.resolve();
  await closing;
  await until(() => finished.length === 20);
  expect(started).toHaveLength(3);
  expect(new Set(finished).size).toBe(20);
});

test('the connections of the queue count against what a server may have', async () => {
  const folder = temporaryFolder();
  onTestFinished(() => rm(folder, { recursive: true }));
  const mapFile = path.join(folder, 'map.json');
  const member = { host: postgres.host, port: postgres.port, dataCentre: 'local' };
  await publishRuntimeMap(mapFile, {
    deployment: 'test',
    dataCentre: 'local',
    database: { name: 'test', shards: [{ id: '1', members: [member] }], connectionsPerServer: 6 },
    assets: { baseUrl: '' },
  });
  const shared = postgres.adopt(
    createPool({ connectionString: await postgres.database(), mapFile, application_name: 'share' }),
  );
  const most = async () => {
    await Promise.all(Array.from({ length: 20 }, () => shared.query('select pg_sleep(0.1)')));
    const { rows } = await pool.query(
      "select count(*)::int as count from pg_stat_activity where application_name = 'share'",
    );
    return rows[0].count;
  };
  expect(await most()).toBe(6);
  const queue = createQueue({ pool: shared });
  queue.work(any, () => {});
  await queue.ready();
  expect(shared.options.max).toBeLessThan(6);
  expect(await most()).toBe(6);
  await queue.close();
  await until(async () => shared.options.max === 6 && (await most()) === 6);
});
