/** The balancer's settings change while it works: no request fails. */
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { renderKeepalivedConfig } from '../../../src/engines/keepalived.ts';
import { freePort } from '../../../src/machines/free-port.ts';
import type { Topology } from '../../../src/topology/topology.ts';
import { ask } from '../../support/ask.ts';
import { configure } from '../../support/balanced-app.ts';
import { type Site, siteOf } from '../../support/deployment.ts';
import { LEDGER_APP, LedgerSubject } from '../../support/ledger.ts';
import { expectUnnoticed } from '../../support/verdict.ts';
import { Witness } from '../../support/witness.ts';

describe('under the witness', () => {
  let site: Site;
  beforeEach(async () => {
    site = await siteOf(LEDGER_APP);
    await configure(site, { web: { servers: 2 } });
    await site.up();
  });
  afterEach(() => site.remove());

  async function applied(topology: Topology): Promise<string[]> {
    await configure(site, topology);
    const { stdout } = await site.ok('apply', '--yes', '--json');
    const events = stdout
      .trim()
      .split('\n')
      .map(line => JSON.parse(line) as { event?: string; step: string });
    return events.filter(({ event }) => event === 'done').map(({ step }) => step);
  }

  const isRefused = (port: number) =>
    new Promise<boolean>(resolve => {
      const socket = connect(port, '127.0.0.1');
      socket.once('connect', () => {
        socket.destroy();
        resolve(false);
      });
      socket.once('error', () => resolve(true));
    });

  test('algorithm, limits, HTTPS on and off again: applied without a failed request', async () => {
    const port = await freePort();
    const watching = new Witness(new LedgerSubject(site.address, site.pool())).start();
    const changes: [Topology, RegExp[]][] = [
      [{ balancer: { algorithm: 'leastconn' } }, [/reload balancer-1/]],
      [{ balancer: { rateLimit: { requests: 100_000 } } }, [/reload/]],
      [{ web: { maxConcurrency: 3 } }, [/reload/]],
      [{ balancer: { tls: { port } } }, [/start balancer-2/, /stop balancer-1/]],
      [{ balancer: { tls: { port }, maxBodyMb: 1 } }, [/reload balancer-2/]],
      [{ balancer: {} }, [/start balancer-1/, /stop balancer-2/]],
      [{ web: { sticky: true } }, [/reload/]],
    ];
    for (const [{ web, balancer }, expected] of changes) {
      await watching.untilAcknowledged(50);
      const topology = { web: { servers: 2, ...web }, ...(balancer ? { balancer } : {}) };
      const done = await applied(topology);
      expect(done).toEqual(expected.map(pattern => expect.stringMatching(pattern)));
      if (balancer?.tls) {
        const ca = await readFile(path.join(site.paths.balancer, 'self-signed.pem'), 'utf8');
        const { status } = await ask(`https://127.0.0.1:${port}/who`, { ca });
        expect(status).toBe(200);
      } else expect(await isRefused(port)).toBe(true);
    }
    await watching.untilAcknowledged(50);
    const account = await watching.stop();
    expectUnnoticed(account);
  });
});

describe('keepalived, for an address that moves between two hosts', () => {
  test('what Banyan writes is what keepalived accepts', async () => {
    await using site = await siteOf(LEDGER_APP);
    const addresses = ['127.0.0.1', '127.0.0.2'];
    await configure(site, { web: { servers: 2 }, balancer: { addresses } });
    await site.up();
    await configure(site, {
      web: { servers: 2 },
      balancer: { addresses, virtualAddress: '127.0.0.100' },
    });
    await site.ok('apply', '--yes');
    const configs = [1, 2].map(number =>
      path.join(site.paths.balancer, `keepalived-${number}.conf`),
    );
    for (const config of configs) await expectAccepted(config);
    const [one, other] = await Promise.all(configs.map(file => readFile(file, 'utf8')));
    // Each knows itself and the other, and they agree on the rest.
    expect(one).toMatch(/unicast_src_ip 127\.0\.0\.1\n.*unicast_peer \{\s+127\.0\.0\.2\s/s);
    expect(other).toMatch(/unicast_src_ip 127\.0\.0\.2\n.*unicast_peer \{\s+127\.0\.0\.1\s/s);
    for (const line of [/auth_pass (\S+)/, /virtual_router_id (\d+)/]) {
      expect(line.exec(one!)?.[1]).toBe(line.exec(other!)?.[1]);
    }
    expect(one).not.toMatch(/priority 149/);
    expect(other).toMatch(/priority 149/);
  });

  test('with IPv6 addresses too', async () => {
    const folder = await mkdtemp(path.join(tmpdir(), 'banyan-keepalived-'));
    try {
      const file = path.join(folder, 'keepalived.conf');
      const text = renderKeepalivedConfig({
        deployment: 'shop',
        address: 'fd00::1',
        peers: ['fd00::2'],
        virtualAddress: 'fd00::100',
        priority: 150,
        password: 'abcdefgh',
      });
      await writeFile(file, text);
      await expectAccepted(file);
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  /** Fails when keepalived is not there, or says anything against the file. */
  async function expectAccepted(file: string): Promise<void> {
    const checked = await promisify(execFile)('/usr/sbin/keepalived', [
      '--config-test',
      `--use-file=${file}`,
      '--log-console',
    ]).catch(error => error as { stdout: string; stderr: string; message: string });
    const complaints = `${checked.stdout}${checked.stderr}`
      .split('\n')
      .filter(line => line.includes(file) || /error|invalid|unknown|fail|missing/i.test(line));
    expect(complaints).toEqual([]);
    expect(checked).not.toHaveProperty('message');
  }
});
