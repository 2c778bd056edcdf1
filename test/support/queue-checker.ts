/**
 * Looks for what a queue must never do, while its workers, its producers and its servers are killed and frozen.
 *
 * Producers publish in transactions, a tenth of which roll back, and write into the same transaction that they did: so `published` is the
 * truth. Each message has a key, and a number that rises with the commits of its key. A handler writes the number into `effects`, in
 * `job.transaction`. At the end: every number of `published` once in `effects`, nothing else, and of each key in order.
 *
 * Others are published plainly, and so over RabbitMQ where there is one: whatever was acknowledged has its effect once, and nothing has
 * that was not tried.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { createQueue } from '../../src/app/queue/create-queue.ts';
import type { SubscriptionStats } from '../../src/app/queue/engine.ts';
import { REPOSITORY } from './deployment.ts';
import type { Instructions } from './queue-checker-process.ts';
import { poolOn, type QueueGround } from './queue-grounds.ts';

export interface QueueCheckOptions {
  /** In transactions that commit; half as many plain ones come besides. */
  messages: number;
  workers?: number;
  producers?: number;
  keys?: number;
  /** Of faults, in milliseconds on average. */
  faultEveryMs?: number;
  /** The build that is broken on purpose. */
  unguarded?: boolean;
  /** Chooses the faults. */
  random?: () => number;
  /** Called once a second. */
  log?: (line: string) => void;
}

export interface QueueCheckReport {
  published: number;
  effects: number;
  lost: number;
  /** Of those that are lost, the first ten: key and number of each, and how many of its key there are. */
  lostOnes: string[];
  twice: number;
  ofRolledBack: number;
  outOfOrder: number;
  plain: { acknowledged: number; effects: number; lost: number; twice: number; untried: number };
  faults: Record<string, number>;
  stats: SubscriptionStats[];
  seconds: number;
}

const PROCESS = path.join(REPOSITORY, 'test/support/queue-checker-process.ts');
const LOOK_MS = 200;
const LOG_MS = 1_000;
/** Nothing is in the queue for so long, and something is missing all the same: it is lost. */
const LOST_AFTER_MS = 30_000;
const FROZEN_MS = 3_000;

interface Child {
  readonly process: ChildProcess;
  readonly role: Instructions['role'];
}

export async function checkQueue(
  ground: QueueGround,
  options: QueueCheckOptions,
): Promise<QueueCheckReport> {
  const { messages, workers = 3, producers = 2, keys = 20, faultEveryMs = 400 } = options;
  const { unguarded = false, random = Math.random, log = () => {} } = options;
  const pool = poolOn(ground, 60_000);
  const wiring = Object.keys(ground.queueEnv).length > 0 ? { env: ground.queueEnv } : {};
  const queue = createQueue({ pool }, wiring);
  const begunAt = performance.now();
  await pool.query(`
    create table keys (key text primary key, n int not null default 0);
    create table published (key text, n int, primary key (key, n));
    create table effects (at bigserial, key text, n int);
    create sequence tried_ids;
    create table tried (id bigint primary key);
    create table acknowledged (id bigint primary key);
    create table plain_effects (id bigint not null)`);
  await pool.query('insert into keys select i::text from generate_series(1, $1) i', [keys]);

  const faults: Record<string, number> = {};
  const children = new Set<Child>();
  const busy = new Set<Child>();
  let isOver = false;
  let isProducing = true;
  const { url, mapFile, queueEnv } = ground;
  const run = (role: Child['role']): void => {
    if (isOver || (role === 'produce' && !isProducing)) return;
    const instructions: Instructions = { url, mapFile, queueEnv, role, messages, unguarded };
    const args = ['--conditions=banyan-source', PROCESS, JSON.stringify(instructions)];
    const child: Child = {
      role,
      process: spawn(process.execPath, args, {
        stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
        env: { ...process.env, LOG_LEVEL: 'silent' },
      }),
    };
    children.add(child);
    // Before it has done something there is nothing to be harmed.
    child.process.once('message', () => busy.add(child));
    child.process.on('exit', () => {
      children.delete(child);
      busy.delete(child);
      run(role);
    });
  };

  const harmProcess = (): void => {
    const victim = [...busy][Math.floor(random() * busy.size)];
    if (!victim) return;
    const isFrozen = random() < 0.3;
    const name = isFrozen ? `${victim.role} frozen` : `${victim.role} killed`;
    faults[name] = (faults[name] ?? 0) + 1;
    if (!isFrozen) {
      victim.process.kill('SIGKILL');
      return;
    }
    victim.process.kill('SIGSTOP');
    void delay(FROZEN_MS).then(() => victim.process.kill('SIGCONT'));
  };
  const harm = async (): Promise<void> => {
    let pick = random() * ground.faults.reduce((sum, { weight }) => sum + weight, 1);
    for (const fault of ground.faults) {
      pick -= fault.weight;
      if (pick >= 0) continue;
      if (await fault.harm(random)) faults[fault.name] = (faults[fault.name] ?? 0) + 1;
      return;
    }
    harmProcess();
  };

  /** Undefined while the database does not say. */
  const look = async () => {
    try {
      const { rows } = await pool.query<Record<'published' | 'effects' | 'missing', number>>(`
        select (select sum(n) from keys)::int as published, (select count(*) from effects)::int as effects,
          (select count(*) from acknowledged a where not exists (select from plain_effects e where e.id = a.id))::int as missing`);
      return rows[0]!;
    } catch {
      return undefined;
    }
  };

  for (let i = 0; i < workers; i++) run('work');
  for (let i = 0; i < producers; i++) run('produce');
  try {
    const deadline = performance.now() + 200_000 + messages * 60;
    let nextFault = performance.now() + 2_000;
    let nextLook = 0;
    for (let emptySince = 0; ; ) {
      if (performance.now() > deadline)
        throw new Error(`not over in time: ${JSON.stringify(faults)}`);
      await delay(LOOK_MS);
      if (performance.now() > nextFault) {
        nextFault = performance.now() + faultEveryMs * (0.5 + random());
        await harm();
      }
      if (performance.now() < nextLook) continue;
      nextLook = performance.now() + LOG_MS;
      const now = await look();
      if (!now) continue;
      const seconds = (performance.now() - begunAt) / 1_000;
      log(
        `${seconds.toFixed(0)} s: ${now.published} published, ${now.effects} effects, ${now.missing} plain ones to come, ${JSON.stringify(faults)}`,
      );
      isProducing = now.published < messages;
      if (isProducing || [...children].some(({ role }) => role === 'produce')) continue;
      const stats = await queue.stats().catch(() => undefined);
      const isEmpty = stats?.every(({ depth }) => depth === 0) ?? false;
      if (!isEmpty) emptySince = 0;
      else if (now.effects >= now.published && now.missing === 0) break;
      else {
        emptySince ||= performance.now();
        if (performance.now() - emptySince > LOST_AFTER_MS) break;
      }
    }
    isOver = true;
    await end(children);
    const stats = await queue.stats();
    return {
      ...(await account(pool)),
      faults,
      stats,
      seconds: (performance.now() - begunAt) / 1_000,
    };
  } finally {
    isOver = true;
    await end(children);
    await queue.close();
    await pool.end();
  }
}

/** Nothing is written after it. */
async function end(children: ReadonlySet<Child>): Promise<void> {
  await Promise.all(
    [...children].map(({ process: child }) => {
      const ended = new Promise(resolve => child.once('exit', resolve));
      child.kill('SIGKILL');
      return ended;
    }),
  );
}

async function account(
  pool: ReturnType<typeof poolOn>,
): Promise<Omit<QueueCheckReport, 'faults' | 'stats' | 'seconds'>> {
  const { rows } = await pool.query<
    Omit<QueueCheckReport, 'faults' | 'stats' | 'plain' | 'seconds'>
  >(`
    select (select count(*) from published)::int as published, (select count(*) from effects)::int as effects,
      (select count(*) from published p where not exists (
        select from effects e where e.key = p.key and e.n = p.n))::int as lost,
      (select coalesce(array_agg(t), '{}') from (
        select format('%s: %s of %s', p.key, p.n, k.n) as t from published p join keys k on k.key = p.key
        where not exists (select from effects e where e.key = p.key and e.n = p.n) order by p.n limit 10) x) as "lostOnes",
      (select count(*) from (select from effects group by key, n having count(*) > 1) x)::int as twice,
      (select count(*) from effects e where not exists (
        select from published p where e.key = p.key and e.n = p.n))::int as "ofRolledBack",
      (select count(*) from (
        select n, lag(n) over (partition by key order by at) as before from effects) x where n < before)::int as "outOfOrder"`);
  const plain = await pool.query<QueueCheckReport['plain']>(`
    select (select count(*) from acknowledged)::int as acknowledged, (select count(*) from plain_effects)::int as effects,
      (select count(*) from acknowledged a where not exists (select from plain_effects e where e.id = a.id))::int as lost,
      (select count(*) from (select from plain_effects group by id having count(*) > 1) x)::int as twice,
      (select count(*) from plain_effects e where not exists (select from tried t where t.id = e.id))::int as untried`);
  return { ...rows[0]!, plain: plain.rows[0]! };
}
