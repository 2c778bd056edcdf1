/** What happens to worker processes, and what becomes of the messages that they have in hand. */
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { createPool, type Pool } from '../../../src/app/database/pool.ts';
import { createQueue } from '../../../src/app/queue/create-queue.ts';
import type { Queue } from '../../../src/app/queue/types.ts';
import { log } from '../../../src/app/telemetry/log.ts';
import { TestPostgres } from '../../support/postgres.ts';
import { MAX_ATTEMPTS, TOLD_TABLES, told, WorkerProcess } from '../../support/queue-workers.ts';
import { until } from '../../support/until.ts';

// Failures are what is tried here.
log.level = 'silent';

let postgres: TestPostgres;
let url: string;
let pool: Pool;
let queue: Queue;
const workers = new Set<WorkerProcess>();

beforeAll(async () => {
  postgres = await TestPostgres.start();
});
afterAll(() => postgres.remove());
beforeEach(async () => {
  url = await postgres.database();
  pool = postgres.adopt(createPool({ connectionString: url }));
  queue = createQueue({ pool });
  await pool.query(TOLD_TABLES);
});
afterEach(async () => {
  const left = [...workers];
  workers.clear();
  await Promise.all(left.map(worker => worker.kill()));
  await queue.close();
});

function start(leaseMs: number, drainMs?: number): WorkerProcess {
  const worker = new WorkerProcess({ url, leaseMs, ...(drainMs ? { drainMs } : {}) });
  workers.add(worker);
  return worker;
}

const rowsOf = async (table: 'begun' | 'effects') =>
  (await pool.query<{ n: number; pid: number }>(`select n, pid from ${table} order by n`)).rows;
const untilBegun = (n: number, pid: number) =>
  until(async () => (await rowsOf('begun')).some(row => row.n === n && row.pid === pid), {
    what: `process ${pid} has begun with ${n}`,
  });
const open = (worker: WorkerProcess) => pool.query('insert into gate values ($1)', [worker.pid]);
const statsOf = async () => (await queue.stats())[0]!;

test('a message that kills its process is a dead letter in the end, and all others have their effects once', async () => {
  const others = Array.from({ length: 41 }, (_, n) => n).filter(n => n !== 20);
  await queue.publishAll(
    told,
    Array.from({ length: 41 }, (_, n) => ({
      payload: n === 20 ? { n, does: 'die' as const } : { n },
    })),
  );
  let deaths = 0;
  // As a supervisor does: whoever dies is started again.
  const keep = () => {
    const worker = start(1_000);
    void worker.ended.then(({ signal }) => {
      if (!workers.delete(worker)) return;
      if (signal === 'SIGKILL') deaths++;
      keep();
    });
  };
  keep();
  keep();
  const [letter] = await until(
    async () => {
      const letters = await queue.deadLetters();
      return letters.length > 0 && (await rowsOf('effects')).length >= others.length && letters;
    },
    { what: 'the one is dead and the others are done', timeoutMs: 120_000 },
  );
  expect(letter).toMatchObject({ payload: { n: 20, does: 'die' }, attempts: MAX_ATTEMPTS });
  expect(letter!.error).toContain('Its worker died');
  // Once among others, when nothing is counted, and perhaps once among suspects; from then on by itself.
  expect(deaths).toBeGreaterThan(MAX_ATTEMPTS);
  expect(deaths).toBeLessThanOrEqual(MAX_ATTEMPTS + 2);
  expect((await rowsOf('effects')).map(({ n }) => n)).toEqual(others);
  expect(await queue.deadLetters()).toHaveLength(1);
});

test('on SIGTERM a worker hands back what it has in hand, at once and without counting it', async () => {
  // What is not handed back would be its for as long.
  const worker = start(120_000, 200);
  await worker.ready;
  await queue.publishAll(told, [
    { payload: { n: 1, does: 'hang' } },
    { payload: { n: 2, does: 'hang' } },
  ]);
  await untilBegun(1, worker.pid);
  await untilBegun(2, worker.pid);
  await queue.publish(told, { n: 3 });
  worker.signal('SIGTERM');
  expect(await worker.ended).toEqual({ code: 0, signal: null });
  expect(await statsOf()).toMatchObject({ depth: 3, leased: 0, failed: 0, workers: 0 });
  const { rows } = await pool.query(
    'select attempts, suspect from banyan_queue.delivery group by 1, 2',
  );
  expect(rows).toEqual([{ attempts: 0, suspect: false }]);
  const next = start(120_000);
  await untilBegun(1, next.pid);
  await untilBegun(2, next.pid);
});

test('what a worker does that was frozen for longer than its lease, and is woken, is void', async () => {
  const frozen = start(1_000);
  await frozen.ready;
  await queue.publish(told, { n: 1, does: 'wait' });
  await untilBegun(1, frozen.pid);
  frozen.signal('SIGSTOP');
  const other = start(1_000);
  await untilBegun(1, other.pid);
  // Both have it in hand; the one that was frozen would be done first.
  await open(frozen);
  frozen.signal('SIGCONT');
  const [reason] = await until(() => frozen.refused.length > 0 && frozen.refused);
  expect(reason).toBe('LEASE_LOST');
  expect(await rowsOf('effects')).toEqual([]);
  await open(other);
  await until(async () => (await statsOf()).depth === 0);
  expect(await rowsOf('effects')).toEqual([{ n: 1, pid: other.pid }]);
});
