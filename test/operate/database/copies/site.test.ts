/** Copied columns in a deployment of replicated shards: declared, kept through kills, taken away. */
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { Ranges } from '../../../../src/app/database/shards/ranges.ts';
import { readRuntimeMap } from '../../../../src/map/map-file.ts';
import { shardUrls } from '../../../../src/operate/database/primary.ts';
import { withClient } from '../../../../src/operate/database/provision.ts';
import { existingDeployment } from '../../../../src/operate/deployment.ts';
import { type Site, siteOf } from '../../../support/deployment.ts';
import { killPostgres, serversOf, slotsNamed } from '../../../support/replicated.ts';
import { until } from '../../../support/until.ts';

vi.setConfig({ testTimeout: 300_000, hookTimeout: 300_000 });

const COPY = `denormalize: { 'comments.author_name': 'users.name via author_id' }`;
const config = (copy: string) => `export default { database: {
  shards: 2, replicas: 1, memoryMb: 64,
  tables: { users: { shardBy: 'id' }, comments: { shardBy: 'article_id' } }, ${copy} } };`;

let site: Site;
beforeAll(async () => {
  site = await siteOf({
    'package.json': JSON.stringify({ name: 'copies', type: 'module' }),
    'server.js': `
      import { createServer } from 'node:http';
      createServer((req, res) => res.end('here')).listen(process.env.PORT);
    `,
    'banyan.config.ts': config(COPY),
    'migrations/1.sql': `
      create table users (id bigint primary key, name text);
      create table comments (id bigint, article_id bigint, author_id bigint, author_name text,
        primary key (article_id, id));
      create index on comments (author_id);`,
  });
  await site.up();
});
afterAll(() => site?.remove());

const database = () => readRuntimeMap(site.paths.map).database;

/** What fails is not written; a commit whose answer was lost may have been. */
async function write(key: number, text: string, values: unknown[]): Promise<void> {
  const owner = new Ranges(database().shards.map(({ range }) => range));
  const urls = await shardUrls(existingDeployment(site.paths)!);
  await withClient(urls[owner.shardOfKey('int8', key)!]!, client => client.query(text, values));
}

const rename = (id: number, name: string) =>
  write(
    id,
    'insert into users values ($1, $2) on conflict (id) do update set name = excluded.name',
    [id, name],
  );
let last = 0;
const comment = (article: number, author: number) =>
  write(article, 'insert into comments values ($1, $2, $3)', [++last, article, author]);

async function all<R>(text: string): Promise<R[]> {
  const urls = await shardUrls(existingDeployment(site.paths)!);
  const answers = await Promise.all(
    urls.map(url => withClient(url, async client => (await client.query(text)).rows as R[])),
  );
  return answers.flat();
}

async function wrong(): Promise<unknown[]> {
  const users = await all<{ id: string; name: string }>('select * from users');
  const names = new Map(users.map(({ id, name }) => [id, name]));
  const comments = await all<{ author_id: string; author_name: string | null }>(
    'select * from comments',
  );
  return comments.filter(
    ({ author_id, author_name }) => author_name !== (names.get(author_id) ?? null),
  );
}

const untilRight = () =>
  until(async () => (await wrong()).length === 0, {
    what: 'each copy equals its source',
    timeoutMs: 120_000,
  });

/** Slots of the copies on each of the four servers. */
const slots = () => slotsNamed(site, 'banyan_copies');

const untilSlotsEverywhere = () =>
  until(async () => (await slots()).every(count => count === 1), {
    what: 'the slots are on all servers',
    timeoutMs: 120_000,
  });

const untilWell = () =>
  until(
    async () =>
      (await serversOf(site)).filter(({ role }) => role === 'synchronous replica').length === 2,
    { what: 'both shards are well', timeoutMs: 120_000 },
  );

test('copies are kept from the first start on, and status says how far they are', async () => {
  for (let id = 1; id <= 8; id++) await rename(id, `user ${id}`);
  for (let i = 0; i < 20; i++) await comment(1 + (i % 8), 1 + ((i * 3) % 8));
  await rename(3, 'Ada');
  await untilRight();
  const { copies, units } = await until(
    async () => {
      const status = await site.status();
      return status.copies?.filled.length === 1 && status;
    },
    { what: 'the copy is filled' },
  );
  expect(units.find(({ name }) => name === 'copies-1')?.phase).toBe('ready');
  expect(copies).toMatchObject({ filled: ['public.comments.author_name'], filling: [] });
  expect(copies!.shards.map(({ shard, state }) => [shard, state])).toEqual([
    ['1', 'reading'],
    ['2', 'reading'],
  ]);
  expect((await site.ok('status')).output).toContain('copies: 1 kept');
  expect((await site.ok('plan')).output).toContain('what runs is what banyan.config.ts says');
});

test('the unit is killed under writes, and copies are right after quiet', async () => {
  const pid = await site.pidOf('copies-1');
  for (let i = 0; i < 40; i++) {
    await rename(1 + (i % 8), `name ${i}`);
    await comment(1 + ((i * 5) % 8), 1 + (i % 8));
    if (i === 15) process.kill(pid, 'SIGKILL');
  }
  await untilRight();
  expect(await site.pidOf('copies-1')).not.toBe(pid);
});

test("a shard's primary is killed under writes: its successor has the slot, nothing is missed", async () => {
  await untilSlotsEverywhere();
  await untilWell();
  const primaries = (await serversOf(site)).filter(({ role }) => role === 'primary');
  const { name } = primaries.find(each => each.name.startsWith('shard-2'))!;
  for (let i = 0; i < 30; i++) {
    await rename(1 + (i % 8), `later ${i}`).catch(() => {});
    await comment(1 + ((i * 5) % 8), 1 + (i % 8)).catch(() => {});
    if (i === 10) killPostgres(site, name);
  }
  await untilRight();
  const now = (await serversOf(site)).filter(({ role }) => role === 'primary');
  expect(now.map(each => each.name)).not.toContain(name);
  const { output } = await site.ok('logs', 'copies-1');
  expect(output).not.toMatch(/vanished|diverged|invalidated|unreadable/);
});

test('the declaration is taken away: no unit, no slot on any server; and comes back, filled anew', async () => {
  await untilWell();
  await writeFile(path.join(site.folder, 'banyan.config.ts'), config(''));
  await site.ok('apply', '--yes');
  expect(await slots()).toEqual([0, 0, 0, 0]);
  expect((await site.status()).units.map(({ name }) => name)).not.toContain('copies-1');
  expect(existsSync(site.paths.copies)).toBe(false);
  await rename(2, 'nobody follows');
  await comment(4, 2);
  expect(await wrong()).not.toEqual([]);
  await writeFile(path.join(site.folder, 'banyan.config.ts'), config(COPY));
  await site.ok('apply', '--yes');
  // It comes back when the rows that were there are right.
  expect(await wrong()).toEqual([]);
  await rename(2, 'followed again');
  await untilRight();
});

test('a copy that cannot be kept is refused, and nothing is changed', async () => {
  // The replicas take the slot over by a restart.
  await untilSlotsEverywhere();
  await untilWell();
  await writeFile(
    path.join(site.folder, 'banyan.config.ts'),
    config(`denormalize: { 'comments.author_name': 'users.id via author_id' }`),
  );
  const { code, output } = await site.banyan(['apply', '--yes']);
  expect(code).not.toBe(0);
  expect(output).toMatch(/author_name: it is of the type text, and public.users.id of bigint/);
  expect(database().denormalize).toEqual({
    'public.comments.author_name': { from: 'public.users.name', via: 'author_id' },
  });
});
