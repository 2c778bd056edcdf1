/**
 * A machine's clock is set, forwards and back, under the witness: nobody is lost a write, and reads go on. Takes root,
 * for machines of their own; CI is root.
 */
import { afterAll, beforeAll, describe, test } from 'vitest';
import { log } from '../../../src/app/telemetry/log.ts';
import { PoolSubject, SpreadCluster } from '../../support/spread-cluster.ts';
import { until } from '../../support/until.ts';
import { expectUnnoticed } from '../../support/verdict.ts';
import { Witness } from '../../support/witness.ts';

const TIMEOUT_MS = 180_000;
const SESSIONS = 4;
const HOUR_S = 3_600;
const isRoot = process.getuid?.() === 0;

log.level = 'silent';

describe.skipIf(!isRoot)('a clock is set', () => {
  let cluster: SpreadCluster;
  beforeAll(async () => {
    cluster = await SpreadCluster.start(2, { ownClocks: true });
  }, TIMEOUT_MS);
  afterAll(() => cluster?.remove(), TIMEOUT_MS);

  test('an hour forwards and back, on the primary’s machine and on the replica’s', {
    timeout: TIMEOUT_MS,
  }, async () => {
    const pool = await cluster.pool();
    const subject = new PoolSubject(pool);
    await subject.prepare();
    await cluster.untilWell();
    const witness = new Witness(subject, { sessions: SESSIONS, timeoutMs: 60_000 }).start();
    const primary = await cluster.primary();
    for (const node of [primary, ...cluster.nodes.filter(each => each !== primary)]) {
      for (const offset of [HOUR_S, 0, -HOUR_S, 0]) {
        await cluster.setClock(node, offset);
        await until(async () => Math.abs((await cluster.clockOf(node)) - offset) < HOUR_S / 2, {
          what: `the clock of ${node.name} is set to ${offset}`,
        });
        const then = await cluster.lastRound(node);
        await until(async () => (await cluster.lastRound(node)) > then + 1, {
          what: `Patroni on ${node.name} goes on`,
        });
        await witness.untilAcknowledged(50, 60_000);
      }
    }
    await cluster.untilWell();
    expectUnnoticed(await witness.stop());
  });
});
