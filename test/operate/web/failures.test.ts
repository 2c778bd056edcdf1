/**
 * Promise 7 for the web tier: whatever is asked for that cannot be, whatever a server does that it should
 * not: clear words, and what served before serves on.
 */
import { rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { findHaproxy, HaproxyMissing } from '../../../src/engines/haproxy.ts';
import { freePort } from '../../../src/machines/free-port.ts';
import { ask } from '../../support/ask.ts';
import { configure } from '../../support/balanced-app.ts';
import { type CommandResult, runProgram, type Site, siteOf } from '../../support/deployment.ts';
import { LEDGER_APP, LedgerSubject } from '../../support/ledger.ts';
import { nothingRuns } from '../../support/processes.ts';
import { until } from '../../support/until.ts';
import { expectUnnoticed } from '../../support/verdict.ts';
import { Witness } from '../../support/witness.ts';

let site: Site;
beforeEach(async () => {
  site = await siteOf(LEDGER_APP);
  await configure(site, { web: { servers: { min: 1, max: 8 } } });
});
afterEach(() => site.remove());

const witness = () => new Witness(new LedgerSubject(site.address, site.pool())).start();

/** Units and their processes: the same as before means that nothing was touched. */
async function running(): Promise<(string | number | undefined)[][]> {
  return (await site.status()).units.map(({ name, pid, phase }) => [name, phase, pid]);
}

async function expectUntouched(command: () => Promise<CommandResult>): Promise<CommandResult> {
  const before = await running();
  const result = await command();
  expect(result.code).toBe(1);
  expect(await running()).toEqual(before);
  expect((await ask(`${site.address}/1`)).status).toBe(200);
  return result;
}

async function expectNothingJournaled(): Promise<void> {
  const { stdout } = await site.ok('operations', '--json');
  expect(JSON.parse(stdout)).toEqual([]);
}

describe('what cannot be', () => {
  const CONFIGURATIONS: [object, string][] = [
    [{ web: 0 }, 'web = 0: expected an object { … }, such as { servers: 2 }'],
    [{ web: { servers: 0 } }, 'web.servers = 0: expected a whole number from 1'],
    [{ web: { servers: { min: 3, max: 2 } } }, 'web.servers.max = 2: expected at least `min`'],
    [
      { web: { port: 3443, servers: 2 }, balancer: { tls: {} } },
      'balancer.tls = {}: expected a `port` of its own',
    ],
  ];

  test('in a configuration: told with the key, for up and for apply; as a number of servers', async () => {
    for (const [topology, words] of CONFIGURATIONS) {
      await configure(site, topology);
      const up = await site.banyan(['up', '--port', '0']);
      expect(up.code).toBe(1);
      expect(up.stderr).toContain(words);
      expect(up.stderr).toContain('Nothing was changed');
      await nothingRuns(site.folder);
    }
    await configure(site, {});
    await site.up();
    for (const [topology, words] of CONFIGURATIONS) {
      await configure(site, topology);
      const apply = await expectUntouched(() => site.banyan(['apply', '--yes']));
      expect(apply.stderr).toContain(words);
    }
    await configure(site, {});
    for (const target of ['web=0', 'web=-1', 'web', 'db=2', 'web=1.5', 'web=100000']) {
      const { code, stderr } = await site.banyan(['scale', target]);
      expect(code).toBe(1);
      expect(stderr).toContain(target);
      expect(stderr).toContain('banyan scale web=4');
    }
    await expectNothingJournaled();
  });
});

describe('more servers than the database has connections for', () => {
  const TOO_MANY = /need at least \d+ connections to the database, and it allows 20/;

  test('up, apply and scale say so, and nothing is changed', async () => {
    await configure(site, { web: { servers: 9 }, database: { maxConnections: 20 } });
    const up = await site.banyan(['up', '--port', '0']);
    expect(up.stderr).toMatch(TOO_MANY);
    expect(up.stderr).toContain('database.maxConnections');
    await nothingRuns(site.folder);

    await configure(site, { web: { servers: 5 }, database: { maxConnections: 20 } });
    await site.up();
    const scale = await expectUntouched(() => site.banyan(['scale', 'web=6']));
    expect(scale.stderr).toMatch(TOO_MANY);
    // Five have enough; with one more while they are replaced there are too few.
    await configure(site, {
      web: { servers: 5, env: { NEW: 'yes' } },
      database: { maxConnections: 20 },
    });
    const apply = await expectUntouched(() => site.banyan(['apply', '--yes']));
    expect(apply.stderr).toMatch(TOO_MANY);
    expect(apply.stderr).toContain(
      '6 web servers and workers (5, and 1 more while they are replaced)',
    );
    await expectNothingJournaled();
  });
});

describe('HAProxy is not installed', () => {
  const COMMAND = 'sudo apt-get install -y --no-install-recommends haproxy';

  test('it is looked for on the PATH and in the system’s folders', () => {
    expect(findHaproxy('/nowhere')).toBe('/usr/sbin/haproxy');
    expect(() => findHaproxy('/nowhere', ['/nowhere-else'])).toThrow(HaproxyMissing);
    expect(() => findHaproxy('', [])).toThrow(COMMAND);
  });

  const isRoot = process.getuid?.() === 0;
  test.runIf(isRoot)(
    'up and scale give the one command to type, before anything is touched',
    async () => {
      const without = (...args: string[]) => {
        const command = [process.execPath, 'bin/banyan.js', ...args, '--dir', site.folder];
        // In a view of the file system in which it cannot be run; only root may make one.
        const script = 'mount --bind /dev/null /usr/sbin/haproxy && exec "$@"';
        return runProgram('unshare', ['--mount', 'sh', '-c', script, 'sh', ...command]);
      };
      await configure(site, { web: { servers: 2 } });
      const up = await without('up', '--port', '0');
      expect(up.code).toBe(1);
      expect(up.stderr).toContain('HAProxy is not installed');
      expect(up.stderr).toContain(COMMAND);
      await nothingRuns(site.folder);

      await configure(site, {});
      await site.up();
      const scale = await expectUntouched(() => without('scale', 'web=2'));
      expect(scale.stderr).toContain(COMMAND);
      await expectNothingJournaled();
    },
  );
});

describe('a server that does not do what it should', () => {
  test('one that ignores SIGTERM is killed after the drain; no request fails', async () => {
    const server = LEDGER_APP['server.ts'].replace(
      'lifecycle(server, { pool });',
      `process.on('SIGTERM', () => {});`,
    );
    await writeFile(path.join(site.folder, 'server.ts'), server);
    await configure(site, { web: { servers: 3, ready: '/who', drainTimeoutMs: 300 } });
    await site.up();
    const watching = witness();
    await watching.untilAcknowledged(50);
    await site.ok('scale', 'web=1');
    await watching.untilAcknowledged(50);
    const account = await watching.stop();
    expectUnnoticed(account);
    const { stdout } = await site.banyan(['logs']);
    expect(stdout).toContain('it did not stop within');
  });

  test('one that never gets ready is taken back, the others serve on', async () => {
    const file = path.join(site.folder, 'server.ts');
    await configure(site, { web: { servers: { min: 2, max: 8 }, startTimeoutMs: 8_000 } });
    await site.up();
    const before = await running();
    const watching = witness();
    await watching.untilAcknowledged(50);
    await writeFile(file, `console.log('I wait for Godot'); setInterval(() => {}, 1000);`);
    const { code, output, stderr } = await site.banyan(['scale', 'web=4']);
    expect(code).toBe(1);
    expect(stderr).toContain('was taken back; what ran before still runs');
    expect(stderr).toContain('web-3');
    expect(stderr).toContain('I wait for Godot');
    // Each thing is said once.
    expect(output.split('I wait for Godot')).toHaveLength(2);
    expect(await running()).toEqual(before);
    await watching.untilAcknowledged(50);
    expect((await watching.stop()).failures).toEqual({});

    // And the next operation is not in its way.
    await writeFile(file, LEDGER_APP['server.ts']);
    await site.ok('scale', 'web=3');
  });
});

test('two operations at once: the second is told which one is under way', async () => {
  await site.up();
  const gate = path.join(site.folder, 'may-start');
  // The new server is not ready before the gate is open, so the first operation is still under way.
  const server = `import { existsSync } from 'node:fs';
    while (!existsSync(${JSON.stringify(gate)})) await new Promise(resolve => setTimeout(resolve, 20));
    ${LEDGER_APP['server.ts']}`;
  await writeFile(path.join(site.folder, 'server.ts'), server);
  const first = site.banyan(['scale', 'web=3']);
  await until(
    async () => JSON.parse((await site.banyan(['operations', '--json'])).stdout).length > 0,
    { what: 'the first operation has begun' },
  );
  for (const command of [['scale', 'web=2'], ['apply', '--yes'], ['undo'], ['resume']]) {
    const second = await site.banyan([...command, '--json']);
    expect(second.code, command.join(' ')).toBe(1);
    const { error } = JSON.parse(second.stdout.trim().split('\n').at(-1)!);
    expect(error.code).toBe('OPERATION_UNDER_WAY');
    expect(error.what).toContain('web servers 1 → 3');
    expect(error.remedy).toContain('banyan operations');
  }
  await writeFile(gate, '');
  expect(await first).toMatchObject({ code: 0 });
  await rm(gate);
});

describe('the port for HTTPS is in use', () => {
  let other: Server;
  let port: number;
  beforeEach(async () => {
    port = await freePort();
    other = createServer();
    await new Promise<void>(resolve => other.listen(port, '127.0.0.1', resolve));
  });
  afterEach(() => void other.close());

  test('by whom, and what to change; for up and for apply', async () => {
    const topology = { web: { servers: 2 }, balancer: { tls: { port } } };
    await configure(site, topology);
    const up = await site.banyan(['up', '--port', '0']);
    const expectWords = ({ code, stderr }: CommandResult) => {
      expect(code).toBe(1);
      expect(stderr).toContain(`Port ${port} is in use by`);
      expect(stderr).toContain(`pid ${process.pid}`);
      expect(stderr).toContain('balancer.tls.port');
    };
    expectWords(up);
    await nothingRuns(site.folder);

    await configure(site, { web: { servers: 2 } });
    await site.up();
    await configure(site, topology);
    expectWords(await expectUntouched(() => site.banyan(['apply', '--yes'])));
    await expectNothingJournaled();
  });
});
