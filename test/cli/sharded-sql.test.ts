/** `banyan sql` on a database in two shards: as one database, and as the single shard that is named. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { finish, REPOSITORY, type Site, siteOf, spawnBanyan } from '../support/deployment.ts';
import { until } from '../support/until.ts';

// Two servers are started, and each command is a process of its own.
vi.setConfig({ testTimeout: 300_000, hookTimeout: 300_000 });

const SCHEMA = `
  create table users (id bigint primary key, email text not null unique, age int);
  create table articles (
    id bigint not null default banyan.next_id(), author_id bigint not null references users (id),
    title text, primary key (author_id, id));
  create table tags (name text primary key);
  create table notes (id int primary key, text text);
`;

let site: Site;

beforeAll(async () => {
  site = await siteOf({
    'package.json': JSON.stringify({ name: 'grove', type: 'module' }),
    'server.js': `
      import { createServer } from 'node:http';
      createServer((req, res) => res.end('here')).listen(process.env.PORT);
    `,
    'banyan.config.ts': `export default ${JSON.stringify({
      name: 'grove',
      database: {
        memoryMb: 64,
        shards: 2,
        tables: {
          users: { shardBy: 'id' },
          articles: { shardBy: 'author_id' },
          tags: 'reference',
        },
        unique: ['users.email'],
      },
    })};`,
    'migrations/1.sql': SCHEMA,
  });
  await site.up();
  await script(
    `insert into users select i, 'user' || i || '@example.org', 20 + i % 5 from generate_series(1, 40) i;
     insert into articles (author_id, title) select i, 'Article of ' || i from generate_series(1, 40) i;
     insert into tags values ('red'), ('green');
     insert into notes values (1, 'on the first')`,
  );
});
afterAll(() => site?.remove());

const sql = (...args: string[]) => site.banyan(['sql', ...args]);

async function script(input: string, ...args: string[]) {
  const result = await site.banyan(['sql', ...args], { input });
  if (result.code !== 0) throw new Error(result.output);
  return result;
}

async function rows(statement: string, ...args: string[]): Promise<Record<string, unknown>[]> {
  const { code, stdout, output } = await sql('--json', ...args, statement);
  if (code !== 0) throw new Error(output);
  return JSON.parse(stdout);
}

/** The lines of an EXPLAIN. */
async function explained(statement: string): Promise<string> {
  return (await rows(statement)).map(row => row['QUERY PLAN']).join('\n');
}

const count = 'select count(*)::int as count from users';
const onShard = async (shard: string, statement = count) =>
  Number((await rows(statement, '--shard', shard))[0]!.count);

test('what is asked is answered by the whole; --shard speaks to one', async () => {
  expect(await rows(count)).toEqual([{ count: 40 }]);
  const each = [await onShard('1'), await onShard('2')];
  expect(Math.min(...each)).toBeGreaterThan(0);
  expect(each[0]! + each[1]!).toBe(40);
  const { stdout } = await sql('select id, email from users order by id desc limit 2');
  expect(stdout).toBe(
    [
      ' id │       email',
      '────┼────────────────────',
      ' 40 │ user40@example.org',
      ' 39 │ user39@example.org',
      '(2 rows)\n',
    ].join('\n'),
  );
  // The guard of the shard itself, which psql would meet as well.
  const ids = await rows('select id from users', '--shard', '1');
  const wrong = await sql('--shard', '2', `insert into users values (${ids[0]!.id}, 'x', 1)`);
  expect(wrong.stderr).toContain('banyan_shard_guard');
});

test('an unknown shard, and a superuser of no shard, are told what there is', async () => {
  const unknown = await sql('--shard', '7', 'select 1');
  expect(unknown).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('There is no shard 7'),
  });
  expect(unknown.stderr).toContain('The shards are 1, 2');
  const superuser = await sql('--superuser', 'select 1');
  expect(superuser.stderr).toContain('banyan sql --superuser --shard 1');
  const name = 'select current_user as name';
  expect(await rows(name, '--superuser', '--shard', '2')).not.toEqual(await rows(name));
});

test('a script is one session: settings, a transaction over shards, its end', async () => {
  const { stdout } = await script(
    `set application_name = 'a report';
     begin;
     update users set age = 99 where id in (1, 2, 3, 4, 5, 6);
     savepoint here;
     delete from articles;
     rollback to here;
     select count(*) as old from users where age = 99;
     rollback;
     select count(*) as old from users where age = 99;
     show application_name;`,
  );
  expect(stdout).toContain('UPDATE 6');
  expect(stdout).toContain('DELETE 40');
  expect(stdout.match(/old\n─+\n +(\d+)\n/g)).toHaveLength(2);
  expect([...stdout.matchAll(/old\n─+\n +(\d+)\n/g)].map(([, n]) => n)).toEqual(['6', '0']);
  expect(stdout).toContain('a report');
  await script(`begin; update users set age = 77 where id <= 10; commit;`);
  expect(await rows('select id::int from users where age = 77 order by id')).toHaveLength(10);
  // What was begun and not committed is rolled back.
  await script('begin; delete from articles where true;');
  expect(await rows('select count(*)::int as count from articles')).toEqual([{ count: 40 }]);
});

test('EXPLAIN: the route and its reason, what each shard gets, its plan, the merge', async () => {
  const all = await explained('explain select age, count(*) from users group by age order by age');
  expect(all).toMatch(/^route: shards 1 and 2, all of them\n {2}users is sharded by id\n/);
  expect(all).toContain('no condition gives the shard key: every shard is asked');
  expect(all).toMatch(/send to shards 1 and 2, all of them: SELECT .* GROUP BY/);
  expect(all).toMatch(
    /\n {2}shard 1:\n {4}Limit .*HashAggregate.*\n {2}shard 2:\n {4}Limit .*HashAggregate/s,
  );
  expect(all).toMatch(/\nmerge: /);
  expect(all).not.toContain('actual');

  const one = await explained(
    'explain select * from users u join articles a on a.author_id = u.id where u.id = 7',
  );
  expect(one).toMatch(/^route: shard [12]\n/);
  expect(one).toMatch(/shard key 7 → shard [12]\n/);
  expect(one).toMatch(/\(cost=/);
  expect(one).not.toContain('send to');

  expect(await explained('explain select * from notes')).toMatch(
    /^route: shard 1\n {2}notes is whole on the first shard\n/,
  );
  expect(await explained('explain select * from tags')).toContain('tags is a reference table');
  expect(await explained(`explain select * from users where email = 'user3@example.org'`)).toMatch(
    /^route: shard [12]\n {2}users.email is unique across shards/,
  );
});

test('EXPLAIN of writes changes nothing; EXPLAIN ANALYZE runs them, once and on all', async () => {
  const insert = `insert into users values (101, 'a@x', 1), (102, 'b@x', 1), (103, 'c@x', 1), (104, 'd@x', 1), (105, 'e@x', 1)`;
  const plan = await explained(`explain ${insert}`);
  expect(plan).toMatch(/^route: shards 1 and 2/);
  expect(plan).toMatch(/shard key [\d, ]+ → shard 1/);
  expect(plan).toMatch(/send to shard 1: INSERT.*\n {2}shard 1:\n {4}Insert on users/);
  expect(await rows(count)).toEqual([{ count: 40 }]);

  const run = await explained(`explain (analyze, costs off) ${insert}`);
  expect(run).toMatch(
    /shard 1:\n {4}Insert on users \(actual.*shard 2:\n {4}Insert on users \(actual/s,
  );
  expect(await rows(count)).toEqual([{ count: 45 }]);
  // The claims on unique values were made with it.
  const again = await sql(`insert into users values (106, 'c@x', 1)`);
  expect(again.stderr).toContain('Key (email)=(c@x) already exists.');

  const update = await explained('explain analyze update users set age = age + 1 where age = 1');
  expect(update.match(/Update on users .*actual/g)).toHaveLength(2);
  expect(await rows('select count(*)::int as count from users where age = 2')).toEqual([
    { count: 5 },
  ]);

  const { stdout } = await script(
    `begin; explain analyze delete from users where id > 100; rollback;`,
  );
  expect(stdout).toMatch(/Delete on users .*actual/);
  expect(await rows(count)).toEqual([{ count: 45 }]);
  await script('delete from users where id > 100');
});

test('EXPLAIN ANALYZE of a query shows what was sent, and the shard that put it together', async () => {
  const run = await explained(
    'explain analyze select age, avg(age) as a, count(distinct title) from users join articles on author_id = users.id group by age having count(*) > 1 order by 2 desc',
  );
  expect(run.match(/shard [12]:\n {4}.*actual/g)!.length).toBeGreaterThanOrEqual(2);
  expect(run).toMatch(/send to shards 1 and 2, all of them: SELECT/);
  expect(run).toMatch(/Execution Time/);
});

test('EXPLAIN of what is refused says why and what to do; other formats are those of one shard', async () => {
  const refused = await sql('explain select * from users u join articles a on a.title = u.email');
  expect(refused.code).toBe(1);
  expect(refused.stderr).toMatch(
    /✖ u and a are not joined on their shard keys.*\n {2}where {2}the sharded database\n {2}to do {2}/,
  );
  const json = await sql('explain (format json) select * from users');
  expect(json.stderr).toContain('no other format than TEXT');
  const [row] = await rows('explain (format json) select * from users where id = 1');
  expect(row!['QUERY PLAN']).toMatchObject([{ Plan: expect.anything() }]);
});

test("an error has PostgreSQL's words, and points at what was typed", async () => {
  const scattered = await sql('select id,\n  nme from users order by 1');
  expect(scattered.code).toBe(1);
  expect(scattered.stderr).toMatch(
    /column "nme" does not exist \(42703\)\n {2}line 2: {3}nme from users.*\n {12}\^/,
  );
  const explain = await sql('explain select nme from users');
  expect(explain.stderr).toMatch(/line 1: explain select nme from users\n {25}\^/);
  const syntax = await sql('selec 1');
  expect(syntax.stderr).toMatch(/syntax error.*line 1: selec 1\n {10}\^/s);
  // Found while it runs, which no shard can point at in the text that was typed.
  const running = await sql('select 1 / (age - age) from users');
  expect(running.stderr).toMatch(/division by zero \(22012\)\n {2}where {2}shard [12]\n/);
});

/** At a terminal, which `script` gives; the last line has to leave. */
async function type(lines: string[], options = '') {
  const command = `${process.execPath} bin/banyan.js sql --dir ${site.folder} ${options}`;
  const child = spawn('script', ['-qec', command, '/dev/null'], {
    cwd: REPOSITORY,
    env: { ...process.env, NO_COLOR: '1' },
  });
  let output = '';
  child.stdout.on('data', chunk => {
    output += chunk;
  });
  child.stdin.write(`${lines.join('\n')}\n`);
  const [code] = await once(child, 'close');
  return { output, code };
}

test('the prompt: describe, a transaction that fails, what is one statement over lines', async () => {
  const typed = [
    '\\dt',
    '\\d articles',
    'begin;',
    'select count(*) as everyone',
    'from users;',
    'select nonsense from users;',
    'select 1;',
    'rollback;',
    '\\q',
  ];
  const { output, code } = await type(typed);
  expect(code).toBe(0);
  expect(output).toContain('Connected to grove, 2 shards.');
  expect(output).toContain('articles_pkey');
  expect(output).toContain('grove=*> ');
  expect(output).toMatch(/everyone\r?\n─+\r?\n +40\r?\n/);
  expect(output).toContain('grove=!> ');
  expect(output).toContain('current transaction is aborted');
  const one = await type(['\\q'], '--shard 2');
  expect(one.output).toContain('Connected to shard 2 of grove.');
  expect(one.output).toContain('grove@2=> ');
});

test('Ctrl-C cancels on all shards', async () => {
  const child = spawnBanyan(['sql', '--dir', site.folder, 'select id, pg_sleep(100) from users']);
  const ended = finish(child);
  const sleeping = () =>
    rows(
      `select count(*)::int as count from pg_stat_activity where query ilike 'select%pg_sleep(100)%' and state = 'active' and pid <> pg_backend_pid()`,
      '--shard',
      '2',
    ).then(([row]) => row!.count);
  await until(async () => ((await sleeping()) === 1 ? true : undefined), {
    what: 'it runs on shard 2',
  });
  child.kill('SIGINT');
  expect(await ended).toMatchObject({ code: 1, stderr: expect.stringContaining('(57014)') });
  expect(await sleeping()).toBe(0);
});
