/** Promise 1 at rung 1: whatever is killed comes back, and nothing acknowledged is lost. */
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { deployFiles, type Site } from '../support/deployment.ts';
import { LEDGER_APP, LedgerSubject } from '../support/ledger.ts';
import { expectNothingLost } from '../support/verdict.ts';
import { Witness } from '../support/witness.ts';

describe('under the witness', () => {
  let site: Site;
  beforeAll(async () => {
    site = await deployFiles(LEDGER_APP);
  });
  afterAll(() => site.remove());

  test.each(['web-1', 'postgres-1'])(
    'SIGKILL of %s: it comes back, nothing acknowledged is lost',
    async unit => {
      await site.pool().query('truncate entries');
      const witness = new Witness(new LedgerSubject(site.address, site.pool())).start();
      await witness.untilAcknowledged(50);
      for (let round = 0; round < 3; round++) {
        process.kill(await site.pidOf(unit), 'SIGKILL');
        await witness.untilAcknowledged(50);
      }
      const account = await witness.stop();
      expectNothingLost(account);
      expect(account.writes.acknowledged).toBeGreaterThanOrEqual(200);
      // The kill was felt: a test in which nothing fails would prove nothing.
      expect(account.writes.refused + account.writes.unknown).toBeGreaterThan(0);
      const { units } = await site.status();
      expect(units.find(({ name }) => name === unit)?.restarts).toBeGreaterThanOrEqual(3);
    },
  );

  test('SIGKILL of everything at once: the next up has every acknowledged write', async () => {
    await site.pool().query('truncate entries');
    const witness = new Witness(new LedgerSubject(site.address, site.pool())).start();
    await witness.untilAcknowledged(100);
    const { supervisor, units } = await site.status();
    for (const pid of [supervisor, ...units.map(unit => unit.pid!)]) process.kill(pid, 'SIGKILL');
    await delay(200);
    await site.up();
    await witness.untilAcknowledged(50);
    const account = await witness.stop();
    expectNothingLost(account);
  });
});
