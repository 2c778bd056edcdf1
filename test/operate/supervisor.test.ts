/** Nothing outlives the supervisor unasked, and nothing is ever run twice. */
import type { ChildProcess } from 'node:child_process';
import { readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { finish, type Site, siteOf, spawnBanyan } from '../support/deployment.ts';
import { LEDGER_APP, LedgerSubject } from '../support/ledger.ts';
import { nothingRuns, processesOf } from '../support/processes.ts';
import { until } from '../support/until.ts';
import { Witness } from '../support/witness.ts';

let site: Site;
beforeEach(async () => {
  site = await siteOf(LEDGER_APP);
});
afterEach(() => site.remove());

/** `banyan up` in the foreground, when it says that it is ready. */
async function foreground(): Promise<{ child: ChildProcess; output: () => string }> {
  const child = spawnBanyan(['up', '--dir', site.folder, '--port', '0']);
  let output = '';
  child.stdout?.on('data', chunk => {
    output += chunk;
  });
  child.stderr?.on('data', chunk => {
    output += chunk;
  });
  await until(() => (/ready after/.test(output) ? true : undefined), {
    what: 'banyan up is ready',
  });
  return { child, output: () => output };
}

function addressIn(output: string): string {
  return /http:\/\/[\d.]+:\d+/.exec(output)![0];
}

test.each(['SIGINT', 'SIGTERM', 'SIGHUP'] as const)(
  '%s stops everything in order, and the exit code is 0',
  async signal => {
    const { child, output } = await foreground();
    expect(processesOf(site.folder).length).toBeGreaterThan(3);
    child.kill(signal);
    expect((await finish(child)).code).toBe(0);
    expect(output()).toContain('nothing is left running');
    await nothingRuns(site.folder, 1_000);
  },
);

test('an impatient second Ctrl-C changes nothing about the order', async () => {
  const { child } = await foreground();
  child.kill('SIGINT');
  child.kill('SIGINT');
  expect((await finish(child)).code).toBe(0);
  await nothingRuns(site.folder, 1_000);
  // PostgreSQL wrote its checkpoint: it was not killed.
  const log = readFileSync(path.join(site.paths.logs, 'postgres-1.log'), 'utf8');
  expect(log).toContain('database system is shut down');
});

test('Ctrl-C during the start: everything is stopped, the exit code says so', async () => {
  const child = spawnBanyan(['up', '--dir', site.folder, '--port', '0']);
  await until(
    () =>
      processesOf(site.folder).some(({ command }) => command.includes('postgres'))
        ? true
        : undefined,
    { what: 'something has started' },
  );
  child.kill('SIGINT');
  expect((await finish(child)).code).toBe(130);
  await nothingRuns(site.folder, 1_000);
});

test('after SIGKILL of the supervisor nothing is left, and the data is whole', async () => {
  const { child, output } = await foreground();
  const address = addressIn(output());
  await fetch(`${address}/1`, { method: 'POST', body: '{"value": 7}' });
  child.kill('SIGKILL');
  await nothingRuns(site.folder);
  await site.up();
  expect(await (await fetch(`${site.address}/1`)).json()).toEqual([7]);
});

test('SIGKILL of the supervisor and its guardian: the next up ends what is left, then starts', async () => {
  const { child, output } = await foreground();
  const address = addressIn(output());
  await fetch(`${address}/1`, { method: 'POST', body: '{"value": 7}' });
  const guardian = processesOf(site.folder).find(({ command }) => /banyan-guardian/.test(command))!;
  process.kill(guardian.pid, 'SIGKILL');
  child.kill('SIGKILL');
  await finish(child);
  const orphans = processesOf(site.folder);
  expect(orphans.length).toBeGreaterThan(2);

  const result = await site.banyan(['up', '--detach', '--port', '0']);
  expect(result.output).toMatch(/stopped what it left: web-1, postgres-1/);
  expect(result.code).toBe(0);
  const now = new Set(processesOf(site.folder).map(({ pid }) => pid));
  expect(orphans.filter(({ pid }) => now.has(pid))).toEqual([]);
  const { address: newAddress } = await site.status();
  expect(await (await fetch(`${newAddress}/1`)).json()).toEqual([7]);
});

test('down ends what a killed supervisor left', async () => {
  const { child } = await foreground();
  const guardian = processesOf(site.folder).find(({ command }) => /banyan-guardian/.test(command))!;
  process.kill(guardian.pid, 'SIGKILL');
  child.kill('SIGKILL');
  await finish(child);
  const { code, stdout } = await site.banyan(['down', '--json']);
  expect({ code, ...JSON.parse(stdout) }).toEqual({ code: 0, outcome: 'leftovers' });
  await nothingRuns(site.folder, 1_000);
});

test('ten up at the same time: one wins, nine say that it is up, one database runs', async () => {
  const results = await Promise.all(
    Array.from({ length: 10 }, () => site.banyan(['up', '--detach', '--port', '0'])),
  );
  expect(results.filter(({ code }) => code === 0)).toHaveLength(1);
  for (const { code, stderr } of results.filter(({ code }) => code !== 0)) {
    expect({ code, stderr }).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('already up'),
    });
  }
  const servers = processesOf(site.folder).filter(({ command }) => /postgres -D/.test(command));
  expect(servers).toHaveLength(1);
});

test('a stop lets the request in flight finish', async () => {
  await site.up();
  await site.pool().query('select 1');
  const blocker = await site.pool().connect();
  await blocker.query('begin; lock table entries in access exclusive mode');
  const answer = fetch(`${site.address}/1`, { method: 'POST', body: '{"value": 1}' });
  await until(
    async () => {
      const { rows } = await blocker.query(
        `select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`,
      );
      return rows.length > 0 ? true : undefined;
    },
    { what: 'the request waits' },
  );
  const down = site.banyan(['down']);
  await until(
    async () =>
      (await fetch(`${site.address}/healthz`).catch(() => undefined)) ? undefined : true,
    { what: 'the server drains' },
  );
  await blocker.query('commit');
  blocker.release();
  expect((await answer).status).toBe(201);
  await Promise.all([down, site.down()]);
  expect((await down).code).toBe(0);
});

describe('a unit that keeps crashing', () => {
  test('is started again with growing pauses, and status says why', async () => {
    await site.up();
    for (let round = 1; round <= 3; round++) {
      process.kill(await site.pidOf('web-1'), 'SIGKILL');
      await until(
        async () => {
          const web = (await site.status()).units.find(({ name }) => name === 'web-1');
          return web?.restarts === round && web.phase === 'ready' ? true : undefined;
        },
        { what: `restart ${round}` },
      );
    }
    const log = readFileSync(path.join(site.paths.logs, 'web-1.log'), 'utf8');
    expect(log).toContain('ended by SIGKILL; starting it again in 100 ms');
    expect(log).toContain('starting it again in 400 ms');
  });
});

test('a stopped supervisor (SIGSTOP) does not disturb the application; status says what to do', async () => {
  await site.up();
  const { supervisor } = await site.status();
  process.kill(supervisor, 'SIGSTOP');
  try {
    const witness = new Witness(new LedgerSubject(site.address, site.pool())).start();
    await witness.untilAcknowledged(100);
    const account = await witness.stop();
    expect(account.failures).toEqual({});
    const { code, stderr } = await site.banyan(['status']);
    expect(code).toBe(1);
    expect(stderr).toContain('did not answer');
  } finally {
    process.kill(supervisor, 'SIGCONT');
  }
});

test('secrets are closed to others and never in a log or a command line', async () => {
  await site.up();
  const { secrets: file, logs } = site.paths;
  expect(statSync(file).mode & 0o777).toBe(0o600);
  const secrets = Object.values(JSON.parse(readFileSync(file, 'utf8')) as Record<string, string>);
  expect(secrets).toHaveLength(3);
  const { stdout } = await site.banyan(['logs', '-n', '10000']);
  const places = [
    stdout,
    JSON.stringify(await site.status()),
    readFileSync(site.paths.map, 'utf8'),
    readFileSync(path.join(logs, 'postgres-1.log'), 'utf8'),
    ...processesOf(site.folder).map(({ command }) => command),
  ];
  for (const secret of secrets) {
    expect(places.filter(text => text.includes(secret))).toEqual([]);
  }
});
