/** Promise 3 for the web tier: whatever is added, removed, replaced or killed, no request fails. */
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { HaproxyRuntime } from '../../../src/engines/haproxy-runtime.ts';
import { type Site, siteOf, spawnBanyan } from '../../support/deployment.ts';
import { HttpClient } from '../../support/http-client.ts';
import { LEDGER_APP, LedgerSubject } from '../../support/ledger.ts';
import { nothingRuns, processesOf, signalAll } from '../../support/processes.ts';
import { until } from '../../support/until.ts';
import { expectUnnoticed } from '../../support/verdict.ts';
import { type Account, Witness } from '../../support/witness.ts';

let site: Site;
beforeAll(async () => {
  site = await siteOf({
    ...LEDGER_APP,
    // A server that stands still is given up after 3 s, and an idempotent request goes elsewhere. What is scaled here
    // the autoscaler leaves as it is.
    'banyan.config.ts': `export default { web: { servers: { min: 1, max: 8, target: 1, scaleDownAfterMs: 3_600_000 } }, balancer: { responseTimeoutMs: 3000, checkTimeoutMs: 1000 } };`,
  });
  await site.up();
});
afterAll(() => site.remove());

async function witness(method: 'POST' | 'PUT' = 'POST', of = site): Promise<Witness> {
  await of.pool().query('delete from entries');
  return new Witness(new LedgerSubject(of.address, of.pool(), { method })).start();
}

function expectClean(account: Account): void {
  expectUnnoticed(account);
  expect(account.writes.acknowledged).toBeGreaterThan(50);
}

async function scale(servers: number): Promise<void> {
  await site.ok('scale', `web=${servers}`);
}

const servers = async () =>
  (await site.status()).units.filter(({ tier, phase }) => tier === 'web' && phase === 'ready');

test('one server becomes eight behind a balancer, then two, and no request fails', async () => {
  const watching = await witness();
  await watching.untilAcknowledged(50);
  await scale(8);
  expect(await servers()).toHaveLength(8);
  await watching.untilAcknowledged(100);
  await scale(2);
  expect(await servers()).toHaveLength(2);
  await watching.untilAcknowledged(50);
  expectClean(await watching.stop());
});

test('from a single server without a balancer to three with one, and back', async () => {
  await using plain = await siteOf(LEDGER_APP);
  await plain.up();
  const watching = new Witness(new LedgerSubject(plain.address, plain.pool())).start();
  await watching.untilAcknowledged(50);
  for (const count of [3, 1, 2, 1]) {
    await plain.ok('scale', `web=${count}`);
    await watching.untilAcknowledged(50);
  }
  const { units } = await plain.status();
  expect(units.map(({ tier }) => tier)).toEqual(['database', 'web']);
  expectClean(await watching.stop());
});

test('SIGKILL and SIGSTOP of web servers: idempotent requests do not fail', async () => {
  await scale(4);
  const watching = await witness('PUT');
  await watching.untilAcknowledged(50);
  for (const signal of ['SIGKILL', 'SIGSTOP', 'SIGKILL', 'SIGSTOP'] as const) {
    const running = await servers();
    const victim = running[Math.floor(Math.random() * running.length)]!;
    process.kill(victim.pid!, signal);
    try {
      await watching.untilAcknowledged(150, 120_000);
      if (signal === 'SIGSTOP') {
        const runtime = new HaproxyRuntime(site.paths.socketFor('balancer-1'));
        await until(
          async () =>
            (await runtime.statistics()).servers
              .find(({ name }) => name === victim.name)
              ?.status.startsWith('DOWN'),
          { what: 'health checks have taken it out' },
        );
      }
    } finally {
      // The other tests have the same site.
      signalAll([victim.pid!], 'SIGCONT');
    }
  }
  expectClean(await watching.stop());
});

test('the balancer is reloaded, killed and comes back with the servers that run', async () => {
  await scale(3);
  const watching = await witness('PUT');
  await watching.untilAcknowledged(50);
  process.kill(await site.pidOf('balancer-1'), 'SIGUSR2');
  await watching.untilAcknowledged(100);
  expectClean(await watching.stop());

  process.kill(await site.pidOf('balancer-1'), 'SIGKILL');
  await until(async () => ((await fetch(site.address).catch(() => undefined)) ? true : undefined), {
    what: 'it serves again',
  });
  const runtime = new HaproxyRuntime(site.paths.socketFor('balancer-1'));
  const { servers: seen } = await runtime.statistics();
  expect(seen.map(({ name }) => name).sort()).toEqual(
    (await servers()).map(({ name }) => name).sort(),
  );
  for (const { status } of seen) expect(status).toMatch(/^UP/);
});

test('the database stands still: the balancer does not give all servers up, requests wait', async () => {
  // With more patience than the others' site has.
  await using still = await siteOf({
    ...LEDGER_APP,
    'banyan.config.ts': `export default { web: { servers: 3 }, balancer: { checkTimeoutMs: 500 } };`,
  });
  await still.up();
  const watching = await witness('POST', still);
  await watching.untilAcknowledged(50);
  const database = processesOf(still.folder)
    .filter(({ command }) => /postgres/.test(command))
    .map(({ pid }) => pid);
  const runtime = new HaproxyRuntime(still.paths.socketFor('balancer-1'));
  signalAll(database, 'SIGSTOP');
  try {
    await until(
      async () => {
        const { servers: seen } = await runtime.statistics();
        return seen.length === 3 && seen.every(({ status }) => !status.startsWith('UP'));
      },
      { what: 'not one server passes its check', timeoutMs: 40_000 },
    );
    // What needs no database is answered, as it was before.
    expect((await fetch(`${still.address}/who`)).status).toBe(200);
  } finally {
    signalAll(database, 'SIGCONT');
  }
  await watching.untilAcknowledged(50);
  expectClean(await watching.stop());
});

test('two balancers: one is killed, clients go to the other, no idempotent request fails', async () => {
  await using pair = await siteOf({
    ...LEDGER_APP,
    'banyan.config.ts': `export default { web: { servers: 2 }, balancer: { addresses: ['127.0.0.1', '127.0.0.2'] } };`,
  });
  await pair.up();
  const { port } = new URL(pair.address);
  const addresses = ['127.0.0.1', '127.0.0.2'].map(host => `http://${host}:${port}`);
  const watching = new Witness(
    new LedgerSubject(addresses, pair.pool(), { method: 'PUT' }),
  ).start();
  await watching.untilAcknowledged(50);
  for (const name of ['balancer-1', 'balancer-2']) {
    process.kill(await pair.pidOf(name), 'SIGKILL');
    await watching.untilAcknowledged(100);
    await until(
      async () =>
        (await pair.status()).units.find(unit => unit.name === name)?.phase === 'ready'
          ? true
          : undefined,
      { what: 'it is back' },
    );
  }
  expectClean(await watching.stop());
});

describe('the controller is killed in mid-operation', () => {
  /** Kills `banyan scale` when it has said that a step is done. */
  async function cutOff(target: string, afterSteps: number): Promise<void> {
    const child = spawnBanyan(['scale', target, '--json', '--dir', site.folder]);
    let seen = '';
    child.stdout?.on('data', chunk => {
      seen += chunk;
    });
    await until(() => (seen.split('"done"').length > afterSteps ? true : undefined), {
      what: 'it is in the middle',
    });
    child.kill('SIGKILL');
    await new Promise(resolve => child.once('close', resolve));
  }

  test.each([1, 3, 6])(
    'after %d steps: what runs serves on, and resume finishes it',
    async steps => {
      await scale(1);
      const watching = await witness();
      await watching.untilAcknowledged(50);
      await cutOff('web=5', steps);
      await watching.untilAcknowledged(50);

      const blocked = await site.banyan(['scale', 'web=2']);
      expect(blocked).toMatchObject({ code: 1, stderr: expect.stringContaining('banyan resume') });
      await site.ok('resume');
      expect(await servers()).toHaveLength(5);
      expect((await site.banyan(['plan', '--json'])).stdout).toContain('"steps":[]');
      expectClean(await watching.stop());
    },
  );

  test('undo takes back what was done', async () => {
    await scale(2);
    const watching = await witness();
    await watching.untilAcknowledged(50);
    await cutOff('web=6', 4);
    // What was begun can be taken back whatever became of the configuration.
    const file = path.join(site.folder, 'banyan.config.ts');
    const configuration = readFileSync(file, 'utf8');
    writeFileSync(file, 'export default {{{');
    await site.ok('undo');
    expect(await servers()).toHaveLength(2);
    expectClean(await watching.stop());
    const { stdout } = await site.banyan(['operations', '--json']);
    const states = JSON.parse(stdout).map(({ state }: { state: string }) => state);
    expect(states.slice(0, 2)).toEqual(['undone', 'done']);
    writeFileSync(file, configuration);
  });
});

test('requests are spread evenly, and by weight', async () => {
  await scale(4);
  const runtime = new HaproxyRuntime(site.paths.socketFor('balancer-1'));
  const totals = async () =>
    new Map((await runtime.statistics()).servers.map(({ name, total }) => [name, total]));
  const before = await totals();
  const count = 800;
  await Promise.all(
    Array.from({ length: 8 }, async () => {
      for (let i = 0; i < count / 8; i++) await (await fetch(`${site.address}/who`)).text();
    }),
  );
  for (const [name, total] of await totals()) {
    const share = total - (before.get(name) ?? 0);
    expect(Math.abs(share / (count / 4) - 1), `${name} got ${share}`).toBeLessThan(0.05);
  }
});

test("eight servers never take the database's last connection", async () => {
  await using small = await siteOf({
    ...LEDGER_APP,
    'server.ts': LEDGER_APP['server.ts'].replace('max: 10', 'max: 50'),
    'banyan.config.ts': `export default { web: { servers: 8 }, database: { maxConnections: 40 } };`,
  });
  await small.up();
  const pool = small.pool({ max: 1 });
  const held = async () =>
    (
      await pool.query<{ count: number }>(
        `select count(*)::int as count from pg_stat_activity where application_name like 'web-%'`,
      )
    ).rows[0]!.count;
  let most = 0;
  let working = true;
  const clients = Promise.all(
    Array.from({ length: 60 }, async () => {
      // Each with a connection that is never idle: one of a pool may be closed as such under the request that takes it.
      const client = new HttpClient(small.address);
      while (working) expect((await client.send('GET', '/1')).status).toBe(200);
      await client.close();
    }),
  );
  for (let round = 0; round < 20; round++) most = Math.max(most, await held());
  // One server less, and the others may have more; one more, and they give some back.
  await small.ok('scale', 'web=3');
  await until(async () => ((await held()) > 3 * 3 ? true : undefined), {
    what: 'shares have grown',
  });
  await small.ok('scale', 'web=8');
  for (let round = 0; round < 20; round++) most = Math.max(most, await held());
  working = false;
  await clients;
  expect(most).toBeGreaterThan(8);
  expect(most).toBeLessThanOrEqual(30);
});

test('on down nothing is left, and in-flight requests finish first', async () => {
  await scale(3);
  expect(processesOf(site.folder).length).toBeGreaterThan(5);
  await delay(0);
  await site.down();
  await nothingRuns(site.folder, 1_000);
});
