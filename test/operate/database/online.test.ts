/**
 * From one database server to several and back, and whatever is changed about them, under the witness: nothing
 * acknowledged is lost, nobody sees less than he wrote, and no request fails.
 */
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Topology } from '../../../src/topology/topology.ts';
import { deployFiles, type Site } from '../../support/deployment.ts';
import { LEDGER_APP, LedgerSubject } from '../../support/ledger.ts';
import { expectUnnoticed } from '../../support/verdict.ts';
import { Witness } from '../../support/witness.ts';

const TIMEOUT_MS = 240_000;
let site: Site;

beforeAll(async () => {
  site = await deployFiles({ ...LEDGER_APP, 'banyan.config.ts': config({ replicas: 0 }) });
}, TIMEOUT_MS);
afterAll(() => site?.remove(), TIMEOUT_MS);

function config(database: Topology['database']): string {
  return `export default ${JSON.stringify({ database: { memoryMb: 64, ...database } })};\n`;
}

/** Runs commands while the witness is at work, and holds it to a perfect account. */
async function online(...commands: string[][]): Promise<void> {
  await site.refresh();
  // Each witness counts from one.
  await site.pool().query('delete from entries');
  const witness = new Witness(new LedgerSubject(site.address, site.pool(), { sessions: 4 }), {
    sessions: 4,
  }).start();
  await witness.untilAcknowledged(20);
  for (const command of commands) {
    await site.ok(...command);
    await witness.untilAcknowledged(20);
  }
  // The primary may be another by now.
  await site.refresh();
  const account = await witness.stop(new LedgerSubject(site.address, site.pool(), { sessions: 4 }));
  expectUnnoticed(account);
}

async function ask(database: Topology['database']): Promise<void> {
  await writeFile(path.join(site.folder, 'banyan.config.ts'), config(database));
}

async function servers() {
  return (await site.status()).databaseServers ?? [];
}

describe('a database that is replicated', () => {
  test(
    'from one server to a primary and a replica, and the rows that are read come from the replica',
    async () => {
      await ask({ replicas: 1 });
      await online(['apply', '--yes']);
      const roles = (await servers()).map(({ role }) => role);
      expect(roles.filter(role => role === 'primary')).toHaveLength(1);
      expect(roles).toHaveLength(2);
    },
    TIMEOUT_MS,
  );

  test(
    'a replica more, and a switchover',
    async () => {
      await ask({ replicas: 2 });
      await online(['apply', '--yes'], ['switchover']);
    },
    TIMEOUT_MS,
  );

  test('a restart of all', () => online(['restart']), TIMEOUT_MS);

  test(
    'another server for the primary',
    async () => {
      const primary = (await servers()).find(({ role }) => role === 'primary')!.name;
      await online(['replace', primary]);
      expect((await servers()).map(({ name }) => name)).not.toContain(primary);
    },
    TIMEOUT_MS,
  );

  test(
    'a replica less',
    async () => {
      await ask({ replicas: 1 });
      await online(['apply', '--yes']);
      expect(await servers()).toHaveLength(2);
    },
    TIMEOUT_MS,
  );

  test(
    'settings that need a restart',
    async () => {
      await ask({ replicas: 1, settings: { max_locks_per_transaction: 128 } });
      await online(['apply', '--yes']);
      const { rows } = await site.pool().query('show max_locks_per_transaction');
      expect(rows).toEqual([{ max_locks_per_transaction: '128' }]);
    },
    TIMEOUT_MS,
  );

  test(
    'back to one server',
    async () => {
      await ask({ replicas: 0 });
      await online(['apply', '--yes']);
      expect(await servers()).toEqual([]);
    },
    TIMEOUT_MS,
  );
});
