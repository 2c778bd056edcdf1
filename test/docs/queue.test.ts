/** The code of docs/9-queue.md is of the types that the package has, and does what the page says. */
import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { REPOSITORY, runProgram, type Site, siteOf } from '../support/deployment.ts';
import { TestPostgres } from '../support/postgres.ts';

const PAGE = readFileSync(path.join(REPOSITORY, 'docs/9-queue.md'), 'utf8');
const SNIPPETS = [...PAGE.matchAll(/^```ts\n(.*?)^```$/gms)].map(([, code]) => code!);

/** The one that says so. */
function snippet(words: string): string {
  const found = SNIPPETS.filter(code => code.includes(words));
  expect(found, words).toHaveLength(1);
  return found[0]!;
}

let postgres: TestPostgres;
let site: Site;
beforeAll(async () => {
  postgres = await TestPostgres.start();
  site = await siteOf({ 'package.json': JSON.stringify({ name: 'read', type: 'module' }) });
});
afterAll(async () => {
  await site?.remove();
  await postgres?.remove();
});

test('every snippet is of the right types, and those that run do what they say', async () => {
  // In the order of the page; what readers have of their own is made up around it.
  const program = `
${snippet('export const queue = createQueue')}
const mails: string[] = [];
const sendWelcomeMail = async (userId: string) => { mails.push(userId); };
const articleId = 'a1';
const authorId = 'u1';
await pool.query(\`
  create table articles (id text, author_id text);
  create table follows (author_id text, follower_id text);
  create table feed_entries (reader_id text, article_id text);
  insert into follows values ('u1', 'u2'), ('u1', 'u3')\`);
${snippet('queue.work(welcomeMail')}
${snippet('queue.schedule(')}
await queue.ready();
${snippet('insert into articles')}
await queue.publish(welcomeMail, { userId: 'u4' });
for (let entries = 0; entries < 2 || mails.length < 1; ) {
  await new Promise(resolve => setTimeout(resolve, 20));
  entries = (await pool.query('select from feed_entries')).rowCount ?? 0;
}
const { rows } = await pool.query('select name, cron from banyan_queue.schedule');
console.log(JSON.stringify({ mails, rows }));
await queue.close();
await pool.end();
`;
  const configs = [
    snippet('export default defineTopology'),
    ...[snippet('depth: 100, ageMs'), snippet("engine: 'rabbitmq', servers: 3")].map(
      part =>
        `import { defineTopology } from 'banyan';\nexport default defineTopology({ ${part} });`,
    ),
  ];
  // Of the reference application, whose own tests run it.
  const excerpt = `
import { defineJob, type JobContext, type Queue } from 'banyan';
interface Services { db: unknown; queue: Queue }
interface Spread { authorId: string; articleId: string; after: string | undefined }
declare function enterFeeds(db: unknown, page: Spread): Promise<string | undefined>;
const spreadArticle = defineJob({ name: 'spread-article' });
${snippet('export async function spread')}
`;
  const files = { 'program.ts': program, 'excerpt.ts': excerpt } as Record<string, string>;
  for (const [index, text] of configs.entries()) files[`config-${index}.ts`] = text;
  files['tsconfig.json'] = JSON.stringify({
    extends: path.join(REPOSITORY, 'tsconfig.json'),
    compilerOptions: {
      typeRoots: [path.join(REPOSITORY, 'node_modules/@types')],
    },
    include: ['*.ts'],
  });
  for (const [name, text] of Object.entries(files)) {
    await writeFile(path.join(site.folder, name), text);
  }
  const tsc = path.join(REPOSITORY, 'node_modules/.bin/tsc');
  const checked = await runProgram(tsc, ['--noEmit'], { cwd: site.folder });
  expect(checked.output).toBe('');
  expect(checked.code).toBe(0);
  // None is left out.
  expect(SNIPPETS).toHaveLength(configs.length + 5);

  const env = { DATABASE_URL: await postgres.database(), LOG_LEVEL: 'silent' };
  const run = await runProgram(process.execPath, ['program.ts'], { cwd: site.folder, env });
  expect(run.stderr).toBe('');
  expect(JSON.parse(run.stdout)).toEqual({
    mails: ['u4'],
    rows: [{ name: 'tag-counts', cron: '0 3 * * *' }],
  });
});
