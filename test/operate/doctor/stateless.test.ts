/** `banyan doctor` finds state that is kept in a server, says where, and what to do; and is quiet otherwise. */
import { readFileSync, rmSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import type { Finding } from '../../../src/operate/doctor/examine.ts';
import { blankComments, serverSources } from '../../../src/operate/doctor/sources.ts';
import { findState } from '../../../src/operate/doctor/state-rules.ts';
import { filesWritten } from '../../../src/operate/doctor/written-files.ts';
import { configure } from '../../support/balanced-app.ts';
import { REPOSITORY, type Site, siteOf, temporaryFolder } from '../../support/deployment.ts';

const inText = (text: string) => findState([{ file: 'server.ts', text: blankComments(text) }]);

describe('kept in a server', () => {
  test.each<[string, string, number, RegExp]>([
    [
      'express-session without a store',
      `import express from 'express';\nimport session from 'express-session';\nconst app = express();\napp.use(session({ secret: 'x', cookie: { maxAge: f(1) } }));`,
      4,
      /sessions in its memory/,
    ],
    [
      'the same, by require',
      `const s = require('express-session')\napp.use(s())`,
      2,
      /sessions in its memory/,
    ],
    [
      '@fastify/session without a store',
      `import fastifySession from '@fastify/session';\n\napp.register(fastifySession, {\n  secret });`,
      3,
      /sessions in its memory/,
    ],
    [
      'the memory store of hono-sessions',
      `import {\n  MemoryStore,\n  sessionMiddleware,\n} from 'hono-sessions';\nconst store = new MemoryStore();`,
      5,
      /memory store/,
    ],
    ['memorystore', `const MemoryStore = require('memorystore')(session)`, 1, /memory store/],
    ['a relative path', `\nawait fs.writeFile('uploads/' + name, data);`, 2, /writes a file/],
    ['a template', `appendFileSync(\`./log-\${day}.txt\`, line)`, 1, /writes a file/],
    [
      'beside the source',
      `createWriteStream(path.join(import.meta.dirname, 'x', name))`,
      1,
      /writes a file/,
    ],
    [
      'by a variable',
      `const folder = path.join(__dirname, 'uploads');\nfs.writeFileSync(path.join(folder, name), data);`,
      2,
      /writes a file/,
    ],
    [
      'multer to a folder',
      `import multer from 'multer';\nconst upload = multer({ dest: 'uploads/' });`,
      2,
      /uploads/,
    ],
    [
      'multer’s diskStorage',
      `const multer = require('multer');\nconst storage = multer.diskStorage({\n destination: f });`,
      2,
      /uploads/,
    ],
    ['SQLite', `import Database from 'better-sqlite3';`, 1, /SQLite/],
    ['Node’s SQLite', `import { DatabaseSync } from "node:sqlite";`, 1, /SQLite/],
    ['lowdb', `import { JSONFilePreset } from 'lowdb/node'`, 1, /file of its own/],
    ['socket.io', `import { Server } from 'socket.io';\nnew Server(http);`, 1, /socket\.io/],
  ])('%s is a warning, with its line', (_, text, line, what) => {
    expect(inText(text)).toEqual([
      expect.objectContaining({
        file: 'server.ts',
        line,
        verdict: 'warning',
        what: expect.stringMatching(what),
        remedy: expect.stringMatching(/PostgreSQL|postgres/),
      }),
    ]);
  });

  test.each<[string, string, RegExp]>([
    ['a scheduler', `import cron from 'node-cron';`, /by the clock/],
    ['a timer of the module', `setInterval(sweep, 60_000);`, /by the clock/],
    ['a rate limiter', `import { rateLimit } from 'express-rate-limit';`, /counts requests/],
    ['a cache', `import { LRUCache } from 'lru-cache';`, /cache/],
    ['a map of sessions', `const sessionsById = new Map<string, Session>();`, /variable/],
    ['a list of carts', `export const carts: Cart[] = [];`, /variable/],
  ])('%s is only a hint', (_, text, what) => {
    expect(inText(text)).toMatchObject([{ verdict: 'hint', what: expect.stringMatching(what) }]);
  });

  test.each<[string, string]>([
    [
      'a session store',
      `import session from 'express-session';\napp.use(session({ secret, store: new Pg({ pool }) }));`,
    ],
    ['the store for short', `import s from 'express-session';\napp.use(s({ store, secret }));`],
    ['cookie-session', `import session from 'cookie-session';\napp.use(session({ keys }));`],
    ['Banyan’s sessions', `import { createSessions } from 'banyan';\ncreateSessions({ pool });`],
    ['the system’s place for such', `fs.writeFile('/tmp/x', data); fs.writeFile(file, data);`],
    ['a file that is read', `fs.readFile('./page.html'); createReadStream(__dirname + '/x');`],
    ['comments', `// app.use(session()); import 'lowdb'\n/* multer({ dest: 'x' }) */`],
    [
      'multer in memory',
      `import multer from 'multer'; multer({ storage: multer.memoryStorage() });`,
    ],
    ['types', `import type { Database } from 'better-sqlite3';`],
    [
      'socket.io with an adapter',
      `import { Server } from 'socket.io';\nnew Server(http, { adapter: createAdapter(pool) });`,
    ],
    ['a timer within a function', `function f() {\n  setInterval(g, 1);\n}`],
    ['a URL in a text', `const home = 'http://x'; // fine\nwriteHead(200);`],
  ])('%s: nothing to say', (_, text) => {
    expect(inText(text)).toEqual([]);
  });
});

describe('the sources', () => {
  let folder: string;
  afterEach(() => rmSync(folder, { recursive: true }));
  const files = async (texts: Record<string, string>) => {
    folder = temporaryFolder();
    for (const [name, text] of Object.entries(texts)) {
      await mkdir(path.dirname(path.join(folder, name)), { recursive: true });
      await writeFile(path.join(folder, name), text);
    }
  };
  const named = (command: string) => serverSources(folder, command).map(({ file }) => file);

  test('are those that the server loads: not a seed, nor another program', async () => {
    await files({
      'src/server.ts': `import { a } from './a.js';\nexport * from "./lib";\nconst c = await import('./c.ts');`,
      'src/a.ts': `import './server.ts'; import 'express'; import '../../outside.ts';`,
      'src/lib/index.ts': '',
      'src/c.ts': '',
      'seed.ts': `fs.writeFile('x')`,
      'node_modules/express/index.js': '',
    });
    expect(named('node --import=x src/server.ts').sort()).toEqual([
      'src/a.ts',
      'src/c.ts',
      'src/lib/index.ts',
      'src/server.ts',
    ]);
  });

  test('of a framework are all, without tests, packages and what is built', async () => {
    await files({
      'pages/index.tsx': '',
      'lib/db.ts': '',
      'next.config.js': '',
      'lib/db.test.ts': '',
      'test/x.ts': '',
      'dist/main.js': '',
      '.next/server.js': '',
      'node_modules/x/index.js': '',
      'readme.md': '',
    });
    expect(named('next start')).toEqual(['lib/db.ts', 'pages/index.tsx']);
    // And of what was built: a bundle holds other people's code too.
    expect(named('node dist/main.js')).toEqual(['lib/db.ts', 'pages/index.tsx']);
  });

  test('files that changed since are found, what a developer edits is not', async () => {
    await files({
      'uploads/a.png': '',
      'data.json': '',
      'server.ts': '',
      'package.json': '',
      'node_modules/x.bin': '',
      '.git/index': '',
      '.banyan/x': '',
    });
    expect(await filesWritten(folder, 0)).toEqual(['data.json', 'uploads/a.png']);
    expect(await filesWritten(folder, Date.now() + 60_000)).toEqual([]);
  });
});

test('the reference application has no finding', () => {
  const folder = path.join(REPOSITORY, 'examples', 'conduit');
  const { scripts } = JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8'));
  const sources = serverSources(folder, scripts?.start ?? 'node server.ts');
  expect(sources.length).toBeGreaterThan(30);
  expect(findState(sources)).toEqual([]);
});

describe('banyan doctor', () => {
  const stateOf = async (site: Site) => {
    const { stdout } = await site.banyan(['doctor', '--json']);
    const { findings } = JSON.parse(stdout) as { findings: Finding[] };
    return findings.filter(({ check }) => check === 'state');
  };
  const APP = {
    'package.json': JSON.stringify({ name: 'stateful', type: 'module' }),
    'server.ts': `
      import { appendFile } from 'node:fs/promises';
      import express from 'express';
      import session from 'express-session';
      const app = express();
      app.use(session({ secret: 'x' }));
    `,
  };

  test('with one server a hint, with several a warning, with sticky a hint again', async () => {
    await using site = await siteOf(APP);
    expect(await stateOf(site)).toMatchObject([
      { verdict: 'hint', detail: expect.stringContaining('server.ts:6 keeps sessions') },
    ]);
    await configure(site, { web: { servers: { min: 1, max: 4 } } });
    expect(await stateOf(site)).toMatchObject([
      { verdict: 'warning', remedy: expect.stringMatching(/createSessions.*sticky: true/) },
    ]);
    await configure(site, { web: { servers: 2, sticky: true } });
    expect(await stateOf(site)).toMatchObject([{ verdict: 'hint' }]);
  });

  test('what the servers have written while it is up', async () => {
    await using site = await siteOf({
      'package.json': APP['package.json'],
      'server.ts': `
        import { createServer } from 'node:http';
        import { writeFileSync } from 'node:fs';
        const target = process.env.TARGET!;
        createServer((req, res) => {
          if (req.url === '/upload') writeFileSync(target, 'picture');
          res.end();
        }).listen(Number(process.env.PORT), process.env.HOST);
      `,
    });
    const env = { TARGET: path.join(site.folder, 'avatar.png') };
    await configure(site, { web: { servers: 2, env } });
    await site.up();
    expect(await stateOf(site)).toMatchObject([{ verdict: 'ok' }]);
    await fetch(`${site.address}/upload`);
    expect(await stateOf(site)).toMatchObject([
      { verdict: 'warning', detail: expect.stringContaining('avatar.png') },
    ]);
    const { stdout } = await site.banyan(['doctor']);
    expect(stdout).toMatch(/! state.*avatar\.png\n.*to do.*object store/);
  });
});
