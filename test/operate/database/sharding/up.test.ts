/** `banyan up` with several shards: databases, migrations on all of them, guards, the map. */
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { afterEach, expect, test, vi } from 'vitest';
import { createPool } from '../../../../src/app/database/pool.ts';
import { hashKey, hashToBigInt } from '../../../../src/app/database/shards/hash.ts';
import { Ranges } from '../../../../src/app/database/shards/ranges.ts';
import { readRuntimeMap } from '../../../../src/map/map-file.ts';
import { shardUrls } from '../../../../src/operate/database/primary.ts';
import { withClient } from '../../../../src/operate/database/provision.ts';
import { existingDeployment } from '../../../../src/operate/deployment.ts';
import type { DatabaseTier } from '../../../../src/topology/topology.ts';
import { type Site, siteOf } from '../../../support/deployment.ts';

// Several servers are started several times.
vi.setConfig({ testTimeout: 240_000 });

let site: Site;
afterEach(() => site?.remove());

const SCHEMA = `
  create table users (id bigint primary key, email text not null unique);
  create table articles (
    id bigint not null default banyan.next_id(), author_id bigint not null references users (id),
    title text, primary key (author_id, id));
  create table tags (name text primary key);
  insert into tags values ('red'), ('green');
  create table notes (id int primary key);
`;

const TABLES = {
  users: { shardBy: 'id' },
  articles: { shardBy: 'author_id' },
  tags: 'reference' as const,
};

const DATABASE: DatabaseTier = { shards: 3, tables: TABLES, unique: ['users.email'] };

function files(database: DatabaseTier, migrations: Record<string, string> = { '1.sql': SCHEMA }) {
  return {
    'package.json': JSON.stringify({ name: 'sharded', type: 'module' }),
    'server.js': `
      import { createServer } from 'node:http';
      createServer((req, res) => res.end('here')).listen(process.env.PORT);
    `,
    ...config(database),
    ...Object.fromEntries(
      Object.entries(migrations).map(([name, sql]) => [`migrations/${name}`, sql]),
    ),
  };
}

const config = (database: DatabaseTier) => ({
  'banyan.config.ts': `export default ${JSON.stringify({ database: { memoryMb: 64, ...database } })};`,
});

async function write(written: Record<string, string>): Promise<void> {
  for (const [name, text] of Object.entries(written)) {
    const file = path.join(site.folder, name);
    await mkdir(path.dirname(file), { recursive: true });
    await writeFile(file, text);
  }
}

const urls = () => shardUrls(existingDeployment(site.paths)!);

/** The first column of each shard's rows. */
async function onEach(sql: string, values: unknown[] = []): Promise<unknown[][]> {
  return Promise.all(
    (await urls()).map(url =>
      withClient(url, async client => {
        const { rows } = await client.query({ text: sql, values, rowMode: 'array' });
        return rows.map(row => row[0]);
      }),
    ),
  );
}

const tablesOn = () =>
  onEach(
    `select relname::text from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace order by 1`,
  );

test('a fresh start makes a database for each shard, migrates all, guards tables and tells the map', async () => {
  site = await siteOf(files(DATABASE));
  await site.up();
  const { units, database } = await site.status();
  expect(units.map(({ name, phase }) => `${name} ${phase}`)).toEqual([
    'postgres-1 ready',
    'postgres-2 ready',
    'postgres-3 ready',
    'web-1 ready',
  ]);
  expect(database.split('; ')).toHaveLength(3);

  const map = readRuntimeMap(site.paths.map).database;
  expect(map.shards.map(({ id }) => id)).toEqual(['1', '2', '3']);
  expect(map).toMatchObject({
    tables: {
      'public.users': { kind: 'sharded', key: 'id' },
      'public.articles': { kind: 'sharded', key: 'author_id' },
      'public.tags': { kind: 'reference' },
    },
    unique: ['public.users.email'],
  });
  expect(await tablesOn()).toEqual(Array(3).fill(['articles', 'notes', 'tags', 'users']));

  // Each key is taken by the shard that the map says, and by no other.
  const ranges = new Ranges(map.shards.map(({ range }) => range));
  const shards = await urls();
  for (let key = 1; key <= 30; key++) {
    const owner = ranges.shardOf(hashToBigInt(hashKey('int8', key)!));
    for (const [shard, url] of shards.entries()) {
      const insert = withClient(url, client =>
        client.query('insert into users values ($1, $2)', [key, `${key}@x`]),
      );
      const refusal =
        shard === owner
          ? // Its place, but nobody claims the address across the shards.
            { code: 'BNY01' }
          : { code: '23514', constraint: 'banyan_shard_guard' };
      await expect(insert).rejects.toMatchObject(refusal);
    }
  }
  const pool = createPool({ connectionString: shards[0]!, mapFile: site.paths.map });
  try {
    for (let key = 1; key <= 30; key++) {
      await pool.query('insert into users values ($1, $2)', [key, `${key}@x`]);
    }
  } finally {
    await pool.end();
  }
  const counts = (await onEach('select count(*)::int from users')).flat() as number[];
  expect(counts.reduce((sum, count) => sum + count)).toBe(30);

  // Ids that the shards made by themselves are unique, and tell the time.
  const made = await onEach('select banyan.next_id()::text from generate_series(1, 5000)');
  expect(new Set(made.flat()).size).toBe(15_000);
  const [first] = made[0] as string[];
  const at = Number(BigInt(first!) >> 22n) + Date.UTC(2025, 0, 1);
  expect(Math.abs(at - Date.now())).toBeLessThan(60_000);

  // The doctor looks at every shard.
  const findings = async () => {
    const { stdout } = await site.banyan(['doctor', '--json']);
    const all = JSON.parse(stdout).findings as { check: string; verdict: string; detail: string }[];
    return all.filter(({ check }) => check === 'sharding');
  };
  expect(await findings()).toMatchObject([{ verdict: 'ok', detail: '3 tables over 3 shards' }]);
  await withClient(shards[1]!, client =>
    client.query('alter table articles drop constraint banyan_shard_guard'),
  );
  expect(await findings()).toMatchObject([
    { verdict: 'failed', detail: expect.stringContaining('articles is not guarded on shard 2') },
  ]);

  await site.down();
  await site.up();
  expect((await findings())[0]!.verdict).toBe('ok');
  expect(readRuntimeMap(site.paths.map).database).toEqual(map);
  expect((await onEach('select count(*)::int from users')).flat()).toEqual(counts);
});

test('a migration that fails on one shard is kept on none, and runs on all when it is mended', async () => {
  site = await siteOf(files(DATABASE));
  await site.up();
  const [, second] = await urls();
  await withClient(second!, client => client.query('create table in_the_way (id int)'));
  await site.down();
  await write({
    'migrations/2.sql': 'create table more (id int); create table in_the_way (id int);',
  });
  const { code, output } = await site.banyan(['up', '--detach', '--port', '0']);
  expect(code).toBe(1);
  expect(output).toContain('2.sql failed on shard 2: relation "in_the_way" already exists');
  expect(output).toContain('Nothing of this file was kept');

  await write({ 'migrations/2.sql': 'create table more (id int);' });
  const again = await site.banyan(['up', '--detach', '--port', '0']);
  expect(again.output).toContain('is not the same on shard 2 as on the first');
  expect(again.code).toBe(1);
});

test('what a crash between two shards left is made up for', async () => {
  site = await siteOf(files(DATABASE));
  await site.up();
  const [first, second, third] = await urls();
  await site.down();
  expect(existsSync(site.paths.postgres)).toBe(true);
  await write({ 'migrations/2.sql': 'create table more (id int primary key);' });
  await site.up();
  // As if the others' commits had not come.
  for (const url of [second, third]) {
    void first;
    await withClient((await urls())[[first, second, third].indexOf(url)]!, client =>
      client.query(`drop table more; delete from banyan.migrations where name = '2.sql'`),
    );
  }
  await site.down();
  await site.up();
  expect(await tablesOn()).toEqual(Array(3).fill(['articles', 'more', 'notes', 'tags', 'users']));
});

test('a declaration that does not fit the schema starts nothing and names every mistake', async () => {
  site = await siteOf(files({ ...DATABASE, unique: [] }));
  const { code, output } = await site.banyan(['up', '--detach', '--port', '0']);
  expect(code).toBe(1);
  expect(output).toContain('public.users: the unique index users_email_key (email)');
  expect(output).toContain("Write `unique: ['public.users.email']`");
  await write(config(DATABASE));
  await site.up();
});

test('the number of shards follows the configuration while there are no tables, and then no more', async () => {
  site = await siteOf(files({ shards: 2 }, {}));
  await site.up();
  expect(readRuntimeMap(site.paths.map).database.shards).toHaveLength(2);
  await site.down();
  await write(config({ shards: 4 }));
  await site.up();
  expect((await site.status()).units.map(({ name }) => name)).toEqual([
    'postgres-1',
    'postgres-2',
    'postgres-3',
    'postgres-4',
    'web-1',
  ]);
  await site.down();
  await write({ ...config(DATABASE), 'migrations/1.sql': SCHEMA });
  await site.up();
  expect(readRuntimeMap(site.paths.map).database.shards).toHaveLength(3);

  await write(config({ ...DATABASE, shards: 4 }));
  for (const command of [['plan'], ['apply', '--yes']]) {
    const { code, output } = await site.banyan(command);
    expect(code).toBe(1);
    expect(output).toContain('The database is in 3 shards, and 4 are asked for');
  }
  await site.down();
  const { code, output } = await site.banyan(['up', '--detach', '--port', '0']);
  expect(code).toBe(0);
  expect(output).toContain('this version does not move rows between shards');
  expect(readRuntimeMap(site.paths.map).database.shards).toHaveLength(3);
});

test('a change of the declaration is planned, applied, and taken back', async () => {
  site = await siteOf(files({ ...DATABASE, tables: { ...TABLES, tags: 'reference' } }));
  await site.up();
  expect((await site.ok('plan')).output).toContain('what runs is what banyan.config.ts says');
  await write(config({ ...DATABASE, unique: [] }));
  expect((await site.ok('plan')).output).toContain(
    'public.users: the unique index users_email_key (email) has not the shard key id in it',
  );
  await write(config({ ...DATABASE, tables: { ...TABLES, notes: { shardBy: 'id' } } }));
  expect((await site.ok('plan')).output).toContain('how tables are spread over the shards');
  await site.ok('apply', '--yes');
  expect(readRuntimeMap(site.paths.map).database.tables).toHaveProperty(['public.notes']);
  const guards = `select count(*)::int from pg_constraint where conname = 'banyan_shard_guard'`;
  expect((await onEach(guards)).flat()).toEqual([3, 3, 3]);
  await site.ok('undo');
  expect(readRuntimeMap(site.paths.map).database.tables).not.toHaveProperty(['public.notes']);
  expect((await onEach(guards)).flat()).toEqual([2, 2, 2]);

  // Rows that are there decide.
  const [first] = await urls();
  await withClient(first!, client =>
    client.query('insert into notes select generate_series(1, 100)'),
  );
  const refused = await site.banyan(['apply', '--yes']);
  expect(refused.code).toBe(1);
  expect(refused.output).toContain('of its rows on shard 1 belong to other shards');
  await write(config({ ...DATABASE, tables: { ...TABLES, notes: 'reference' } }));
  const copies = await site.banyan(['apply', '--yes']);
  expect(copies.output).toContain('its rows on shard 2 are not those of the first');
  expect(readRuntimeMap(site.paths.map).database.tables).not.toHaveProperty(['public.notes']);
});
