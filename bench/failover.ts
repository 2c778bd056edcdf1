/**
 * For how long nothing can be written when the primary is lost, under the witness.
 *
 *     node --conditions=banyan-source bench/failover.ts [--processes 20] [--machines 5]
 *
 * A process: PostgreSQL's main process is killed. A machine: all of PostgreSQL is, and Patroni says nothing more until
 * another server has taken over. Each time is the longest between two acknowledged writes of four sessions.
 */
import { parseArgs } from 'node:util';
import { deployFiles, type Site } from '../test/support/deployment.ts';
import { LEDGER_APP } from '../test/support/ledger.ts';
import {
  killPostgres,
  postgresPid,
  primaryOf,
  untilWell,
  witnessed,
} from '../test/support/replicated.ts';
import type { Account } from '../test/support/witness.ts';

const { values } = parseArgs({
  options: {
    processes: { type: 'string', default: '20' },
    machines: { type: 'string', default: '5' },
  },
});
const SERVERS = 3;

const site = await deployFiles({
  ...LEDGER_APP,
  'banyan.config.ts': `export default { database: { memoryMb: 64, replicas: ${SERVERS - 1} } };\n`,
});
try {
  await report('process', Number(values.processes), killProcess, 3);
  await report('machine', Number(values.machines), loseMachine, 25);
} finally {
  await site.remove();
}

async function report(
  what: string,
  count: number,
  fault: (site: Site) => Promise<Account>,
  toReachSeconds: number,
): Promise<void> {
  const outages: number[] = [];
  const sum = {
    acknowledged: 0,
    unknown: 0,
    reads: 0,
    failedReads: 0,
    lost: 0,
    stale: 0,
    phantoms: 0,
  };
  for (let time = 0; time < count; time++) {
    await untilWell(site, SERVERS);
    const account = await fault(site);
    const seconds = account.longestOutageMs / 1_000;
    outages.push(seconds);
    console.log(
      `  ${what} ${time + 1}: ${seconds.toFixed(2)} s, ended ${new Date().toISOString()}`,
    );
    sum.acknowledged += account.writes.acknowledged;
    sum.unknown += account.writes.unknown;
    sum.reads += account.reads.answered;
    sum.failedReads += account.reads.failed;
    sum.lost += account.lost.length;
    sum.stale += account.stale.length;
    sum.phantoms += account.phantoms.length + account.duplicated.length;
  }
  outages.sort((a, b) => a - b);
  const at = (part: number) => outages[Math.min(count - 1, Math.floor(part * count))]?.toFixed(2);
  console.log(
    `${what}: ${count} times; seconds without a write: least ${at(0)}, median ${at(0.5)}, most ${at(1)}; to reach: ${toReachSeconds}`,
  );
  console.log(`  ${JSON.stringify(sum)}`);
}

async function killProcess(): Promise<Account> {
  const primary = await primaryOf(site);
  return witnessed(site, async () => {
    process.kill(postgresPid(site, primary), 'SIGKILL');
  });
}

async function loseMachine(): Promise<Account> {
  const primary = await primaryOf(site);
  const patroni = await site.pidOf(primary);
  try {
    return await witnessed(site, async () => {
      process.kill(patroni, 'SIGSTOP');
      killPostgres(site, primary);
    });
  } finally {
    process.kill(patroni, 'SIGCONT');
  }
}
