/**
 * Looks for what a queue must never do, while its workers, its producers and its database are killed and frozen.
 *
 * Producers publish in transactions, a tenth of which roll back, and write into the same transaction that they did: so `published` is the
 * truth. Each message has a key, and a number that rises with the commits of its key. A handler writes the number into `effects`, in
 * `job.transaction`. At the end: every number of `published` once in `effects`, nothing else, and of each key in order.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { createPool } from '../../src/app/database/pool.ts';
import { createQueue } from '../../src/app/queue/create-queue.ts';
import type { SubscriptionStats } from '../../src/app/queue/engine.ts';
import { REPOSITORY } from './deployment.ts';
import type { TestPostgres } from './postgres.ts';
import { until } from './until.ts';

export interface QueueCheckOptions {
  messages: number;
  workers?: number;
  producers?: number;
  keys?: number;
  /** Of faults, in milliseconds on average. */
  faultEveryMs?: number;
  /** With restarts of PostgreSQL. */
  restarts?: boolean;
  /** The build that is broken on purpose. */
  unguarded?: boolean;
  random?: () => number;
  log?: (line: string) => void;
}

export interface QueueCheckReport {
  published: number;
  effects: number;
  lost: number;
  twice: number;
  ofRolledBack: number;
  outOfOrder: number;
  faults: Record<string, number>;
  stats: SubscriptionStats[];
}

const PROCESS = path.join(REPOSITORY, 'test/support/queue-checker-process.ts');

export async function checkQueue(
  postgres: TestPostgres,
  options: QueueCheckOptions,
): Promise<QueueCheckReport> {
  const { messages, workers = 3, producers = 2, keys = 20, faultEveryMs = 400 } = options;
  const { restarts = true, unguarded = false, random = Math.random, log = () => {} } = options;
  const url = await postgres.database();
  const pool = postgres.adopt(createPool({ connectionString: url, holdTimeoutMs: 20_000 }));
  await pool.query(`
    create table keys (key text primary key, n int not null default 0);
    create table published (key text, n int, primary key (key, n));
    create table effects (at bigserial, key text, n int)`);
  await pool.query('insert into keys select i::text from generate_series(1, $1) i', [keys]);

  const faults: Record<string, number> = {};
  let isOver = false;
  const processes = new Set<ChildProcess>();
  const busy = new Set<ChildProcess>();
  const run = (role: 'work' | 'produce'): void => {
    if (isOver) return;
    const args = [
      '--conditions=banyan-source',
      PROCESS,
      role,
      url,
      String(messages),
      String(unguarded),
    ];
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
    (child as { role?: string }).role = role;
    processes.add(child);
    // Before it has done something there is nothing to be harmed.
    child.once('message', () => busy.add(child));
    child.on('exit', () => {
      processes.delete(child);
      busy.delete(child);
      void isProducing().then(is => {
        if (role === 'work' || is) run(role);
      });
    });
  };
  const count = async (table: string) => {
    const { rows } = await pool.query<{ n: string }>(`select count(*) as n from ${table}`);
    return Number(rows[0]!.n);
  };
  const isProducing = async () => {
    try {
      return (await count('published')) < messages;
    } catch {
      return true;
    }
  };
  for (let i = 0; i < workers; i++) run('work');
  for (let i = 0; i < producers; i++) run('produce');

  const harm = async (): Promise<void> => {
    const pick = random();
    const some = [...busy];
    const victim = some[Math.floor(random() * some.length)];
    if (restarts && pick < 0.1 && victim) {
      faults.postgres = (faults.postgres ?? 0) + 1;
      await (pick < 0.05 ? postgres.kill() : postgres.stop());
      await postgres.start();
    } else if (pick < 0.35 && victim) {
      faults.frozen = (faults.frozen ?? 0) + 1;
      victim.kill('SIGSTOP');
      void delay(3_000).then(() => victim.kill('SIGCONT'));
    } else if (victim) {
      const { role = '' } = victim as { role?: string };
      faults[role] = (faults[role] ?? 0) + 1;
      victim.kill('SIGKILL');
    }
  };

  try {
    const isDone = async () => {
      if (await isProducing()) return false;
      return (await queue.stats()).every(({ depth }) => depth === 0);
    };
    const queue = createQueue({ pool });
    let last = '';
    let nextFault = performance.now() + 2_000;
    await until(
      async () => {
        if (performance.now() > nextFault) {
          nextFault = performance.now() + faultEveryMs * (0.5 + random());
          await harm();
        }
        const line = `${await count('published')} published, ${await count('effects')} effects`;
        if (line !== last) log(line);
        last = line;
        await delay(50);
        return isDone();
      },
      { what: 'all messages are handled', timeoutMs: 200_000 + messages * 60 },
    );
    const stats = await queue.stats();
    const { rows } = await pool.query<Omit<QueueCheckReport, 'faults' | 'stats'>>(`
      select (select count(*) from published)::int as published, (select count(*) from effects)::int as effects,
        (select count(*) from published p where not exists (
          select from effects e where e.key = p.key and e.n = p.n))::int as lost,
        (select count(*) from (select from effects group by key, n having count(*) > 1) x)::int as twice,
        (select count(*) from effects e where not exists (
          select from published p where e.key = p.key and e.n = p.n))::int as "ofRolledBack",
        (select count(*) from (
          select n, lag(n) over (partition by key order by at) as before from effects) x where n < before)::int as "outOfOrder"`);
    return { ...rows[0]!, faults, stats };
  } finally {
    isOver = true;
    for (const child of processes) child.kill('SIGKILL');
  }
}
