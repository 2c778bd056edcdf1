/** What a replicated database cannot be made of: told before anything is touched, with what to do. */
import { execFileSync } from 'node:child_process';
import { appendFileSync, existsSync } from 'node:fs';
import { cp, mkdir, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { findEtcd } from '../../../src/engines/etcd.ts';
import { findPatroni } from '../../../src/engines/patroni.ts';
import { Cluster } from '../../support/cluster.ts';
import { Site, siteOf, temporaryFolder } from '../../support/deployment.ts';
import { LEDGER_APP } from '../../support/ledger.ts';
import { nothingRuns } from '../../support/processes.ts';

const TIMEOUT_MS = 120_000;
const isRoot = process.getuid?.() === 0;

const config = (database: object) => `export default ${JSON.stringify({ database })};\n`;

test('each program that is missing is named, with the command that installs it', () => {
  expect(() => findPatroni('/nowhere', [])).toThrow(
    expect.objectContaining({
      code: 'PATRONI_MISSING',
      remedy: expect.stringContaining('apt-get install -y --no-install-recommends patroni'),
    }),
  );
  expect(() => findEtcd('/nowhere', [])).toThrow(
    expect.objectContaining({
      code: 'ETCD_MISSING',
      remedy: expect.stringContaining('etcd-server'),
    }),
  );
});

test('a first start with more memory than the machine has: nothing is left behind', async () => {
  await using site = await siteOf({
    ...LEDGER_APP,
    'banyan.config.ts': config({ replicas: 2, memoryMb: 4_000_000 }),
  });
  const { code, stderr } = await site.banyan(['up', '--port', '0']);
  expect(code).toBe(1);
  expect(stderr).toMatch(/not enough memory for the database servers: \d+ MB are needed, and \d+/);
  expect(stderr).toContain('Nothing was changed. Set `database.memoryMb`');
  expect(existsSync(site.paths.cluster)).toBe(false);
  await nothingRuns(site.folder);
});

describe('of a database that serves', () => {
  let site: Site;
  beforeAll(async () => {
    site = await siteOf({ ...LEDGER_APP, 'banyan.config.ts': config({ memoryMb: 64 }) });
    await site.up();
  }, TIMEOUT_MS);
  afterAll(() => site?.remove(), TIMEOUT_MS);

  test('replicas for which there is no memory', { timeout: TIMEOUT_MS }, async () => {
    await writeFile(
      path.join(site.folder, 'banyan.config.ts'),
      config({ replicas: 1, memoryMb: 4_000_000 }),
    );
    const { code, stderr } = await site.banyan(['apply', '--yes']);
    expect(code).toBe(1);
    expect(stderr).toContain('There is not enough memory for the database servers');
    const { units } = await site.status();
    expect(units.filter(({ tier }) => tier === 'database').map(({ name }) => name)).toEqual([
      'postgres-1',
    ]);
    expect((await site.pool().query('select 1 as one')).rows).toEqual([{ one: 1 }]);
  });
});

test.skipIf(!isRoot)('replicas for which there is no disk', { timeout: TIMEOUT_MS }, async () => {
  const mount = temporaryFolder();
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=600m,mode=755', 'tmpfs', mount]);
  try {
    const plain = await siteOf({ ...LEDGER_APP, 'banyan.config.ts': config({ memoryMb: 64 }) });
    const folder = path.join(mount, 'app');
    await mkdir(folder);
    await cp(plain.folder, folder, { recursive: true, verbatimSymlinks: true });
    await plain.remove();
    await using site = new Site(folder);
    await site.up();
    appendFileSync(path.join(mount, 'ballast'), Buffer.alloc(300 * 1024 * 1024));
    await writeFile(path.join(folder, 'banyan.config.ts'), config({ replicas: 1, memoryMb: 64 }));
    const { code, stderr } = await site.banyan(['apply', '--yes']);
    expect(code).toBe(1);
    expect(stderr).toMatch(/not enough disk space for the database servers: \d+ MB are needed/);
    expect(stderr).toContain(path.join(folder, '.banyan'));
    expect((await site.pool().query('select 1 as one')).rows).toEqual([{ one: 1 }]);
  } finally {
    execFileSync('umount', [mount]);
    await rm(mount, { recursive: true });
  }
});

describe('a database that the user runs', () => {
  let cluster: Cluster;
  let other: Cluster;
  let site: Site;

  beforeAll(async () => {
    [cluster, other] = await Promise.all([
      Cluster.start({ standbys: 1 }),
      Cluster.start({ standbys: 0 }),
    ]);
    site = await siteOf(LEDGER_APP);
    // The same password, so that only what is asked about is wrong.
    const { password } = new URL(cluster.primary.url());
    await other.primary.ask(`alter role postgres password ${pg.escapeLiteral(password)}`);
  }, TIMEOUT_MS);
  afterAll(async () => {
    await site?.remove();
    await Promise.all([cluster?.remove(), other?.remove()]);
  }, TIMEOUT_MS);

  const up = async (readers: string[]) => {
    await writeFile(
      path.join(site.folder, 'banyan.config.ts'),
      config({ url: cluster.primary.url(), readers }),
    );
    return site.banyan(['up', '--detach', '--port', '0']);
  };
  const at = ({ host, port }: { host: string; port: number }) => `${host}:${port}`;

  test('another cluster is no replica of it', async () => {
    const { code, output } = await up([at(other.primary)]);
    expect(code).toBe(1);
    expect(output).toContain('`database.readers` names a server that cannot be read from');
    expect(output).toContain('another database cluster');
    expect(output).toContain(at(other.primary));
  });

  test('a replica that does not answer is told of, and the rest serves', {
    timeout: TIMEOUT_MS,
  }, async () => {
    const { code, output } = await up([at(cluster.standbys[0]!), '127.0.0.1:1']);
    expect(output).toContain('The replica at 127.0.0.1:1, of `database.readers`, does not answer');
    expect(code).toBe(0);
    const { address } = await site.status();
    const answer = await fetch(`${address}/1`, { method: 'POST', body: '{"value": 1}' });
    expect(answer.status).toBe(201);
    expect(await (await fetch(`${address}/1`)).json()).toEqual([1]);
    const doctor = await site.banyan(['doctor']);
    expect(doctor.output).toContain('127.0.0.1:1');
    await site.down();
  });
});
