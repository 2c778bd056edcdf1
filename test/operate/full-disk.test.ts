/**
 * A full disk: told before anything is touched, survived while running. On a small file system of its
 * own, which takes root to mount; CI is root.
 */
import { execFileSync } from 'node:child_process';
import { appendFileSync, readdirSync, rmSync } from 'node:fs';
import { cp, mkdir } from 'node:fs/promises';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Site, siteOf, temporaryFolder } from '../support/deployment.ts';
import { LEDGER_APP, LedgerSubject } from '../support/ledger.ts';
import { nothingRuns } from '../support/processes.ts';
import { until } from '../support/until.ts';
import { expectNothingLost } from '../support/verdict.ts';
import { Witness } from '../support/witness.ts';

const isRoot = process.getuid?.() === 0;
const SIZE_MB = 400;

describe.skipIf(!isRoot)('on a small disk', () => {
  let mount: string;
  let site: Site;
  let ballast: string;

  beforeEach(async () => {
    mount = temporaryFolder();
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${SIZE_MB}m,mode=755`, 'tmpfs', mount]);
    ballast = path.join(mount, 'ballast');
    const plain = await siteOf(LEDGER_APP);
    const folder = path.join(mount, 'app');
    await mkdir(folder);
    await cp(plain.folder, folder, { recursive: true, verbatimSymlinks: true });
    await plain.remove();
    site = new Site(folder);
  });

  afterEach(async () => {
    await site.remove();
    execFileSync('umount', [mount]);
    rmSync(mount, { recursive: true });
  });

  function fill(): void {
    const megabyte = Buffer.alloc(1024 * 1024);
    try {
      for (;;) appendFileSync(ballast, megabyte);
    } catch (error) {
      expect(error).toMatchObject({ code: 'ENOSPC' });
    }
  }

  test('a first start says how much is missing, and leaves nothing behind', async () => {
    appendFileSync(ballast, Buffer.alloc((SIZE_MB - 50) * 1024 * 1024));
    const { code, stderr } = await site.banyan(['up', '--port', '0']);
    expect(code).toBe(1);
    expect(stderr).toMatch(/The disk is full: \d+ MB are free, and the database needs \d+ MB/);
    expect(stderr).toContain('Nothing was changed');
    expect(readdirSync(site.paths.root).filter(name => name.startsWith('postgres'))).toEqual([]);
    await nothingRuns(site.folder);

    rmSync(ballast);
    await site.up();
  });

  test('not even room for a file: still a message, no stack', async () => {
    fill();
    const { code, stderr } = await site.banyan(['up', '--port', '0']);
    expect(code).toBe(1);
    expect(stderr).toContain('disk is full');
    expect(stderr).not.toMatch(/^\s+at /m);
  });

  test('while running: nothing acknowledged is lost, and it goes on when there is room again', async () => {
    await site.up();
    const witness = new Witness(new LedgerSubject(site.address, site.pool())).start();
    await witness.untilAcknowledged(50);
    fill();
    // The log is written on until the last segment is full; a large write makes that happen now.
    const pool = site.pool();
    await until(
      async () => {
        try {
          await pool.query(
            `create table bulk as select repeat('x', 1000) from generate_series(1, 50000)`,
          );
          await pool.query('drop table bulk');
          return undefined;
        } catch {
          return true;
        }
      },
      { what: 'the database feels the full disk' },
    );
    rmSync(ballast);
    await witness.untilAcknowledged(100, 60_000);
    const account = await witness.stop();
    expectNothingLost(account);
  });
});
