/**
 * The repository while the database serves: joined online, full, out of reach; a primary that dies before it has
 * archived its log.
 */
import { execFileSync } from 'node:child_process';
import { appendFileSync, chmodSync, existsSync, readFileSync, rmSync, statSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { BackupStatus } from '../../../src/operate/backup/keeper.ts';
import { withClient } from '../../../src/operate/database/provision.ts';
import { readDatabaseRecord } from '../../../src/operate/database/record.ts';
import { superuserUrl } from '../../../src/operate/database/running.ts';
import { existingDeployment } from '../../../src/operate/deployment.ts';
import { deployFiles, type Site, temporaryFolder } from '../../support/deployment.ts';
import { LEDGER_APP, LedgerSubject } from '../../support/ledger.ts';
import { killPostgres, primaryOf, untilWell } from '../../support/replicated.ts';
import { until } from '../../support/until.ts';
import { Witness } from '../../support/witness.ts';

const TIMEOUT_MS = 240_000;
const SIZE_MB = 120;
const BACKLOG_MB = 64;
const isRoot = process.getuid?.() === 0;
let site: Site;
let repository: string;

function config(database: object): string {
  return `export default ${JSON.stringify({ database: { memoryMb: 64, replicas: 1, ...database } })};\n`;
}

async function backup(): Promise<BackupStatus> {
  return until(async () => (await site.status()).backup, { what: 'backups are made' });
}

/** Each witness counts from one. */
async function startWitness(): Promise<Witness> {
  await site.refresh();
  await site.pool().query('delete from entries');
  const witness = new Witness(new LedgerSubject(site.address, site.pool()), {}).start();
  await witness.untilAcknowledged(20);
  return witness;
}

function id(): string {
  return existingDeployment(site.paths)!.id;
}

async function missing(): Promise<string[]> {
  return (JSON.parse((await site.ok('backups', '--json')).stdout) as { missing: string[] }).missing;
}

/** Ends segments of the log before they are full. */
async function writeLog(segments: number): Promise<void> {
  const { cluster } = readDatabaseRecord(site.paths) ?? {};
  const name = await primaryOf(site);
  const node = cluster!.nodes.find(each => each.name === name)!;
  await withClient(
    superuserUrl(existingDeployment(site.paths)!, node, 'postgres'),
    async client => {
      for (let done = 0; done < segments; done++) {
        await client.query(`select pg_logical_emit_message(false, 'banyan', 'test')`);
        await client.query('select pg_switch_wal()');
      }
    },
  );
}

describe.skipIf(!isRoot)('a repository of its own', () => {
  beforeAll(async () => {
    repository = temporaryFolder();
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${SIZE_MB}m,mode=755`, 'tmpfs', repository]);
    site = await deployFiles({ ...LEDGER_APP, 'banyan.config.ts': config({}) });
    await untilWell(site, 2);
  }, TIMEOUT_MS);

  afterAll(async () => {
    await site?.remove();
    execFileSync('umount', ['--lazy', repository]);
    rmSync(repository, { recursive: true, force: true });
  }, TIMEOUT_MS);

  test(
    'without backups the commands say how to get them; they join online, for the account alone',
    async () => {
      const { code, stderr } = await site.banyan(['backup']);
      expect(code).toBe(1);
      expect(stderr).toContain('backup: {}');
      await writeFile(
        path.join(site.folder, 'banyan.config.ts'),
        config({ backup: { repository, encrypt: true, backlogMb: BACKLOG_MB } }),
      );
      const witness = await startWitness();
      await site.ok('apply', '--yes');
      await until(async () => (await backup()).last, {
        what: 'there is a backup',
        timeoutMs: 120_000,
      });
      expect(await witness.stop()).toMatchObject({ lost: [], failures: {} });
      expect(statSync(repository).mode & 0o077).toBe(0);
      expect(statSync(repository).uid).not.toBe(0);
      // Encrypted: nothing in it can be read without the key.
      expect(
        readFileSync(path.join(repository, 'backup', id(), 'backup.info'), 'latin1'),
      ).not.toContain('backrest');
    },
    TIMEOUT_MS,
  );

  test(
    'it is full: the database goes on, status tells what waits, and it arrives when there is room',
    async () => {
      const ballast = path.join(repository, 'ballast');
      const megabyte = Buffer.alloc(1024 * 1024);
      try {
        for (;;) appendFileSync(ballast, megabyte);
      } catch (error) {
        expect(error).toMatchObject({ code: 'ENOSPC' });
      }
      const witness = await startWitness();
      await writeLog(3);
      const { archiving } = await until(
        async () => {
          const status = await backup();
          return status.archiving?.failedAt && status.archiving.waiting > 0 ? status : undefined;
        },
        { what: 'status tells of the backlog', timeoutMs: 60_000 },
      );
      expect(archiving!.waitingBytes).toBeGreaterThan(0);
      expect((await site.ok('status')).stdout).toContain('the log is not archived');
      // Beyond the limit it is given up rather than the database: PostgreSQL must not run out of disk for it.
      await writeLog(8);
      await until(
        async () =>
          /dropped WAL file/.test(
            (await site.ok('logs', await primaryOf(site), '-n', '2000')).stdout,
          ),
        { what: 'log beyond the limit is thrown away', timeoutMs: 60_000 },
      );
      await witness.untilAcknowledged(20);
      rmSync(ballast);
      // What is still in the servers' folders is archived after all; otherwise there is another backup.
      // PostgreSQL tries again when a segment is complete, at the latest after a minute.
      await writeLog(1);
      await until(
        async () => {
          const status = await backup();
          return !status.archiving?.failedAt && status.missing.length === 0 && !status.failure;
        },
        { what: 'all is well again', timeoutMs: 120_000 },
      );
      await until(async () => (await missing()).length === 0, {
        what: 'what was thrown away is archived from the log that the server keeps',
        timeoutMs: 90_000,
      });
      expect(await witness.stop()).toMatchObject({ lost: [], stale: [], failures: {} });
      const { stdout } = await site.ok('backup');
      expect(stdout).toContain('backup');
    },
    TIMEOUT_MS,
  );

  test(
    'who takes over archives what the last primary had not: no moment is missing',
    async () => {
      await site.ok('backup', '--full');
      expect(await missing()).toEqual([]);
      const primary = await primaryOf(site);
      chmodSync(repository, 0);
      await writeLog(2);
      // Not under its account's hands any more: neither this process nor its Patroni archives anything.
      const patroni = await site.pidOf(primary);
      process.kill(patroni, 'SIGSTOP');
      killPostgres(site, primary);
      await until(async () => (await primaryOf(site)) !== primary, {
        what: 'another is the primary',
        timeoutMs: 60_000,
      });
      chmodSync(repository, 0o700);
      try {
        await until(
          async () =>
            (await site.ok('logs', 'backup')).stdout.includes('archived what the last primary'),
          { what: 'the log of the last primary is archived', timeoutMs: 120_000 },
        );
        expect(await missing()).toEqual([]);
      } finally {
        process.kill(patroni, 'SIGCONT');
      }
      await untilWell(site, 2);
    },
    TIMEOUT_MS,
  );

  test(
    'a folder that belongs to another is not taken away from him',
    async () => {
      const other = temporaryFolder();
      await writeFile(path.join(other, 'letter'), 'mine');
      await writeFile(
        path.join(site.folder, 'banyan.config.ts'),
        config({ backup: { repository: other } }),
      );
      const { code, stderr } = await site.banyan(['apply', '--yes']);
      expect(code).toBe(1);
      expect(stderr).toContain('The folder for backups cannot be used');
      expect(stderr).toContain('chown');
      expect(existsSync(path.join(other, 'archive'))).toBe(false);
      rmSync(other, { recursive: true });
    },
    TIMEOUT_MS,
  );
});
