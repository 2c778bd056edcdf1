/** What `banyan up` makes of a folder. */
import { chmodSync, existsSync, lstatSync, statSync, writeFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { deployFiles, type Site, siteOf } from '../support/deployment.ts';
import { LEDGER_APP } from '../support/ledger.ts';

let site: Site | undefined;
afterEach(() => site?.remove());

/** The least that an existing application is: it listens on PORT and reads DATABASE_URL. */
const PLAIN_APP = {
  'package.json': JSON.stringify({ name: '@acme/Plain App', type: 'module' }),
  'server.js': `
    import { createServer } from 'node:http';
    import pg from 'pg';
    const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL });
    createServer(async (req, res) => {
      const { rows } = await pool.query('select current_database() as database, current_user as role, rolsuper as super from pg_roles where rolname = current_user');
      res.end(JSON.stringify({ ...rows[0], environment: process.env.NODE_ENV, unit: process.env.BANYAN_UNIT }));
    }).listen(process.env.PORT);
  `,
};

test('an existing app that listens on PORT and reads DATABASE_URL runs with no change', async () => {
  site = await deployFiles(PLAIN_APP);
  const response = await fetch(site.address);
  expect(await response.json()).toEqual({
    database: 'plain_app',
    role: 'plain_app',
    super: false,
    environment: 'production',
    unit: 'web-1',
  });
  const { deployment, units, epoch } = await site.status();
  expect({ deployment, epoch }).toEqual({ deployment: 'plain-app', epoch: 1 });
  expect(units.map(({ name, phase }) => [name, phase])).toEqual([
    ['postgres-1', 'ready'],
    ['web-1', 'ready'],
  ]);
});

test('PostgreSQL is safe, and ready for the later rungs without a restart', async () => {
  site = await deployFiles(PLAIN_APP);
  const { rows } = await site
    .pool()
    .query<{ name: string; setting: string }>('select name, setting from pg_settings');
  const settings = Object.fromEntries(rows.map(({ name, setting }) => [name, setting]));
  expect(settings).toMatchObject({
    data_checksums: 'on',
    fsync: 'on',
    full_page_writes: 'on',
    synchronous_commit: 'on',
    wal_level: 'logical',
    password_encryption: 'scram-sha-256',
    listen_addresses: '127.0.0.1',
    archive_mode: 'on',
    wal_log_hints: 'on',
    TimeZone: 'UTC',
  });
  for (const name of ['max_wal_senders', 'max_replication_slots', 'max_prepared_transactions']) {
    expect(Number(settings[name])).toBeGreaterThanOrEqual(10);
  }
  expect(statSync(site.paths.postgres).mode & 0o077).toBe(0);
});

test('settings and sizes of the topology reach the database', async () => {
  site = await siteOf({
    ...PLAIN_APP,
    'banyan.config.ts': `export default {
      database: { memoryMb: 256, maxConnections: 30, settings: { log_min_duration_statement: '200ms', "random_page_cost": 1.1 } },
      web: { env: { GREETING: "it's set" } },
    };`,
  });
  await site.up();
  const show = async (name: string) => (await site!.pool().query(`show ${name}`)).rows[0][name];
  expect(await show('shared_buffers')).toBe('128MB');
  expect(await show('max_connections')).toBe('30');
  expect(await show('log_min_duration_statement')).toBe('200ms');
  expect(await show('random_page_cost')).toBe('1.1');
});

test('down and up again: the same data, the same ports, an epoch that did not change', async () => {
  site = await deployFiles(LEDGER_APP);
  await fetch(`${site.address}/1`, { method: 'POST', body: '{"value": 7}' });
  const before = await site.status();
  const { databaseUrl } = site;
  await site.down();
  await site.up();
  expect(await (await fetch(`${site.address}/1`)).json()).toEqual([7]);
  expect(site.databaseUrl).toBe(databaseUrl);
  expect((await site.status()).epoch).toBe(before.epoch);
});

test('a database of the user is used, and none is run', async () => {
  await using provider = await deployFiles(PLAIN_APP);
  site = await siteOf({
    ...LEDGER_APP,
    'banyan.config.ts': `export default { database: { url: process.env.DATABASE_URL } };`,
  });
  const env = { DATABASE_URL: provider.databaseUrl };
  const up = await site.banyan(['up', '--detach', '--port', '0'], { env });
  expect(up).toMatchObject({ code: 0, output: expect.stringContaining('not run by Banyan') });
  const { address, units } = await site.status();
  expect(units.map(({ name }) => name)).toEqual(['web-1']);
  expect((await fetch(`${address}/1`, { method: 'POST', body: '{"value": 7}' })).status).toBe(201);
  const { rows } = await provider.pool().query('select value from entries');
  expect(rows).toEqual([{ value: 7 }]);
  expect(existsSync(site.paths.postgres)).toBe(false);
});

test('a DATABASE_URL of the shell that is not used is mentioned', async () => {
  site = await siteOf(PLAIN_APP);
  const env = { DATABASE_URL: 'postgres://other/elsewhere' };
  const { code, output } = await site.banyan(['up', '--detach', '--port', '0'], { env });
  expect(code).toBe(0);
  expect(output).toContain('DATABASE_URL in your environment is not used');
});

describe('migrations with a command of the user', () => {
  const config = (command: string) =>
    `export default { database: { migrate: ${JSON.stringify(command)} } };`;

  test('it runs before the web server, with the environment of the application', async () => {
    site = await deployFiles({
      ...PLAIN_APP,
      'banyan.config.ts': config('node migrate.js'),
      'migrate.js': `
        import pg from 'pg';
        const client = new pg.Client(process.env.DATABASE_URL);
        await client.connect();
        await client.query('create table if not exists made_by_command (id int)');
        await client.end();
        console.log('made a table');`,
    });
    await site.pool().query('table made_by_command');
    expect((await site.banyan(['logs', 'migrations'])).stdout).toContain('made a table');
  });

  test('when it fails its words are shown and the web server is not started', async () => {
    site = await siteOf({
      ...PLAIN_APP,
      'banyan.config.ts': config('echo the schema is wrong >&2; exit 4'),
    });
    const { code, stderr } = await site.banyan(['up', '--port', '0']);
    expect(code).toBe(1);
    expect(stderr).toMatch(/exit code 4.*the schema is wrong/s);
  });
});

describe.runIf(process.getuid?.() === 0)('as root', () => {
  test('a folder that only root may enter: PostgreSQL lives elsewhere, and finds its data again', async () => {
    site = await siteOf(LEDGER_APP);
    chmodSync(site.folder, 0o700);
    await site.up();
    expect(lstatSync(site.paths.postgres).isSymbolicLink()).toBe(true);
    await fetch(`${site.address}/1`, { method: 'POST', body: '{"value": 7}' });
    await site.down();
    await site.up();
    expect(await (await fetch(`${site.address}/1`)).json()).toEqual([7]);
  });

  test('a folder below one that only root may enter', async () => {
    await using outer = await siteOf(LEDGER_APP);
    const folder = path.join(outer.folder, 'inner');
    await mkdir(folder);
    for (const [name, text] of Object.entries(PLAIN_APP)) {
      writeFileSync(path.join(folder, name), text);
    }
    chmodSync(outer.folder, 0o700);
    const inner = new (outer.constructor as typeof Site)(folder);
    await inner.up();
    expect((await fetch(inner.address)).status).toBe(200);
    await inner.remove();
  });
});
