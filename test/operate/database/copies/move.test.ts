/** Copied columns, and a database that moves to replicated servers and back under the one who keeps them. */
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { shardUrls } from '../../../../src/operate/database/primary.ts';
import { withClient } from '../../../../src/operate/database/provision.ts';
import { existingDeployment } from '../../../../src/operate/deployment.ts';
import { type Site, siteOf } from '../../../support/deployment.ts';
import { slotsNamed } from '../../../support/replicated.ts';
import { until } from '../../../support/until.ts';

vi.setConfig({ testTimeout: 300_000, hookTimeout: 300_000 });

const config = (replicas: string) => `export default { database: { memoryMb: 64, ${replicas}
  denormalize: { 'comments.author_name': 'users.name via author_id' } } };`;

let site: Site;
beforeAll(async () => {
  site = await siteOf({
    'package.json': JSON.stringify({ name: 'moved-copies', type: 'module' }),
    'server.js': `
      import { createServer } from 'node:http';
      createServer((req, res) => res.end('here')).listen(process.env.PORT);
    `,
    'banyan.config.ts': config(''),
    'migrations/1.sql': `
      create table users (id bigint primary key, name text);
      create table comments (id bigint primary key, author_id bigint, author_name text);
      create index on comments (author_id);
      insert into users select n, 'user ' || n from generate_series(1, 20) n;
      insert into comments (id, author_id) select n, 1 + n % 20 from generate_series(1, 100) n;`,
  });
  await site.up();
});
afterAll(() => site?.remove());

async function query<R>(text: string, values: unknown[] = []): Promise<R[]> {
  const [url] = await shardUrls(existingDeployment(site.paths)!);
  return withClient(url!, async client => (await client.query(text, values)).rows as R[]);
}

/** What is written from now on comes to the copies, and nothing that was written before is missing. */
async function areKept(name: string): Promise<void> {
  await query('update users set name = $1 || id where id <= 10', [name]);
  await until(
    async () => {
      const wrong = await query(
        'select 1 from comments c join users u on u.id = c.author_id where c.author_name is distinct from u.name',
      );
      return wrong.length === 0;
    },
    { what: 'each copy equals its source', timeoutMs: 60_000 },
  );
}

/** Renames while `during` runs; what fails was not written. */
async function renaming(during: () => Promise<unknown>): Promise<void> {
  let isOver = false;
  const writing = (async () => {
    for (let n = 0; !isOver; n++) {
      const id = 1 + (n % 20);
      await query('update users set name = $1 where id = $2', [`during ${n}`, id]).catch(() => {});
      await query('insert into comments (id, author_id) values ($1, $2)', [
        1_000 + Date.now() * 100 + (n % 100),
        id,
      ]).catch(() => {});
    }
  })();
  try {
    await during();
  } finally {
    isOver = true;
    await writing;
  }
}

/** On each of the database servers that the map names. */
const slots = () => slotsNamed(site, 'banyan_copies');

test('to replicated servers while sources and targets change, and back', async () => {
  await areKept('before ');
  await writeFile(path.join(site.folder, 'banyan.config.ts'), config('replicas: 1,'));
  await renaming(() => site.ok('apply', '--yes'));
  await areKept('moved ');
  // A new primary goes on from where the old one was.
  await until(async () => (await slots()).join() === '1,1', {
    what: 'the slot is on both servers',
    timeoutMs: 120_000,
  });
  await renaming(() => site.ok('undo'));
  await areKept('back ');
  expect((await site.status()).copies?.filled).toEqual(['public.comments.author_name']);
});
