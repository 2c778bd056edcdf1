/**
 * The network is cut, under the witness: between the primary and those who agree on it, and between the primary
 * and everyone. Each server has a network of its own, which takes root; CI is root.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { log } from '../../../src/app/telemetry/log.ts';
import type { NetworkMachine } from '../../support/network.ts';
import { PoolSubject, SpreadCluster } from '../../support/spread-cluster.ts';
import { until } from '../../support/until.ts';
import { expectHeld } from '../../support/verdict.ts';
import { type Account, Witness } from '../../support/witness.ts';

const TIMEOUT_MS = 240_000;
const SESSIONS = 4;
const isRoot = process.getuid?.() === 0;

log.level = 'silent';

describe.skipIf(!isRoot)('the network is cut', () => {
  let cluster: SpreadCluster;
  let subject: PoolSubject;

  beforeAll(async () => {
    cluster = await SpreadCluster.start(3);
    subject = new PoolSubject(await cluster.pool());
    await subject.prepare();
  }, TIMEOUT_MS);
  afterAll(() => cluster?.remove(), TIMEOUT_MS);

  /** The primary is cut off from some machines until another has taken over and been written to. */
  async function primaryCutOff(from: readonly NetworkMachine[]): Promise<Account> {
    await cluster.untilWell();
    await subject.clear();
    const primary = await cluster.primary();
    const own = cluster.machineOf(primary);
    const cutOff = from.filter(machine => machine !== own);
    const witness = new Witness(subject, { sessions: SESSIONS, timeoutMs: 60_000 }).start();
    try {
      await witness.untilAcknowledged(20);
      for (const machine of cutOff) cluster.network.cut(own, machine);
      await until(async () => (await cluster.primary()) !== primary, {
        what: 'another is the primary',
        timeoutMs: 60_000,
      });
      await witness.untilAcknowledged(100, 60_000);
    } finally {
      for (const machine of cutOff) cluster.network.mend(own, machine);
    }
    await witness.untilAcknowledged(20, 60_000);
    await cluster.untilWell();
    expect(await cluster.primary()).not.toBe(primary);
    return witness.stop();
  }

  test('between the primary and etcd: it steps back, another takes over, nothing is lost', {
    timeout: TIMEOUT_MS,
  }, async () => {
    expectHeld(await primaryCutOff(cluster.agreement), SESSIONS);
  });

  test('between the primary and all others: it comes back as a replica, nothing is lost', {
    timeout: TIMEOUT_MS,
  }, async () => {
    expectHeld(await primaryCutOff(cluster.network.machines), SESSIONS);
  });
});
