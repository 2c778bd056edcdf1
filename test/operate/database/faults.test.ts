/**
 * What happens to a replicated database's servers, under the witness: nothing acknowledged is lost, nobody sees
 * less than he wrote, reads go on, and writes are held until another server has taken over.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { deployFiles, type Site } from '../../support/deployment.ts';
import { LEDGER_APP } from '../../support/ledger.ts';
import { signalAll } from '../../support/processes.ts';
import {
  killPostgres,
  postgresPid,
  postgresProcesses,
  primaryOf,
  SESSIONS,
  serversOf,
  untilWell,
  witnessed,
} from '../../support/replicated.ts';
import { until } from '../../support/until.ts';
import { expectHeld } from '../../support/verdict.ts';

const TIMEOUT_MS = 240_000;
const SERVERS = 3;
let site: Site;

beforeAll(async () => {
  site = await deployFiles({
    ...LEDGER_APP,
    'banyan.config.ts': `export default { database: { memoryMb: 64, replicas: ${SERVERS - 1}, etcd: 3 } };\n`,
  });
  await untilWell(site, SERVERS);
}, TIMEOUT_MS);
afterAll(() => site?.remove(), TIMEOUT_MS);

describe('the primary', () => {
  test.for([1, 2])('its process is killed, for the %i. time', { timeout: TIMEOUT_MS }, async () => {
    const primary = await primaryOf(site);
    const account = await witnessed(site, async () => {
      process.kill(postgresPid(site, primary), 'SIGKILL');
    });
    expectHeld(account, SESSIONS);
    expect(await primaryOf(site)).not.toBe(primary);
    await untilWell(site, SERVERS);
  });

  test('its machine is lost: PostgreSQL is gone, and Patroni says nothing more', {
    timeout: TIMEOUT_MS,
  }, async () => {
    const primary = await primaryOf(site);
    const patroni = await site.pidOf(primary);
    try {
      const account = await witnessed(site, async () => {
        process.kill(patroni, 'SIGSTOP');
        killPostgres(site, primary);
      });
      expectHeld(account, SESSIONS);
    } finally {
      process.kill(patroni, 'SIGCONT');
    }
    expect(await primaryOf(site)).not.toBe(primary);
    await untilWell(site, SERVERS);
  });

  test('it freezes with its Patroni, and wakes up when another has taken over', {
    timeout: TIMEOUT_MS,
  }, async () => {
    const primary = await primaryOf(site);
    const frozen = [await site.pidOf(primary), ...postgresProcesses(site, primary)];
    try {
      const account = await witnessed(site, async () => {
        signalAll(frozen, 'SIGSTOP');
      });
      expectHeld(account, SESSIONS);
    } finally {
      signalAll(frozen, 'SIGCONT');
    }
    await until(async () => (await primaryOf(site)) !== primary, {
      what: 'another is the primary',
    });
    await untilWell(site, SERVERS);
  });
});

test('a replica is killed: no request fails', { timeout: TIMEOUT_MS }, async () => {
  const replicas = (await serversOf(site)).filter(({ role }) => role !== 'primary');
  const account = await witnessed(site, async () => {
    for (const { name } of replicas.slice(0, 1)) {
      process.kill(postgresPid(site, name), 'SIGKILL');
    }
  });
  expectHeld(account, SESSIONS);
  expect(account.failures).toEqual({});
  await untilWell(site, SERVERS);
});

test('a member of etcd is killed: no request fails', { timeout: TIMEOUT_MS }, async () => {
  const account = await witnessed(site, async () => {
    process.kill(await site.pidOf('etcd-1'), 'SIGKILL');
  });
  expectHeld(account, SESSIONS);
  expect(account.failures).toEqual({});
});
