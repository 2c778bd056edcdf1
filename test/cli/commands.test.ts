/** The commands as a user types them, on one deployment. */
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  banyan,
  finish,
  REPOSITORY,
  type Site,
  shellEnv,
  siteOf,
  spawnBanyan,
} from '../support/deployment.ts';
import { LEDGER_APP } from '../support/ledger.ts';
import { until } from '../support/until.ts';

let site: Site;
beforeAll(async () => {
  site = await siteOf(LEDGER_APP);
});
afterAll(() => site.remove());

describe('before up', () => {
  test('status: not up, exit code 3, what to type', async () => {
    const { code, stdout } = await site.banyan(['status']);
    expect(code).toBe(3);
    expect(stdout).toContain('banyan up');
    const json = await site.banyan(['status', '--json']);
    expect(JSON.parse(json.stdout)).toEqual({ running: false, folder: site.folder });
  });

  test('down: nothing to stop is no error', async () => {
    expect(await site.banyan(['down'])).toMatchObject({ code: 0 });
  });

  test.each([
    ['sql', 'select 1'],
    ['run', 'env'],
  ])('%s: not up, and how to start it', async (...words) => {
    const { code, stderr } = await banyan([words[0]!, '--dir', site.folder, ...words.slice(1)]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/not up.*banyan up/s);
  });

  test('a folder that is not there', async () => {
    const { code, stderr } = await banyan(['up', '--dir', '/no/such/folder']);
    expect(code).toBe(1);
    expect(stderr).toContain('no such folder');
  });
});

test('help: every command has examples', async () => {
  const { stdout } = await banyan(['--help']);
  const commands = ['init', 'up', 'down', 'status', 'logs', 'sql', 'run', 'doctor'];
  for (const command of commands) {
    expect(stdout).toMatch(new RegExp(`^ {2}${command} `, 'm'));
    const help = await banyan([command, '--help']);
    expect(help.code).toBe(0);
    expect(help.stdout).toMatch(/Examples:\n {2}\$ banyan/);
    expect(help.stdout).toContain('--json');
  }
});

test('a command that does not exist: the nearest is offered', async () => {
  const { code, stderr } = await banyan(['stauts']);
  expect(code).toBe(1);
  expect(stderr).toContain('Did you mean status?');
});

describe('when it is up', () => {
  beforeAll(() => site.up());

  test('status: units, addresses, exit code 0', async () => {
    const { code, stdout } = await site.banyan(['status']);
    expect(code).toBe(0);
    expect(stdout).toContain(site.address);
    expect(stdout).toMatch(/postgres-1\s+ready.*\n.*web-1\s+ready/);
  });

  test('logs: of all units, of one, as JSON; an unknown unit names those that are', async () => {
    const all = await site.banyan(['logs']);
    expect(all.stdout).toMatch(/postgres-1.*ready to accept connections/);
    const json = await site.banyan(['logs', 'postgres-1', '--json', '-n', '3']);
    const lines = json.stdout
      .trim()
      .split('\n')
      .map(line => JSON.parse(line));
    expect(lines).toHaveLength(3);
    expect(new Set(lines.map(({ unit }) => unit))).toEqual(new Set(['postgres-1']));
    const unknown = await site.banyan(['logs', 'web-9']);
    expect(unknown).toMatchObject({ code: 1, stderr: expect.stringContaining('postgres-1') });
  });

  test('logs -f: what is written from now on, without a gap', async () => {
    const child = spawnBanyan(['logs', 'postgres-1', '-f', '--dir', site.folder]);
    let seen = '';
    child.stdout?.on('data', chunk => {
      seen += chunk;
    });
    await until(() => (seen.includes('ready to accept') ? true : undefined), {
      what: 'the past is shown',
    });
    await site.pool().query(`do $$ begin raise warning 'a mark %', 17; end $$`);
    await until(() => (seen.includes('a mark 17') ? true : undefined), {
      what: 'the present is shown',
    });
    child.kill('SIGINT');
    expect((await finish(child)).code).toBe(0);
  });

  test('sql: a statement, a script, rows as JSON, an error with its place', async () => {
    const one = await site.banyan(['sql', `select 1 as one, null as nothing, 'x' as text`]);
    expect(one.stdout).toBe(
      ' one │ nothing │ text\n─────┼─────────┼──────\n   1 │ NULL    │ x\n(1 row)\n',
    );
    const script = await site.banyan(['sql'], {
      input: `create temp table t (v text);\ninsert into t values ('a;b');\nselect * from t;`,
    });
    expect(script.stdout).toContain('a;b');
    const json = await site.banyan(['sql', '--json', 'select 1 as one']);
    expect(JSON.parse(json.stdout)).toEqual([{ one: 1 }]);
    const wrong = await site.banyan(['sql', 'select 1\nfrom nowhere']);
    expect(wrong.code).toBe(1);
    expect(wrong.stderr).toMatch(/relation "nowhere" does not exist.*line 2: from nowhere\n +\^/s);
    const failing = await site.banyan(['sql'], { input: 'select 1; select 1/0; select 2;' });
    expect(failing).toMatchObject({ code: 1, stdout: expect.not.stringContaining('2\n') });
  });

  test('sql --superuser may what the owner may not', async () => {
    const statement = 'select pg_reload_conf()';
    expect(await site.banyan(['sql', statement])).toMatchObject({ code: 1 });
    expect(await site.banyan(['sql', '--superuser', statement])).toMatchObject({ code: 0 });
  });

  test('the prompt: several lines, describe, transaction state, an error, history', async () => {
    // `script` gives it a terminal. As a person does, each line waits for the prompt that asks for it.
    const typed: [prompt: string, line: string][] = [
      ['ledger=> ', '\\dt'],
      ['ledger=> ', 'begin;'],
      ['ledger=*> ', 'select'],
      ['ledger-*> ', '42 as answer;'],
      ['ledger=*> ', 'selec;'],
      ['ledger=!> ', 'rollback;'],
      ['ledger=> ', '\\d entries'],
      ['ledger=> ', '\\nonsense'],
      ['ledger=> ', '\\q'],
    ];
    const command = `${process.execPath} bin/banyan.js sql --dir ${site.folder}`;
    const child = spawn('script', ['-qec', command, '/dev/null'], {
      cwd: REPOSITORY,
      env: shellEnv(),
      stdio: 'pipe',
    });
    const ended = finish(child, null);
    let shown = '';
    child.stdout.on('data', (chunk: Buffer) => {
      shown += chunk;
    });
    for (const [prompt, line] of typed) {
      await until(() => shown.includes(prompt) || undefined, {
        what: `${prompt} asks for ${line}`,
      });
      shown = '';
      child.stdin.write(`${line}\n`);
    }
    const { output, code } = await ended;
    expect(code).toBe(0);
    expect(output).toMatch(/answer.{1,20}42/s);
    expect(output).toContain('CREATE UNIQUE INDEX entries_session_value_idx');
    expect(output).toContain('\\nonsense is not known here');
    const history = readFileSync(path.join(site.paths.root, 'sql-history'), 'utf8');
    expect(history).toContain('42 as answer;');
  });

  test('run: a command gets the environment of the application, and its exit code is ours', async () => {
    const args = ['run', '--dir', site.folder, 'node', '-e'];
    const shown = await banyan([
      ...args,
      'console.log(process.env.DATABASE_URL, process.argv.length)',
    ]);
    expect(shown.stdout).toContain(site.databaseUrl);
    expect(await banyan([...args, 'process.exit(5)'])).toMatchObject({ code: 5 });
    const missing = await banyan(['run', '--dir', site.folder, 'no-such-program']);
    expect(missing).toMatchObject({ code: 1, stderr: expect.stringContaining('no-such-program') });
  });

  test('doctor: all is well', async () => {
    const { code, stdout } = await site.banyan(['doctor', '--json']);
    const { healthy, findings } = JSON.parse(stdout);
    expect({ code, healthy }).toEqual({ code: 0, healthy: true });
    expect(findings.map(({ check }: { check: string }) => check)).toContain('PostgreSQL');
  });
});

describe('doctor finds', () => {
  test('a config that is wrong, packages that are missing, a fixed port, open secrets', async () => {
    await using ill = await siteOf({
      'package.json': JSON.stringify({
        name: 'ill',
        dependencies: { 'not-installed-at-all': '1' },
      }),
      'server.js': `require('http').createServer().listen(3456)`,
    });
    const before = JSON.parse((await ill.banyan(['doctor', '--json'])).stdout).findings;
    expect(before).toContainEqual(
      expect.objectContaining({ check: 'packages', verdict: 'failed', remedy: 'npm install' }),
    );
    expect(before).toContainEqual(
      expect.objectContaining({ check: 'start command', verdict: 'warning' }),
    );
    writeFileSync(path.join(ill.folder, 'banyan.config.ts'), 'export default { nme: 1 };');
    const { code, stdout } = await ill.banyan(['doctor']);
    expect(code).toBe(1);
    expect(stdout).toContain('Did you mean `name`?');
  });
});

describe('init', () => {
  const app = {
    'package.json': '{\n\t"name": "old",\n\t"scripts": { "start": "node old.js --flag \'x\'" }\n}',
  };

  test('shows what it would write, and writes it only when told to', async () => {
    await using fresh = await siteOf(app);
    const config = path.join(fresh.folder, 'banyan.config.mjs');
    const asked = await fresh.banyan(['init']);
    expect(asked).toMatchObject({ code: 1, output: expect.stringContaining('--yes') });
    expect(await fresh.banyan(['init', '--dry-run'])).toMatchObject({ code: 0 });
    expect(existsSync(config)).toBe(false);

    expect(await fresh.banyan(['init', '--yes'])).toMatchObject({ code: 0 });
    expect(readFileSync(config, 'utf8')).toContain(`command: "node old.js --flag 'x'"`);
    const manifest = readFileSync(path.join(fresh.folder, 'package.json'), 'utf8');
    expect(JSON.parse(manifest)).toMatchObject({ dependencies: { banyan: expect.any(String) } });
    expect(manifest).toContain('\n\t"name"');
    // What it wrote is a topology that holds.
    const doctor = await fresh.banyan(['doctor', '--json']);
    expect(JSON.parse(doctor.stdout).findings).toContainEqual(
      expect.objectContaining({ check: 'topology', verdict: 'ok' }),
    );
    const again = await fresh.banyan(['init', '--yes']);
    expect(again).toMatchObject({ code: 1, stderr: expect.stringContaining('already') });
  });

  test('a folder without an application is told', async () => {
    await using empty = await siteOf({});
    const { code, stderr } = await empty.banyan(['init', '--yes']);
    expect(code).toBe(1);
    expect(stderr).toContain('npm init');
  });
});
