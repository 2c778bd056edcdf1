/**
 * The workers' whole life with the real command, in one deployment: added, killed, released, taken back, replaced, removed,
 * while messages are published all the time. At the end each message had its effect once.
 */
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { SubscriptionStats } from '../../../src/app/queue/engine.ts';
import { configure } from '../../support/balanced-app.ts';
import { type Site, siteOf, spawnBanyan } from '../../support/deployment.ts';
import { until } from '../../support/until.ts';
import { WORKED_APP } from '../../support/worked-app.ts';

let site: Site;
let next = 0;
beforeAll(async () => {
  site = await siteOf(WORKED_APP);
  await configure(site, { workers: { servers: 0 } });
  await site.up();
}, 240_000);
afterAll(() => site.remove());

async function publish(payload: object = {}): Promise<number> {
  const n = next++;
  const body = JSON.stringify({ n, ...payload });
  const answer = await fetch(site.address, { method: 'POST', body });
  expect(answer.status).toBe(200);
  return n;
}

async function publishMany(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await publish();
}

async function done(): Promise<{ n: number; by: string }[]> {
  return (await site.pool({ max: 1 }).query('select n, by from effects order by n')).rows;
}

const untilDone = (n: number) =>
  until(async () => (await done()).find(row => row.n === n), {
    what: `message ${n} has its effect`,
    timeoutMs: 60_000,
  });

const workers = async () =>
  (await site.status()).units.filter(({ tier, phase }) => tier === 'workers' && phase === 'ready');

async function stats(): Promise<SubscriptionStats> {
  const { stdout } = await site.ok('queue', '--json');
  return (JSON.parse(stdout) as SubscriptionStats[])[0]!;
}

test('what is published while no worker is there waits, and workers that are added do it', async () => {
  await publishMany(20);
  expect(await stats()).toMatchObject({ topic: 'effect', depth: 20, workers: 0 });
  const scaled = await site.ok('scale', 'workers=2');
  expect(scaled.output).toContain('workers 0 → 2');
  expect(scaled.output).toContain('banyan.config.ts says 0');
  expect((await workers()).map(({ name }) => name)).toEqual(['worker-1', 'worker-2']);
  await untilDone(19);
}, 240_000);

test('what they do is told to Prometheus, who asks for it', async () => {
  const child = spawnBanyan(['metrics', '--listen', '0', '--dir', site.folder]);
  let output = '';
  child.stdout!.on('data', text => {
    output += text;
  });
  try {
    const [url] = await until(() => /http:\S+\/metrics/.exec(output) ?? undefined);
    const told = await until(
      async () => {
        const text = await (await fetch(url)).text();
        return /banyan_queue_completed_total\{topic="effect",subscription="work"\} 20/.test(text)
          ? text
          : undefined;
      },
      { what: 'all 20 are told to be done' },
    );
    expect(told).toContain('banyan_unit_ready{unit="worker-2",tier="workers"} 1');
    expect((await site.ok('metrics')).stdout).toContain('banyan_queue_depth{topic="effect"');
  } finally {
    child.kill('SIGTERM');
  }
  await once(child, 'exit');
  expect(child.exitCode).toBe(0);
}, 240_000);

test('a worker that is killed is started again, and what it had in hand is done by another', async () => {
  await publishMany(5);
  process.kill(await site.pidOf('worker-1'), 'SIGKILL');
  await publishMany(5);
  await until(
    async () => {
      const running = await workers();
      const again = running.find(({ name }) => name === 'worker-1');
      return running.length === 2 && again !== undefined && again.restarts > 0;
    },
    { what: 'both run, one of them again', timeoutMs: 120_000 },
  );
  expect((await site.ok('logs', 'worker-1')).stdout).toContain('SIGKILL');
}, 240_000);

test('a release replaces workers one by one; a job in hand is finished', async () => {
  const long = await publish({ ms: 1_500 });
  await publishMany(10);
  await site.ok('release', '--watch', '0');
  const units = await workers();
  expect(units.map(({ labels }) => labels.release)).toEqual([1, 1]);
  expect(await untilDone(long)).toBeDefined();
  const n = await publish();
  expect((await untilDone(n)).by).toMatch(/^worker-\d@1$/);
}, 240_000);

test('a release whose workers fall over is taken back, before a web server was touched', async () => {
  const file = path.join(site.folder, 'worker.ts');
  const good = readFileSync(file, 'utf8');
  writeFileSync(file, `${good}\nsetTimeout(() => { throw new Error('no such luck'); }, 300);`);
  const web = await site.pidOf('web-1').catch(() => site.pidOf('web-2'));
  const result = await site.banyan(['release']);
  writeFileSync(file, good);
  expect(result.code).toBe(1);
  expect(result.output).toContain('taken back');
  expect(result.output).toMatch(/did not (go on running|start)/);
  expect((await workers()).map(({ labels }) => labels.release)).toEqual([1, 1]);
  expect(await site.pidOf('web-1').catch(() => site.pidOf('web-2'))).toBe(web);
}, 240_000);

test('what does not finish within the drain is handed back, and done by another', async () => {
  await configure(site, { workers: { servers: 1, drainTimeoutMs: 500, env: { CHANGED: 'yes' } } });
  const slow = await publish({ ms: 8_000 });
  await until(async () => ((await stats()).leased > 0 ? true : undefined), {
    what: 'it is in hand',
  });
  const { stdout } = await site.ok('plan', '--json');
  const { steps } = JSON.parse(stdout) as { steps: { what: string }[] };
  expect(steps.map(({ what }) => what).join('\n')).toContain('stop worker-');
  await site.ok('apply', '--yes');
  expect(await workers()).toHaveLength(1);
  await untilDone(slow);
}, 240_000);

test('an operation that is cut off is finished by resume, and taken back by undo', async () => {
  const cut = spawnBanyan(['scale', '--dir', site.folder, 'workers=4']);
  await until(async () => ((await workers()).length >= 2 ? true : undefined), {
    what: 'a worker was added',
    timeoutMs: 30_000,
  });
  cut.kill('SIGKILL');
  await until(async () => ((await site.banyan(['resume'])).code === 0 ? true : undefined), {
    what: 'it is resumed',
    timeoutMs: 120_000,
  });
  expect(await workers()).toHaveLength(4);
  await site.ok('undo');
  expect(await workers()).toHaveLength(1);
}, 240_000);

describe('banyan queue', () => {
  test('tells depth, failures, dead letters; replays them; and takes back what nobody has in hand', async () => {
    await publish({ poison: true });
    await until(async () => ((await stats()).deadLetters === 1 ? true : undefined), {
      what: 'it is a dead letter',
      timeoutMs: 30_000,
    });
    const dead = await site.ok('queue', 'dead', 'effect');
    expect(dead.stdout).toContain('"poison":true');
    expect(dead.stdout).toContain('no good');
    const [letter] = JSON.parse((await site.ok('queue', 'dead', '--json')).stdout) as {
      id: string;
      attempts: number;
    }[];
    expect(letter?.attempts).toBe(2);
    expect((await site.ok('queue')).stdout).toContain('See them: banyan queue dead effect');

    expect((await site.banyan(['queue', 'replay'])).output).toContain('which dead letters');
    await site.ok('queue', 'replay', letter!.id);
    await until(async () => ((await stats()).deadLetters === 1 ? true : undefined), {
      what: 'it failed again',
      timeoutMs: 30_000,
    });
    expect((await site.banyan(['queue', 'replay', '1'])).output).toContain('no such dead letter');
    await site.ok('queue', 'discard', '--all');
    expect(await stats()).toMatchObject({ deadLetters: 0 });
  }, 240_000);

  test('workers leave altogether, and web servers go on publishing', async () => {
    // What the worker that was killed had in hand is given to others when its lease is over.
    await until(async () => (await stats()).depth === 0, { what: 'all is done' });
    await site.ok('scale', 'workers=0');
    expect(await workers()).toEqual([]);
    const n = next++;
    const answer = await fetch(site.address, { method: 'POST', body: JSON.stringify({ n }) });
    const id = await answer.text();
    await site.ok('queue', 'cancel', id);
    expect((await site.banyan(['queue', 'cancel', id])).code).toBe(1);
    next--;
    await publishMany(3);
    await until(async () => (await stats()).workers === 0, { what: 'no worker is counted' });
    expect(await stats()).toMatchObject({ depth: 3, workers: 0 });
    await site.ok('scale', 'workers=1');
    await untilDone(next - 1);
  }, 240_000);
});

test('the autoscaler makes workers of a full queue, and takes them away when it is empty', async () => {
  await configure(site, {
    workers: { servers: { min: 0, max: 3, depth: 5, ageMs: 60_000, scaleDownAfterMs: 5_000 } },
  });
  await site.ok('apply', '--yes');
  expect((await site.status()).units.map(({ name }) => name)).toContain('worker-autoscaler-1');
  for (let i = 0; i < 40; i++) await publish({ ms: 800 });
  await until(async () => ((await workers()).length >= 2 ? true : undefined), {
    what: 'there are more workers',
    timeoutMs: 60_000,
  });
  await untilDone(next - 1);
  await until(async () => ((await workers()).length === 0 ? true : undefined), {
    what: 'there is none any more',
    timeoutMs: 60_000,
  });
  const { stdout } = await site.ok('operations', '--json');
  const [last] = JSON.parse(stdout) as { kind: string; summary: string }[];
  expect(last?.kind).toBe('autoscale');
  expect(last?.summary).toMatch(/workers \d → 0: .* messages? in the queue; for 5 s no more/);
}, 240_000);

test('the autoscaler makes workers when messages wait for long, though there are few of them', async () => {
  await configure(site, {
    workers: { servers: { min: 1, max: 3, depth: 1_000, ageMs: 500, scaleDownAfterMs: 60_000 } },
  });
  await site.ok('apply', '--yes');
  for (let i = 0; i < 20; i++) await publish({ ms: 1_500 });
  await until(async () => (await workers()).length >= 2, { what: 'there are more workers' });
  const { stdout } = await site.ok('operations', '--json');
  const [last] = JSON.parse(stdout) as { kind: string; summary: string }[];
  expect(last?.kind).toBe('autoscale');
  expect(last?.summary).toMatch(/workers 1 → 2: .*the oldest due for/);
  await untilDone(next - 1);
}, 240_000);

test('everything that was published had its effect, once', async () => {
  await site.ok('scale', 'workers=1');
  await until(async () => ((await stats()).depth === 0 ? true : undefined), {
    what: 'nothing waits',
    timeoutMs: 60_000,
  });
  const counts = new Map<number, number>();
  for (const { n } of await done()) counts.set(n, (counts.get(n) ?? 0) + 1);
  expect([...counts].filter(([, count]) => count !== 1)).toEqual([]);
  // All but the poisoned one.
  expect(counts.size).toBe(next - 1);
}, 240_000);
