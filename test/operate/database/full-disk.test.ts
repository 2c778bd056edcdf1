/**
 * The primary's disk is full, its replicas' are not: another takes over, and it comes back when there is room. A file
 * system of its own takes root to mount; CI is root.
 */
import { execFileSync } from 'node:child_process';
import { appendFileSync, rmSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type Site, siteOf } from '../../support/deployment.ts';
import { LEDGER_APP } from '../../support/ledger.ts';
import { primaryOf, untilWell, witnessed } from '../../support/replicated.ts';
import { until } from '../../support/until.ts';
import { expectNothingLost } from '../../support/verdict.ts';

const TIMEOUT_MS = 240_000;
const SERVERS = 3;
const SIZE_MB = 400;
const MEGABYTE = Buffer.alloc(1024 * 1024);
const isRoot = process.getuid?.() === 0;

describe.skipIf(!isRoot)('the primary’s disk is full', () => {
  let site: Site;
  let disk: string;

  beforeEach(async () => {
    site = await siteOf({
      ...LEDGER_APP,
      'banyan.config.ts': `export default { database: { memoryMb: 64, replicas: ${SERVERS - 1} } };\n`,
    });
    // The first server to start is the first primary.
    disk = path.join(site.paths.cluster, 'database-1');
    await mkdir(disk, { recursive: true });
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${SIZE_MB}m,mode=755`, 'tmpfs', disk]);
    await site.up();
    await untilWell(site, SERVERS);
  }, TIMEOUT_MS);
  afterEach(async () => {
    await site.banyan(['down']);
    execFileSync('umount', [disk]);
    await site.remove();
  }, TIMEOUT_MS);

  /** To the last byte, as often as something is freed. */
  function fill(ballast: string): void {
    for (let chunk = MEGABYTE; chunk.length > 0; ) {
      try {
        appendFileSync(ballast, chunk);
      } catch (error) {
        expect(error).toMatchObject({ code: 'ENOSPC' });
        chunk = chunk.subarray(0, Math.floor(chunk.length / 2));
      }
    }
  }

  test('another takes over, nothing is lost, and it comes back when there is room', {
    timeout: TIMEOUT_MS,
  }, async () => {
    expect(await primaryOf(site)).toBe('database-1');
    const ballast = path.join(disk, 'ballast');
    const account = await witnessed(site, async () => {
      fill(ballast);
      // The log's files that are there already have their place; the next has none. A record as long as most of a
      // file ends in the next: its beginning is on the disk, the rest never gets there.
      await until(
        async () => {
          await site
            .pool()
            .query(`select pg_logical_emit_message(true, 'test', repeat('x', 12000000))`)
            .catch(() => {});
          return (await primaryOf(site)) !== 'database-1';
        },
        { what: 'another is the primary', timeoutMs: 60_000 },
      );
    });
    expectNothingLost(account);
    expect(account.reads.failed, JSON.stringify(account.failures)).toBe(0);

    rmSync(ballast);
    await untilWell(site, SERVERS);
  });
});
