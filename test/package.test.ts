/**
 * What a user gets from npm: the packed package installs into an empty project and works there, for
 * root and for an ordinary user, with types that hold.
 */
import { chownSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  type CommandResult,
  REPOSITORY,
  runProgram,
  temporaryFolder,
} from './support/deployment.ts';
import { nothingRuns } from './support/processes.ts';

const APP = `
import { createServer } from 'node:http';
import { createPool, createSessions, lifecycle, log, type Session } from 'banyan';

const pool = createPool();
const sessions = createSessions<{ visits: number }>({ pool });
const server = createServer(async (req, res) => {
  const session: Session<{ visits: number }> = await sessions.open(req.headers.cookie);
  const visits = await session.update('visits', count => (count ?? 0) + 1);
  const cookie = sessions.setCookie(session, false);
  if (cookie) res.setHeader('set-cookie', cookie);
  const { rows } = await pool.query<{ name: string }>('select name from people');
  log.info('served');
  res.end(JSON.stringify({ visits, people: rows.map(row => row.name) }));
});
lifecycle(server, { pool });
server.listen(Number(process.env.PORT), process.env.HOST);
`;

const isRoot = process.getuid?.() === 0;
/** `nobody` on Debian: an account that owns nothing here. */
const ORDINARY = { uid: 65_534, gid: 65_534 };

/** How npm reaches its registry on this machine is the machine's business, and as true in an empty project. */
const NPM_SETTINGS = Object.fromEntries(
  ['registry', 'cafile', 'proxy', 'https_proxy', 'noproxy', 'strict_ssl']
    .map(name => `npm_config_${name}`)
    .flatMap(name => (process.env[name] ? [[name, process.env[name]]] : [])),
);

let packed: string;
beforeAll(async () => {
  const folder = temporaryFolder();
  const result = await runProgram('npm', ['pack', '--pack-destination', folder]);
  expect(result).toMatchObject({ code: 0 });
  packed = path.join(folder, readdirSync(folder).find(name => name.endsWith('.tgz'))!);
});
afterAll(() => rmSync(path.dirname(packed), { recursive: true }));

describe.each([
  ['the account that runs the tests', undefined],
  ...(isRoot ? [['an ordinary user', ORDINARY] as const] : []),
] as const)('for %s', (_name, account) => {
  let home: string;
  let project: string;
  beforeAll(() => {
    home = temporaryFolder();
    project = path.join(home, 'shop');
    mkdirSync(path.join(project, 'migrations'), { recursive: true });
    writeFileSync(path.join(project, 'package.json'), '{"name": "shop", "type": "module"}\n');
    writeFileSync(path.join(project, 'tsconfig.json'), '{}');
    writeFileSync(path.join(project, 'server.ts'), APP);
    writeFileSync(
      path.join(project, 'migrations/001.sql'),
      `create table people (name text); insert into people values ('Ada');`,
    );
    if (account) {
      const all = readdirSync(home, { recursive: true, encoding: 'utf8' });
      for (const name of ['', ...all]) chownSync(path.join(home, name), account.uid, account.gid);
    }
  });
  afterAll(async () => {
    await run('npx', 'banyan', 'down');
    await nothingRuns(home);
    rmSync(home, { recursive: true });
  });

  function run(program: string, ...args: string[]): Promise<CommandResult> {
    return runProgram(program, args, {
      cwd: project,
      env: { ...NPM_SETTINGS, HOME: home },
      ...account,
    });
  }

  test('npm install, banyan init, banyan up: it serves', async () => {
    expect(await run('npm', 'install', '--no-audit', '--no-fund', packed)).toMatchObject({
      code: 0,
    });
    const init = await run('npx', 'banyan', 'init', '--yes');
    expect(init).toMatchObject({ code: 0, stdout: expect.stringContaining('banyan.config.ts') });
    expect(await run('npx', 'banyan', 'doctor', '--json')).toMatchObject({ code: 0 });

    const up = await run('npx', 'banyan', 'up', '--detach', '--port', '0');
    expect(up).toMatchObject({ code: 0 });
    const address = /http:\/\/[\d.]+:\d+/.exec(up.output)![0];
    const first = await fetch(address);
    expect(await first.json()).toEqual({ visits: 1, people: ['Ada'] });
    const cookie = first.headers.getSetCookie()[0]!.split(';')[0]!;
    const second = await fetch(address, { headers: { cookie } });
    expect(await second.json()).toEqual({ visits: 2, people: ['Ada'] });

    const sql = await run('npx', 'banyan', 'sql', '--json', 'table people');
    expect(JSON.parse(sql.stdout)).toEqual([{ name: 'Ada' }]);
  });

  test('its types hold in a strict project that checks its libraries too', async () => {
    const compiler = path.join(REPOSITORY, 'node_modules/typescript/bin/tsc');
    const nodeTypes = path.join(REPOSITORY, 'node_modules/@types');
    writeFileSync(
      path.join(project, 'tsconfig.json'),
      JSON.stringify({
        compilerOptions: {
          strict: true,
          noEmit: true,
          module: 'nodenext',
          target: 'es2024',
          allowImportingTsExtensions: true,
          typeRoots: [nodeTypes],
          types: ['node'],
        },
        files: ['server.ts', 'banyan.config.ts'],
      }),
    );
    const result = await run(process.execPath, compiler, '--project', project);
    expect(result).toMatchObject({ code: 0, output: '' });
  });
});
