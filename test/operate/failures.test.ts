/**
 * Promise 7: bad input gets a clear error and changes nothing. Each message says what, where and what
 * to do; the exit code is not 0; the data is as it was; nothing is left running.
 */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type Site, siteOf } from '../support/deployment.ts';
import { LEDGER_APP } from '../support/ledger.ts';
import { nothingRuns } from '../support/processes.ts';

let site: Site;
beforeEach(async () => {
  site = await siteOf(LEDGER_APP);
});
afterEach(() => site.remove());

/** Everything in the data folder: names, sizes, contents. */
function fingerprintOf(folder: string): string {
  const hash = createHash('sha256');
  const names = readdirSync(folder, { recursive: true, encoding: 'utf8' }).sort();
  for (const name of names) {
    const file = path.join(folder, name);
    hash.update(name);
    if (statSync(file).isFile()) hash.update(readFileSync(file));
  }
  return hash.digest('hex');
}

/** A deployment with a row in it, stopped. */
async function withData(): Promise<string> {
  await site.up();
  const answer = await fetch(`${site.address}/1`, { method: 'POST', body: '{"value": 7}' });
  expect(answer.status).toBe(201);
  await site.down();
  return fingerprintOf(site.paths.postgres);
}

async function expectDataIsThere(): Promise<void> {
  await site.up();
  const answer = await fetch(`${site.address}/1`);
  expect(await answer.json()).toEqual([7]);
}

async function takePort(): Promise<{ port: number; server: Server }> {
  const server = createServer();
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
  return { port: (server.address() as { port: number }).port, server };
}

test('a port in use: who uses it, how to choose another; nothing was started', async () => {
  const { port, server } = await takePort();
  try {
    const { code, stderr } = await site.banyan(['up', '--port', String(port)]);
    expect(code).toBe(1);
    expect(stderr).toContain(`Port ${port} is in use by`);
    expect(stderr).toContain(`pid ${process.pid}`);
    expect(stderr).toContain('--port');
  } finally {
    server.close();
  }
  expect(readdirSync(site.paths.root)).not.toContain('postgres');
  await nothingRuns(site.folder);
});

test('a database port in use is told with the key to change', async () => {
  const { port, server } = await takePort();
  try {
    await writeFile(
      path.join(site.folder, 'banyan.config.ts'),
      `export default { database: { port: ${port} } };`,
    );
    const { code, stderr } = await site.banyan(['up', '--port', '0']);
    expect(code).toBe(1);
    expect(stderr).toContain(`Port ${port} is in use`);
    expect(stderr).toContain('database.port');
  } finally {
    server.close();
  }
  await nothingRuns(site.folder);
});

test('a second up: told who runs it, and the first goes on', async () => {
  await site.up();
  const { supervisor } = await site.status();
  const { code, stderr } = await site.banyan(['up', '--port', '0']);
  expect(code).toBe(1);
  expect(stderr).toContain(`already up, under the supervisor with pid ${supervisor}`);
  expect(stderr).toContain('banyan down');
  expect((await fetch(`${site.address}/1`)).status).toBe(200);
});

test('data of another version is not touched', async () => {
  await withData();
  const versionFile = path.join(site.paths.postgres, 'PG_VERSION');
  const version = readFileSync(versionFile, 'utf8');
  await writeFile(versionFile, '15\n');
  const before = fingerprintOf(site.paths.postgres);

  const { code, stderr } = await site.banyan(['up', '--port', '0']);
  expect(code).toBe(1);
  expect(stderr).toContain('written by PostgreSQL 15');
  expect(stderr).toContain('Nothing was changed');
  expect(fingerprintOf(site.paths.postgres)).toBe(before);
  await nothingRuns(site.folder);

  await writeFile(versionFile, version);
  await expectDataIsThere();
});

test('a missing migration: its name, and the application is not started', async () => {
  await withData();
  const file = path.join(site.folder, 'migrations/001-entries.sql');
  const text = readFileSync(file);
  await rm(file);
  await writeFile(path.join(site.folder, 'migrations/002-more.sql'), 'create table more (id int);');

  const { code, stderr } = await site.banyan(['up', '--port', '0']);
  expect(code).toBe(1);
  expect(stderr).toContain('001-entries.sql');
  expect(stderr).toContain('version control');
  await nothingRuns(site.folder);

  await writeFile(file, text);
  await expectDataIsThere();
});

test('a migration that fails: file, line and message; what it did is undone', async () => {
  await withData();
  const file = path.join(site.folder, 'migrations/002-bad.sql');
  await writeFile(file, 'drop table entries;\nselect nonsense;\n');
  const { code, stderr } = await site.banyan(['up', '--port', '0']);
  expect(code).toBe(1);
  expect(stderr).toMatch(/002-bad\.sql failed in line 2: column "nonsense" does not exist/);
  await rm(file);
  await expectDataIsThere();
});

test('a config with three mistakes: all three, before anything is touched', async () => {
  const before = await withData();
  await writeFile(
    path.join(site.folder, 'banyan.config.ts'),
    `export default { web: { prot: 80, startTimeoutMs: '3s' }, database: { maxConnections: 1 } };`,
  );
  const { code, stderr } = await site.banyan(['up']);
  expect(code).toBe(1);
  expect(stderr).toContain('3 mistakes');
  expect(stderr).toContain('web.prot = 80');
  expect(stderr).toContain('Did you mean `web.port`?');
  expect(stderr).toContain('web.startTimeoutMs = "3s": expected a whole number');
  expect(stderr).toContain('database.maxConnections = 1: expected a whole number from 10');
  expect(stderr).toContain('Nothing was changed');
  expect(fingerprintOf(site.paths.postgres)).toBe(before);
});

test('the same as JSON, for scripts', async () => {
  await writeFile(path.join(site.folder, 'banyan.config.ts'), `export default { wbe: {} };`);
  const { code, stdout } = await site.banyan(['up', '--json']);
  expect(code).toBe(1);
  const { error } = JSON.parse(stdout) as { error: { code: string; mistakes: object[] } };
  expect(error.code).toBe('INVALID_TOPOLOGY');
  expect(error.mistakes).toMatchObject([{ path: 'wbe', nearest: 'web' }]);
});

test('a config that does not compile is told with its file', async () => {
  await writeFile(path.join(site.folder, 'banyan.config.ts'), 'export default {{{;');
  const { code, stderr } = await site.banyan(['up']);
  expect(code).toBe(1);
  expect(stderr).toContain('banyan.config.ts');
  expect(stderr).toContain('Nothing was changed');
});

describe('an app that crashes at start', () => {
  test('its last words are shown, and everything is stopped again', async () => {
    await withData();
    const file = path.join(site.folder, 'server.ts');
    const text = readFileSync(file);
    await writeFile(file, `throw new Error('the flux capacitor is missing');`);
    const { code, stderr } = await site.banyan(['up', '--port', '0']);
    expect(code).toBe(1);
    expect(stderr).toContain('web-1 did not start');
    expect(stderr).toContain('the flux capacitor is missing');
    await nothingRuns(site.folder);
    await writeFile(file, text);
    await expectDataIsThere();
  });

  test('in the background too', async () => {
    await writeFile(path.join(site.folder, 'server.ts'), `process.exit(3);`);
    const { code, stderr } = await site.banyan(['up', '--port', '0', '--detach']);
    expect(code).toBe(1);
    expect(stderr).toContain('exit code 3');
    await nothingRuns(site.folder);
  });

  test('a package that is not installed is named', async () => {
    await writeFile(path.join(site.folder, 'server.ts'), `import 'no-such-package';`);
    const { code, stderr } = await site.banyan(['up', '--port', '0']);
    expect(code).toBe(1);
    expect(stderr).toContain('cannot find no-such-package');
    expect(stderr).toContain('npm install');
  });

  test('one that listens on another port is told to use PORT', async () => {
    await writeFile(
      path.join(site.folder, 'banyan.config.ts'),
      'export default { web: { startTimeoutMs: 1500 } };',
    );
    await writeFile(
      path.join(site.folder, 'server.ts'),
      `import { createServer } from 'node:http'; createServer().listen(0);`,
    );
    const { code, stderr } = await site.banyan(['up', '--port', '0']);
    expect(code).toBe(1);
    expect(stderr).toContain('listen on the PORT that it is given');
  });
});

test('an external database that is not there: where, and what to check; no password shown', async () => {
  await writeFile(
    path.join(site.folder, 'banyan.config.ts'),
    `export default { database: { url: 'postgres://me:hush-hush@127.0.0.1:1/app' } };`,
  );
  const { code, output } = await site.banyan(['up', '--port', '0']);
  expect(code).toBe(1);
  expect(output).toContain('127.0.0.1:1');
  expect(output).toContain('database.url');
  expect(output).not.toContain('hush-hush');
  expect(output).not.toContain('Unexpected');
});
