import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import {
  appendFile,
  mkdir,
  readdir,
  readlink,
  rename,
  rm,
  symlink,
  utimes,
  writeFile,
} from 'node:fs/promises';
import path from 'node:path';
import express from 'express';
import fc from 'fast-check';
import fastify from 'fastify';
import { Hono } from 'hono';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { type Assets, createAssets } from '../../../src/app/assets/assets.ts';
import { expressAssets, fastifyAssets, honoAssets } from '../../../src/app/assets/middleware.ts';
import { publishRuntimeMap } from '../../../src/map/map-file.ts';
import { temporaryFolder } from '../../support/deployment.ts';
import {
  type Listening,
  listenExpress,
  listenFastify,
  listenHono,
  RawConnection,
} from '../../support/listen.ts';
import { until } from '../../support/until.ts';

const CSS = `body { color: green }\n${'/* long */'.repeat(50)}`;
const LARGE = randomBytes(300_000);

let root: string;
let folder: string;
beforeAll(async () => {
  root = temporaryFolder();
  folder = path.join(root, 'public');
  await mkdir(path.join(folder, 'css'), { recursive: true });
  await mkdir(path.join(folder, '.hidden'));
  await mkdir(path.join(root, 'public-not'));
  const files: Record<string, string | Buffer> = {
    'css/app.css': CSS,
    'css/app.css.br': 'brotli',
    'css/app.css.gz': 'gzip',
    'css/stale.css': 'new',
    'large.bin': LARGE,
    'empty.txt': '',
    'index.html': '<h1>hello</h1>',
    'app.js': 'export {}',
    'data.json': '{}',
    'logo.svg': '<svg/>',
    'photo.JPG': 'jpeg',
    LICENSE: 'MIT',
    'a b ü%.txt': 'strange name',
    'chunk-Bx3kD92a.js': 'bundled',
    '.env': 'SECRET=1',
    '.hidden/file.txt': 'hidden',
    '../secret.txt': 'outside',
    '../public-not/secret.txt': 'outside',
  };
  for (const [name, content] of Object.entries(files)) {
    await writeFile(path.join(folder, name), content);
  }
  await writeFile(path.join(folder, 'css/stale.css.br'), 'old');
  await utimes(path.join(folder, 'css/stale.css.br'), 1_000, 1_000);
  await symlink('../secret.txt', path.join(folder, 'link-out.txt'));
  await symlink('..', path.join(folder, 'folder-out'));
  await symlink('css/app.css', path.join(folder, 'link-inside.css'));
});
afterAll(() => rm(root, { recursive: true }));

const servers = {
  Hono(assets: Assets): Promise<Listening> {
    const app = new Hono();
    app.use(async (c, next) => {
      c.header('vary', 'Origin');
      await next();
    });
    app.use(honoAssets(assets));
    app.all('*', c => c.text('application', 404));
    return listenHono(app);
  },
  async Fastify(assets: Assets): Promise<Listening> {
    const app = fastify();
    app.addHook('onRequest', async (_request, reply) => {
      reply.header('vary', 'Origin');
    });
    await app.register(fastifyAssets(assets));
    app.setNotFoundHandler((_request, reply) => reply.code(404).send('application'));
    return listenFastify(app);
  },
  Express(assets: Assets): Promise<Listening> {
    const app = express();
    app.use((_req, res, next) => {
      res.set('vary', 'Origin');
      next();
    });
    app.use(expressAssets(assets));
    app.use((_req, res) => void res.status(404).send('application'));
    return listenExpress(app);
  },
};

/** Files of the folder that this process has open. */
async function openFiles(): Promise<string[]> {
  const names = await readdir('/proc/self/fd');
  const targets = await Promise.all(
    names.map(name => readlink(`/proc/self/fd/${name}`).catch(() => '')),
  );
  return targets.filter(target => target.startsWith(folder));
}

describe.each(Object.keys(servers) as (keyof typeof servers)[])('%s', framework => {
  let listening: Listening;
  let assets: Assets;
  beforeAll(async () => {
    assets = createAssets({ folder, prefix: '/static' });
    listening = await servers[framework](assets);
  });
  afterAll(() => listening.close());
  afterEach(async () => {
    if (existsSync('/proc/self/fd')) {
      await until(async () => (await openFiles()).length === 0, { what: 'no file is left open' });
    }
  });

  const get = (file: string, headers: Record<string, string> = {}, method = 'GET') =>
    fetch(`${listening.origin}${file}`, {
      method,
      headers: { 'accept-encoding': 'identity', ...headers },
    });

  test.each([
    ['index.html', 'text/html; charset=utf-8'],
    ['css/app.css', 'text/css; charset=utf-8'],
    ['app.js', 'text/javascript; charset=utf-8'],
    ['data.json', 'application/json; charset=utf-8'],
    ['logo.svg', 'image/svg+xml'],
    ['photo.JPG', 'image/jpeg'],
    ['LICENSE', 'application/octet-stream'],
    ['large.bin', 'application/octet-stream'],
  ])('%s is %s', async (name, type) => {
    const response = await get(`/static/${name}`);
    expect(response.status).toBe(200);
    expect(response.headers.get('content-type')).toBe(type);
    expect(response.headers.get('x-content-type-options')).toBe('nosniff');
    await response.arrayBuffer();
  });

  test('a file arrives whole; names with blanks and accents too; a query changes nothing', async () => {
    const large = Buffer.from(await (await get('/static/large.bin?v=1')).arrayBuffer());
    expect(large.equals(LARGE)).toBe(true);
    const strange = await get(`/static/${encodeURIComponent('a b ü%.txt')}`);
    expect(await strange.text()).toBe('strange name');
    expect(await (await get('/static/link-inside.css')).text()).toBe(CSS);
  });

  test('an empty file is empty, also when a range of it is asked for', async () => {
    const response = await get('/static/empty.txt', { range: 'bytes=0-5' });
    expect([response.status, response.headers.get('content-length')]).toEqual([200, '0']);
    expect(await response.text()).toBe('');
  });

  test('HEAD has the headers of GET and no body', async () => {
    const head = await get('/static/css/app.css', {}, 'HEAD');
    expect(head.headers.get('content-length')).toBe(String(CSS.length));
    expect(await head.text()).toBe('');
    const whole = await get('/static/css/app.css');
    await whole.text();
    expect(head.headers.get('etag')).toBe(whole.headers.get('etag'));
  });

  test('what is not here goes on to the application', async () => {
    for (const [file, method] of [
      ['/static/nothing.css', 'GET'],
      ['/static/', 'GET'],
      ['/static/css', 'GET'],
      ['/static', 'GET'],
      ['/css/app.css', 'GET'],
      ['/static/css/app.css/x', 'GET'],
      ['/static/css/app.css', 'POST'],
      [`/static/${'x'.repeat(300)}`, 'GET'],
    ] as const) {
      const response = await get(file, {}, method);
      expect([file, response.status, await response.text()]).toEqual([file, 404, 'application']);
    }
  });

  test.each([
    '/static/../secret.txt',
    '/static/..%2fsecret.txt',
    '/static/%2e%2e/secret.txt',
    '/static/%2e%2e%2fsecret.txt',
    '/static/css/../../secret.txt',
    '/static/css%2f..%2f..%2fsecret.txt',
    '/static/..%5csecret.txt',
    '/static/%252e%252e%252fsecret.txt',
    '/static//etc/passwd',
    '/static/%2fetc%2fpasswd',
    '/static/../public-not/secret.txt',
    '/static/link-out.txt',
    '/static/folder-out/secret.txt',
    '/static/.env',
    '/static/%2eenv',
    '/static/.hidden/file.txt',
    '/static/css/%00app.css',
    '/static/css/app.css%00.png',
    '/static/%',
    '/static/%c0%ae%c0%ae/secret.txt',
  ])('%s leads nowhere', async target => {
    const client = await new RawConnection(listening.port).opened();
    client.send(`GET ${target} HTTP/1.1`, 'Host: x', 'Connection: close');
    await client.closed;
    expect(client.text).toMatch(/^HTTP\/1.1 (404|400) /);
    expect(client.text).not.toMatch(/outside|SECRET|hidden\b|root:/);
  });

  describe('conditions', () => {
    test('the ETag is of the content: 304 while it is the same, without a body', async () => {
      const first = await get('/static/css/app.css');
      await first.text();
      const etag = first.headers.get('etag')!;
      expect(first.headers.get('cache-control')).toBe('public, no-cache');
      for (const given of [etag, `"x", ${etag}`, `W/${etag}`, '*']) {
        const again = await get('/static/css/app.css', { 'if-none-match': given });
        expect([given, again.status, await again.text()]).toEqual([given, 304, '']);
        expect(again.headers.get('etag')).toBe(etag);
      }
      const other = await get('/static/css/app.css', { 'if-none-match': '"other"' });
      expect([other.status, await other.text()]).toEqual([200, CSS]);
    });

    test('If-Modified-Since counts when there is no ETag', async () => {
      const first = await get('/static/css/app.css');
      await first.text();
      const modified = first.headers.get('last-modified')!;
      expect((await get('/static/css/app.css', { 'if-modified-since': modified })).status).toBe(
        304,
      );
      const older = { 'if-modified-since': new Date(0).toUTCString() };
      const changed = await get('/static/css/app.css', older);
      expect([changed.status, await changed.text()]).toEqual([200, CSS]);
      const both = { 'if-modified-since': modified, 'if-none-match': '"other"' };
      const byETag = await get('/static/css/app.css', both);
      expect([byETag.status, await byETag.text()]).toEqual([200, CSS]);
    });
  });

  describe('ranges', () => {
    test.each([
      ['bytes=0-0', 0, 0],
      ['bytes=5-9', 5, 9],
      ['bytes=299990-', 299_990, 299_999],
      ['bytes=-10', 299_990, 299_999],
      ['bytes=-999999', 0, 299_999],
      ['bytes=100-999999', 100, 299_999],
    ])('%s', async (range, start, end) => {
      const response = await get('/static/large.bin', { range });
      expect(response.status).toBe(206);
      expect(response.headers.get('content-range')).toBe(`bytes ${start}-${end}/300000`);
      const body = Buffer.from(await response.arrayBuffer());
      expect(body.equals(LARGE.subarray(start, end + 1))).toBe(true);
    });

    test.each(['bytes=300000-', 'bytes=400000-500000', 'bytes=-0'])(
      '%s cannot be satisfied',
      async range => {
        const response = await get('/static/large.bin', { range });
        expect(response.status).toBe(416);
        expect(response.headers.get('content-range')).toBe('bytes */300000');
        expect(await response.text()).toBe('');
      },
    );

    test.each(['lines=1-2', 'bytes=x-y', 'bytes=0-1,5-6', 'bytes=9-5x'])(
      '%s is ignored, and the whole file sent',
      async range => {
        const response = await get('/static/large.bin', { range });
        expect(response.status).toBe(200);
        expect((await response.arrayBuffer()).byteLength).toBe(LARGE.length);
      },
    );

    test('If-Range: the part of the same content, the whole of another', async () => {
      const head = await get('/static/large.bin', {}, 'HEAD');
      const range = 'bytes=0-9';
      const status = async (ifRange: string) => {
        const response = await get('/static/large.bin', { range, 'if-range': ifRange });
        await response.arrayBuffer();
        return response.status;
      };
      expect(await status(head.headers.get('etag')!)).toBe(206);
      expect(await status(head.headers.get('last-modified')!)).toBe(206);
      expect(await status('"other"')).toBe(200);
      expect(await status(`W/${head.headers.get('etag')}`)).toBe(200);
      expect(await status(new Date(0).toUTCString())).toBe(200);
      expect(await status('rubbish')).toBe(200);
    });
  });

  describe('precompressed variants', () => {
    const encodingOf = async (file: string, acceptEncoding: string) => {
      const client = await new RawConnection(listening.port).opened();
      client.send(
        `GET ${file} HTTP/1.1`,
        'Host: x',
        'Connection: close',
        `Accept-Encoding: ${acceptEncoding}`,
      );
      await client.closed;
      const [head = '', body = ''] = client.text.split('\r\n\r\n');
      const header = (name: string) => new RegExp(`^${name}: (.*)$`, 'im').exec(head)?.[1]?.trim();
      return {
        encoding: header('content-encoding'),
        type: header('content-type'),
        vary: header('vary'),
        etag: header('etag'),
        body,
      };
    };

    test('the smallest that the browser takes, with the type of the file, its own ETag, and Vary', async () => {
      const br = await encodingOf('/static/css/app.css', 'gzip, deflate, br');
      expect(br).toMatchObject({ encoding: 'br', type: 'text/css; charset=utf-8' });
      expect(br.body).toContain('brotli');
      const gzip = await encodingOf('/static/css/app.css', 'gzip, br;q=0');
      expect(gzip.encoding).toBe('gzip');
      expect(gzip.body).toContain('gzip');
      const plain = await encodingOf('/static/css/app.css', 'identity');
      expect(plain.encoding).toBeUndefined();
      expect(new Set([br.etag, gzip.etag, plain.etag]).size).toBe(3);
      // Also where the plain file is sent, and together with what others said before.
      for (const { vary } of [br, gzip, plain]) {
        expect(vary?.toLowerCase()).toBe('origin, accept-encoding');
      }
    });

    test('one that is older than its file is of an earlier content and left out', async () => {
      const { encoding, body } = await encodingOf('/static/css/stale.css', 'br');
      expect(encoding).toBeUndefined();
      expect(body).toContain('new');
    });

    test('a file without variants does not vary', async () => {
      expect((await encodingOf('/static/app.js', 'br')).vary).toBe('Origin');
    });
  });

  describe('fingerprinted names', () => {
    test('may be kept for ever', async () => {
      const url = assets.url('css/app.css');
      expect(url).toMatch(/^\/static\/css\/app-[0-9a-f]{10}\.css$/);
      const response = await get(url);
      expect(await response.text()).toBe(CSS);
      expect(response.headers.get('cache-control')).toBe('public, max-age=31536000, immutable');
      const compressed = await get(url, { 'accept-encoding': 'br' }, 'HEAD');
      expect(compressed.headers.get('content-encoding')).toBe('br');
    });

    test('of another release get the file that is here, not to be kept', async () => {
      const response = await get('/static/css/app-0123456789.css');
      expect(await response.text()).toBe(CSS);
      expect(response.headers.get('cache-control')).toBe('no-cache, no-store');
    });

    test('of a bundler may be kept too; names that anyone would give may not', async () => {
      const bundled = await get('/static/chunk-Bx3kD92a.js', {}, 'HEAD');
      expect(bundled.headers.get('cache-control')).toContain('immutable');
      expect((await get('/static/app.js', {}, 'HEAD')).headers.get('cache-control')).toBe(
        'public, no-cache',
      );
    });
  });

  test('a file that is replaced at once has its new content, length and ETag; the old name is not kept', async () => {
    const name = `release-${framework}.txt`;
    const file = path.join(folder, name);
    const replace = async (text: string) => {
      await writeFile(`${file}.tmp`, text);
      await rename(`${file}.tmp`, file);
    };
    await replace('a long first release');
    const url = assets.url(name);
    const first = await get(url);
    expect(await first.text()).toBe('a long first release');
    for (let round = 0; round < 20; round++) {
      const text = `release ${'!'.repeat(round % 7)}${round}`;
      await replace(text);
      const response = await get(url);
      expect(await response.text()).toBe(text);
      expect(response.headers.get('content-length')).toBe(String(text.length));
      expect(response.headers.get('cache-control')).toBe('no-cache, no-store');
      const renewed = await get(assets.url(name));
      expect(await renewed.text()).toBe(text);
      expect(renewed.headers.get('cache-control')).toContain('immutable');
    }
    await rm(file);
    expect((await get(url)).status).toBe(404);
  });

  test('a browser that goes away in the middle leaves no file open', async () => {
    await writeFile(path.join(folder, 'huge.bin'), Buffer.alloc(20_000_000));
    const client = await new RawConnection(listening.port).opened();
    client.send('GET /static/huge.bin HTTP/1.1', 'Host: x');
    await until(() => client.byteCount > 0);
    client.socket.destroy();
    await until(async () => !(await openFiles()).some(name => name.endsWith('huge.bin')));
    expect((await get('/static/app.js', {}, 'HEAD')).status).toBe(200);
  });
});

describe('url()', () => {
  test('is of the content, follows a change, and stays plain for what is not there', async () => {
    const assets = createAssets({ folder, prefix: 'static/' });
    const file = path.join(folder, 'changing.css');
    await writeFile(file, 'one');
    const first = assets.url('changing.css');
    expect(assets.url('/changing.css')).toBe(first);
    await appendFile(file, 'two');
    expect(assets.url('changing.css')).not.toBe(first);
    expect(assets.url('no/such.css')).toBe('/static/no/such.css');
    expect(assets.url('a b ü%.txt')).toMatch(/^\/static\/a%20b%20%C3%BC%25-[0-9a-f]{10}\.txt$/);
    expect(createAssets({ folder }).url('app.js')).toMatch(/^\/app-[0-9a-f]{10}\.js$/);
  });

  test('is at the edge when the runtime map names one', async () => {
    const mapFile = path.join(root, 'map.json');
    await publishRuntimeMap(mapFile, {
      deployment: 'test',
      dataCentre: 'local',
      database: {
        name: 'x',
        shards: [{ id: '1', members: [{ host: 'x', port: 1, dataCentre: 'local' }] }],
      },
      assets: { baseUrl: 'https://edge.example/' },
    });
    vi.stubEnv('BANYAN_MAP', mapFile);
    const assets = createAssets({ folder, prefix: '/static' });
    vi.unstubAllEnvs();
    expect(assets.url('app.js')).toMatch(/^https:\/\/edge\.example\/static\/app-/);
  });
});

/** RFC 9110, 14.1.2, written down a second time. */
function askedFor(from: number | '', to: number | ''): Buffer | 'unsatisfiable' | 'ignored' {
  const size = LARGE.length;
  if (from === '' && to === '') return 'ignored';
  if (from === '')
    return to === 0 ? 'unsatisfiable' : LARGE.subarray(Math.max(0, size - Number(to)));
  if (to !== '' && to < from) return 'ignored';
  return from >= size ? 'unsatisfiable' : LARGE.subarray(from, to === '' ? size : to + 1);
}

test('property: the bytes that are sent are exactly those that the range asked for', async () => {
  const assets = createAssets({ folder });
  const bound = fc.option(fc.nat(400_000), { nil: '' as const });
  await fc.assert(
    fc.asyncProperty(bound, bound, async (from, to) => {
      const found = await assets.find('/large.bin', {
        method: 'GET',
        acceptEncoding: undefined,
        headers: {
          ifNoneMatch: undefined,
          ifModifiedSince: undefined,
          range: `bytes=${from}-${to}`,
          ifRange: undefined,
        },
      });
      const body = Buffer.concat(found?.body ? await found.body.toArray() : []);
      const expected = askedFor(from, to);
      if (expected === 'ignored') {
        // A range that is no range may be refused or ignored.
        expect([200, 416]).toContain(found?.status);
      } else if (expected === 'unsatisfiable') {
        expect([found?.status, body.length]).toEqual([416, 0]);
      } else {
        expect(found?.status).toBe(206);
        expect(body.equals(expected)).toBe(true);
        expect(found?.headers['content-length']).toBe(String(expected.length));
      }
    }),
  );
});
