/** Shards that are replicated: a Patroni cluster each, which agree through one etcd. */
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { readRuntimeMap } from '../../../../src/map/map-file.ts';
import { shardUrls } from '../../../../src/operate/database/primary.ts';
import { withClient } from '../../../../src/operate/database/provision.ts';
import { existingDeployment } from '../../../../src/operate/deployment.ts';
import { type Site, siteOf } from '../../../support/deployment.ts';
import { serversOf } from '../../../support/replicated.ts';
import { until } from '../../../support/until.ts';

vi.setConfig({ testTimeout: 300_000, hookTimeout: 300_000 });

let site: Site;
beforeAll(async () => {
  site = await siteOf({
    'package.json': JSON.stringify({ name: 'sharded', type: 'module' }),
    'server.js': `
      import { createServer } from 'node:http';
      createServer((req, res) => res.end('here')).listen(process.env.PORT);
    `,
    'banyan.config.ts': `export default { database: {
      shards: 2, replicas: 1, memoryMb: 64, tables: { users: { shardBy: 'id' } } } };`,
    'migrations/1.sql': 'create table users (id bigint primary key);',
  });
  await site.up();
});
afterAll(() => site?.remove());

const urls = () => shardUrls(existingDeployment(site.paths)!);

async function untilWell(): Promise<void> {
  await until(
    async () => {
      const servers = await serversOf(site);
      return (
        servers.filter(({ role }) => role === 'primary').length === 2 &&
        servers.filter(({ role }) => role === 'synchronous replica').length === 2
      );
    },
    { what: 'both shards are well', timeoutMs: 120_000 },
  );
}

test('each shard has a primary and a replica, and both are in the map', async () => {
  await untilWell();
  expect((await serversOf(site)).map(({ name }) => name).sort()).toEqual([
    'database-1',
    'database-2',
    'shard-2-1',
    'shard-2-2',
  ]);
  const { shards } = readRuntimeMap(site.paths.map).database;
  expect(shards.map(({ members }) => members.length)).toEqual([2, 2]);
  expect(shards[1]!.range!.to).toBe(String(2n ** 63n - 1n));
  expect((await site.ok('plan')).output).toContain('what runs is what banyan.config.ts says');
});

test('the primary of one shard changes, and that of the other stays', async () => {
  await untilWell();
  await site.ok('switchover', '--to', 'shard-2-2');
  await untilWell();
  const primaries = (await serversOf(site)).filter(({ role }) => role === 'primary');
  expect(primaries.map(({ name }) => name).sort()).toEqual(['database-1', 'shard-2-2']);
});

test('all comes back after a stop, with its rows and its guards', async () => {
  await untilWell();
  const before = await urls();
  for (const url of before) {
    await withClient(url, async client => {
      for (let id = 1; id <= 20; id++) {
        await client.query('insert into users values ($1)', [id]).catch(error => {
          expect(error.constraint).toBe('banyan_shard_guard');
        });
      }
    });
  }
  await site.down();
  await site.up();
  await untilWell();
  const counts = await Promise.all(
    (await urls()).map(url =>
      withClient(url, async client => {
        const { rows } = await client.query('select count(*)::int as count from users');
        return rows[0].count as number;
      }),
    ),
  );
  expect(counts[0]! + counts[1]!).toBe(20);
  expect(Math.min(...counts)).toBeGreaterThan(0);
});

test('a replica more for each shard is planned and applied', async () => {
  await untilWell();
  const { writeFile } = await import('node:fs/promises');
  await writeFile(
    `${site.folder}/banyan.config.ts`,
    `export default { database: {
      shards: 2, replicas: 2, strict: false, memoryMb: 64, tables: { users: { shardBy: 'id' } } } };`,
  );
  const { output } = await site.ok('plan');
  expect(output).toContain('start database-3');
  expect(output).toContain('start shard-2-3');
  await site.ok('apply', '--yes');
  const { shards } = readRuntimeMap(site.paths.map).database;
  expect(shards.map(({ members }) => members.length)).toEqual([3, 3]);
});
