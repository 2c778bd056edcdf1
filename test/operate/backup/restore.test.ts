/**
 * Backups and restores of a real replicated database: a moment between two writes shows exactly the first; what was
 * acknowledged is there after everything was lost but a log that can be read; a restore is taken back.
 */
import { rmSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { readRestore } from '../../../src/operate/backup/restore/journal.ts';
import { readDatabaseRecord } from '../../../src/operate/database/record.ts';
import { deployFiles, type Site, spawnBanyan } from '../../support/deployment.ts';
import { LEDGER_APP, LedgerSubject } from '../../support/ledger.ts';
import { killPostgres, serversOf, untilWell } from '../../support/replicated.ts';
import { until } from '../../support/until.ts';
import { expectNothingLost, expectUnnoticed } from '../../support/verdict.ts';
import { Witness } from '../../support/witness.ts';

const TIMEOUT_MS = 240_000;
let site: Site;

beforeAll(async () => {
  site = await deployFiles({
    ...LEDGER_APP,
    'banyan.config.ts': `export default { database: { memoryMb: 64, replicas: 1, backup: {} } };\n`,
  });
  await untilWell(site, 2);
}, TIMEOUT_MS);
afterAll(() => site?.remove(), TIMEOUT_MS);

interface Listed {
  backups: { label: string; kind: string }[];
  from: string;
  missing: string[];
}

async function backups(): Promise<Listed> {
  return JSON.parse((await site.ok('backups', '--json')).stdout) as Listed;
}

async function values(): Promise<number[]> {
  await site.refresh();
  const { rows } = await site.pool().query('select value from entries order by value');
  return rows.map(({ value }: { value: number }) => value);
}

async function write(value: number): Promise<Date> {
  const { rows } = await site
    .pool()
    .query(
      'insert into entries (session, value) values (9, $1) returning clock_timestamp() as at',
      [value],
    );
  return (rows[0] as { at: Date }).at;
}

test(
  'the supervisor makes the first backup by itself; another one while the witness writes costs no request',
  async () => {
    await until(async () => (await site.status()).backup?.last, {
      what: 'there is a backup',
      timeoutMs: 60_000,
    });
    const witness = new Witness(new LedgerSubject(site.address, site.pool()), {}).start();
    await witness.untilAcknowledged(20);
    await site.ok('backup');
    await site.ok('backup', '--full');
    await witness.untilAcknowledged(20);
    expectUnnoticed(await witness.stop());
    const { backups: all, missing } = await backups();
    expect(all.map(({ kind }) => kind)).toEqual(['full', 'incremental', 'full']);
    expect(missing).toEqual([]);
  },
  TIMEOUT_MS,
);

test(
  'a moment between two writes shows exactly the first, and taking the restore back shows both',
  async () => {
    await site.refresh();
    await site.pool().query('delete from entries');
    const first = await write(1);
    await delay(50);
    const between = new Date(first.getTime() + 20);
    await write(2);
    const { stdout } = await site.ok('restore', '--to', between.toISOString(), '--yes');
    expect(stdout).toContain('its last commit is of');
    expect(await values()).toEqual([1]);
    await untilWell(site, 2);
    // What was done, also later than the moment, is remembered.
    expect((await site.ok('operations')).stdout).toContain('restore of the database to');
    await write(3);

    await site.ok('restore', '--undo', '--yes');
    expect(await values()).toEqual([1, 2]);
    await untilWell(site, 2);

    // Each moment is asked of the line that was in force then. And a command that is killed in the middle is resumed.
    const child = spawnBanyan([
      'restore',
      '--dir',
      site.folder,
      '--to',
      between.toISOString(),
      '--yes',
    ]);
    await until(() => readRestore(site.paths)?.state === 'switching', {
      what: 'the folders change places',
      timeoutMs: 120_000,
    });
    child.kill('SIGKILL');
    const another = await site.banyan(['restore', '--to', 'latest', '--yes']);
    expect(another.code).toBe(1);
    expect(another.stderr).toContain('banyan restore --resume');
    await site.ok('restore', '--resume');
    expect(await values()).toEqual([1]);
    await untilWell(site, 2);
  },
  2 * TIMEOUT_MS,
);

test(
  'all servers are destroyed but for their log: nothing that was acknowledged is lost',
  async () => {
    await site.refresh();
    await site.pool().query('delete from entries');
    const witness = new Witness(new LedgerSubject(site.address, site.pool()), {}).start();
    await witness.untilAcknowledged(100);
    await destroy(['base', 'global', 'pg_xact']);
    const { stdout } = await site.ok('restore', '--to', 'latest', '--yes', '--json');
    // What was acknowledged last is in no archive yet.
    expect(stdout).toContain("of the log came from the servers' own folders");
    await witness.untilAcknowledged(20, 60_000);
    await site.refresh();
    const account = await witness.stop(new LedgerSubject(site.address, site.pool()));
    expectNothingLost(account);
    await untilWell(site, 2);
  },
  TIMEOUT_MS,
);

test(
  'nothing of the servers is left, their log neither: what the repository has comes back, and no moment after it is claimed',
  async () => {
    await site.refresh();
    await site.pool().query('delete from entries');
    await write(1);
    await site.ok('backup');
    const after = await write(2);
    await destroy(['.']);
    await site.down();
    // Without its data it does not make a new, empty database in their place.
    const up = await site.banyan(['up', '--detach', '--port', '0']);
    expect(up.code).toBe(1);
    expect(up.output).toContain('banyan restore --to latest');

    const beyond = await site.banyan(['restore', '--to', after.toISOString(), '--yes']);
    expect(beyond.code).toBe(1);
    expect(beyond.stderr).toContain('does not lead to');

    const { stdout } = await site.ok('restore', '--to', 'latest', '--yes');
    expect(stdout).toContain('banyan up');
    await site.up();
    expect(await values()).toEqual([1]);
    await untilWell(site, 2);
    expect((await serversOf(site)).map(({ role }) => role)).toContain('synchronous replica');
  },
  2 * TIMEOUT_MS,
);

/** All servers at once, so that none takes over, and then their files. */
async function destroy(files: string[]): Promise<void> {
  const { cluster } = readDatabaseRecord(site.paths) ?? {};
  const nodes = cluster!.nodes;
  for (const { name } of nodes) process.kill(await site.pidOf(name), 'SIGSTOP');
  for (const { name } of nodes) killPostgres(site, name);
  for (const { folder } of nodes) {
    for (const file of files) {
      rmSync(path.join(folder, 'data', file), { recursive: true, force: true });
    }
  }
}

describe('what cannot be restored is told, and nothing is changed', () => {
  test.for([
    ['a time that is none', ['--to', 'yesterday-ish'], 'It is not clear what moment is meant'],
    ['a time to come', ['--to', '2099-01-01'], 'still to come'],
    ['a time before the first backup', ['--to', '2020-01-01'], 'No backup was made before'],
    ['a backup that is not there', ['--to', '20200101-000000F'], 'No backup is called'],
    ['no moment', [], 'Say to which moment'],
    ['two at once', ['--to', 'latest', '--undo'], 'Say to which moment'],
  ] as const)('%s', { timeout: TIMEOUT_MS }, async ([, args, words]) => {
    const { code, stderr } = await site.banyan(['restore', ...args]);
    expect(code).toBe(1);
    expect(stderr).toContain(words);
    expect(stderr).not.toMatch(/^\s+at /m);
  });

  test('nobody is here to agree', { timeout: TIMEOUT_MS }, async () => {
    const { code, output } = await site.banyan(['restore', '--to', 'latest']);
    expect(code).toBe(1);
    expect(output).toContain("banyan restore --to 'latest' --yes");
    expect(output).toContain('nothing that was acknowledged is lost');
  });
});
