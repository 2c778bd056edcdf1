import type pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { sessionKey } from '../../../src/app/sessions/cookie.ts';
import {
  createSessions,
  InvalidSessionsOption,
  type Sessions,
  type SessionsOptions,
} from '../../../src/app/sessions/sessions.ts';
import { SessionStore } from '../../../src/app/sessions/store.ts';
import { log } from '../../../src/app/telemetry/log.ts';
import { TestPostgres } from '../../support/postgres.ts';
import {
  Browser,
  type Data,
  FRAMEWORKS,
  type Framework,
  type Handler,
  type Reply,
} from '../../support/session-app.ts';
import { until } from '../../support/until.ts';

log.level = 'silent';

let postgres: TestPostgres;
let pool: pg.Pool;
beforeAll(async () => {
  postgres = await TestPostgres.start();
  pool = await postgres.pool();
});
afterAll(() => postgres.remove());

/** Requests to `/wait/…` stop here, after their session was read, until they are let go. */
let arrived = 0;
let gate = Promise.withResolvers<void>();
beforeEach(() => {
  arrived = 0;
  gate = Promise.withResolvers<void>();
});

const handle: Handler = async (url, session): Promise<Reply> => {
  const [, ...parts] = url.pathname.split('/');
  if (parts[0] === 'wait') {
    parts.shift();
    arrived++;
    await gate.promise;
  }
  const [act, key = '', value = ''] = parts;
  if (act === 'set') session.set(key, value);
  if (act === 'delete') session.delete(key);
  if (act === 'login') session.login(key);
  if (act === 'logout') session.logout();
  if (act === 'goodbye') {
    session.logout();
    session.set('flash', 'bye');
  }
  if (act === 'rotate') session.rotate();
  if (act === 'count') await session.update('count', n => Number(n ?? 0) + 1);
  if (act === 'login-and-count') {
    session.login(key);
    await session.update('count', n => Number(n ?? 0) + 1);
  }
  if (act === 'large') session.set('large', 'x'.repeat(100_000));
  const body = JSON.stringify({ userId: session.userId, value: session.get(key || 'count') });
  if (act === 'stream') {
    session.set('streamed', 'yes');
    return { stream: ['one ', 'two ', 'three'] };
  }
  if (act === 'cookies') {
    session.set('x', 1);
    return { body, cookies: ['a=1; Path=/', 'b=2; Path=/'] };
  }
  if (act === 'redirect') {
    session.set('x', 1);
    return { status: 302, headers: { location: '/elsewhere' }, cookies: ['promise=1'] };
  }
  if (act === 'public') {
    if (key) session.set(key, value);
    return { body: 'page', headers: { 'cache-control': 'public, max-age=600' } };
  }
  return { body };
};

const closing: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0)) await close();
});

async function serveOn(
  framework: Framework,
  options: Partial<SessionsOptions> = {},
): Promise<{ browser: Browser; origin: string; sessions: Sessions<Data> }> {
  const sessions = createSessions<Data>({ pool, ...options });
  const { origin, close } = await FRAMEWORKS[framework](sessions, handle);
  closing.push(close);
  return { browser: new Browser(origin), origin, sessions };
}

/** What a request to `/get/<key>` sees. */
async function see(browser: Browser, key = '') {
  return JSON.parse((await browser.send(`/get/${key}`)).text) as {
    userId?: string;
    value?: unknown;
  };
}

const frameworks = Object.keys(FRAMEWORKS) as Framework[];

describe.each(frameworks)('%s', framework => {
  const serve = () => serveOn(framework);

  test('a visitor without data has no cookie; data is there with the next request', async () => {
    const { browser } = await serve();
    expect((await browser.send('/get')).setCookies).toEqual([]);
    const { setCookies, headers } = await browser.send('/set/theme/dark');
    expect(setCookies).toEqual([
      expect.stringMatching(/^sid=[\w.%-]+; Max-Age=1209600; Path=\/; /),
    ]);
    expect(setCookies[0]).toContain('HttpOnly');
    expect(setCookies[0]).toContain('SameSite=Lax');
    expect(headers.get('cache-control')).toBe('private, no-cache');
    expect(await see(browser, 'theme')).toEqual({ value: 'dark' });
    expect((await browser.send('/get')).setCookies).toEqual([]);
    await browser.send('/delete/theme');
    expect(await see(browser, 'theme')).toEqual({});
    expect(await see(browser, 'constructor')).toEqual({});
  });

  test('concurrent requests that change different keys are both kept', async () => {
    const { browser } = await serve();
    await browser.send('/set/start/1');
    const both = [browser.send('/wait/set/a/1'), browser.send('/wait/set/b/2')];
    await until(() => arrived === 2);
    gate.resolve();
    await Promise.all(both);
    expect(await see(browser, 'a')).toEqual({ value: '1' });
    expect(await see(browser, 'b')).toEqual({ value: '2' });
    expect(await see(browser, 'start')).toEqual({ value: '1' });
  });

  test('fifty increments at the same time count to fifty', async () => {
    const { browser } = await serve();
    await browser.send('/set/start/1');
    await Promise.all(Array.from({ length: 50 }, () => browser.send('/count')));
    expect(await see(browser)).toEqual({ value: 50 });
  });

  test('login gives a new id, keeps the data, and the old id opens nothing', async () => {
    const { browser } = await serve();
    await browser.send('/set/cart/full');
    const planted = browser.copy();
    await browser.send('/login/ada');
    expect(browser.cookies.get('sid')).not.toBe(planted.cookies.get('sid'));
    expect(await see(browser, 'cart')).toEqual({ userId: 'ada', value: 'full' });
    expect(await see(planted, 'cart')).toEqual({});
    await planted.send('/set/cart/stolen');
    expect(await see(browser, 'cart')).toEqual({ userId: 'ada', value: 'full' });
  });

  test('an update after a login in the same request is of the value in the store', async () => {
    const { browser } = await serve();
    await browser.send('/count');
    await browser.send('/login-and-count/ada');
    expect(await see(browser)).toEqual({ userId: 'ada', value: 2 });
  });

  test('a request that was under way with the old id does not take the new cookie away', async () => {
    const { browser } = await serve();
    await browser.send('/set/cart/full');
    const before = browser.copy();
    const late = before.send('/wait/set/other/1');
    await until(() => arrived === 1);
    await browser.send('/login/ada');
    gate.resolve();
    expect((await late).setCookies).toEqual([]);
    expect((await before.send('/get')).setCookies).toEqual([]);
  });

  test.each(['set/a/1', 'rotate', 'count', 'delete/start'])(
    'logout in one tab, /%s under way in another: it never comes back',
    async act => {
      const { browser } = await serve();
      await browser.send('/set/start/1');
      await browser.send('/login/ada');
      const before = browser.copy();
      const other = browser.copy();
      const late = other.send(`/wait/${act}`);
      await until(() => arrived === 1);
      const { setCookies } = await browser.send('/logout');
      expect(setCookies).toEqual([expect.stringContaining('Max-Age=0')]);
      gate.resolve();
      await late;
      for (const tab of [browser, before, other]) {
        expect(await see(tab, 'start')).toEqual({});
      }
      const { rows } = await pool.query(
        `select from banyan.sessions where user_id = 'ada' and data ? 'start' and data ? 'a'`,
      );
      expect(rows).toEqual([]);
    },
  );

  test('a word of goodbye after the logout is in a new session, without the data of the old', async () => {
    const { browser } = await serve();
    await browser.send('/set/cart/full');
    await browser.send('/login/ada');
    const before = browser.copy();
    await browser.send('/goodbye');
    expect(browser.cookies.get('sid')).not.toBe(before.cookies.get('sid'));
    expect(await see(browser, 'flash')).toEqual({ value: 'bye' });
    expect(await see(browser, 'cart')).toEqual({});
    expect(await see(before, 'cart')).toEqual({});
  });

  test('revoke ends all sessions of a user at once, also one that is rotated just then', async () => {
    const { browser, sessions, origin } = await serve();
    const phone = new Browser(origin);
    const other = new Browser(origin);
    await browser.send('/login/eve');
    await phone.send('/login/eve');
    await other.send('/login/bob');
    const late = phone.send('/wait/rotate');
    await until(() => arrived === 1);
    expect(await sessions.revoke('eve')).toBe(2);
    gate.resolve();
    await late;
    expect(await see(browser)).toEqual({});
    expect(await see(phone)).toEqual({});
    expect(await see(other)).toEqual({ userId: 'bob' });
  });

  test('a forged or damaged cookie is cleared without a query', async () => {
    const { browser } = await serve();
    await browser.send('/set/a/1');
    const right = browser.cookies.get('sid')!;
    const queries = countQueries();
    for (const value of [
      '',
      'x',
      'x.y',
      `${right}x`,
      right.slice(0, -1),
      right.replace('.', '%2E.'),
      '..',
      '%',
    ]) {
      browser.cookies.set('sid', value);
      const { status, setCookies } = await browser.send('/get');
      expect(status).toBe(200);
      expect(setCookies).toEqual([expect.stringContaining('sid=; Max-Age=0')]);
    }
    expect(queries()).toBe(0);
  });

  test('the cookie is Secure over HTTPS alone, also behind a balancer', async () => {
    const { browser, origin } = await serve();
    const secure = async (headers: Record<string, string>) =>
      (await new Browser(origin).send('/set/a/1', headers)).setCookies[0]!.includes('Secure');
    expect(await secure({})).toBe(false);
    expect(await secure({ 'x-forwarded-proto': 'http' })).toBe(false);
    expect(await secure({ 'x-forwarded-proto': 'http, https' })).toBe(false);
    expect(await secure({ 'x-forwarded-proto': 'https' })).toBe(true);
    expect(await secure({ 'x-forwarded-proto': 'https, http' })).toBe(true);
    expect(browser.cookies.size).toBe(0);
  });

  test('cookies of the application and that of the session are all there, once each', async () => {
    const { browser } = await serve();
    const { setCookies } = await browser.send('/cookies');
    expect(setCookies.map(cookie => cookie.split('=')[0]).sort()).toEqual(['a', 'b', 'sid']);
  });

  test('a response that everyone may cache becomes private when it carries the cookie', async () => {
    const { browser } = await serve();
    expect((await browser.send('/public')).headers.get('cache-control')).toBe(
      'public, max-age=600',
    );
    const { headers, setCookies } = await browser.send('/public/a/1');
    expect(setCookies).toHaveLength(1);
    expect(headers.get('cache-control')).toBe('private, no-cache');
    expect((await browser.send('/public')).headers.get('cache-control')).toBe(
      'public, max-age=600',
    );
  });

  test.each(['set/a/1', 'stream', 'redirect'])(
    'nothing of the response to /%s is sent before the session is written',
    async act => {
      const { browser } = await serve();
      await browser.send('/set/start/1');
      const id = decodeURIComponent(browser.cookies.get('sid')!).split('.')[0]!;
      const blocker = await pool.connect();
      await blocker.query('begin');
      await blocker.query('select from banyan.sessions where id = $1 for update', [sessionKey(id)]);
      let answered = false;
      const response = browser.send(`/${act}`).finally(() => {
        answered = true;
      });
      await until(async () => {
        const { rows } = await pool.query(
          `select from pg_stat_activity where wait_event_type = 'Lock'`,
        );
        return rows.length > 0;
      });
      expect(answered).toBe(false);
      await blocker.query('commit');
      blocker.release();
      expect((await response).status).toBeLessThan(400);
    },
  );

  test('a stream arrives whole, and what was set before it is kept', async () => {
    const { browser } = await serve();
    const { text, setCookies } = await browser.send('/stream');
    expect(text).toBe('one two three');
    expect(setCookies).toHaveLength(1);
    expect(await see(browser, 'streamed')).toEqual({ value: 'yes' });
  });

  test.each(['set/a/1', 'stream', 'redirect', 'login/ada', 'public/a/1', 'large'])(
    'if the session cannot be written, /%s is answered with 500 and without a cookie',
    async act => {
      const { browser, origin } = await serve();
      if (act !== 'large') {
        // The session that everyone would write to.
        await pool.query('alter table banyan.sessions rename to moved');
      }
      try {
        const { status, setCookies, headers } = await browser.send(`/${act}`);
        expect(status).toBe(500);
        expect(setCookies.filter(cookie => cookie.startsWith('sid='))).toEqual([]);
        expect(headers.get('cache-control') ?? '').not.toContain('public');
      } finally {
        if (act !== 'large') await pool.query('alter table banyan.moved rename to sessions');
      }
      const next = await new Browser(origin).send('/set/a/1');
      expect(next.status).toBe(200);
    },
  );
});

test('a session lives on while it is used and ends when it is not', async () => {
  const ttlMs = 1_500;
  const lives = async (framework: Framework) => {
    const { browser, origin } = await serveOn(framework, { ttlMs });
    await browser.send('/set/a/1');
    const idle = new Browser(origin);
    await idle.send('/set/a/1');
    const begun = performance.now();
    let extended = 0;
    await until(async () => {
      extended += (await browser.send('/get/a')).setCookies.length;
      return performance.now() - begun > 2 * ttlMs;
    });
    // Not at every request: each would be a write.
    expect(extended).toBeGreaterThan(1);
    expect(extended).toBeLessThan(25);
    expect(await see(browser, 'a')).toEqual({ value: '1' });
    expect(await see(idle, 'a')).toEqual({});
  };
  await Promise.all(frameworks.map(lives));
});

/** @returns how many queries the pool has begun since */
function countQueries(): () => number {
  let count = 0;
  pool.on('acquire', () => count++);
  return () => count;
}

describe('the store', () => {
  test('keeps no id: a copy of the table opens no session', async () => {
    const sessions = createSessions<Data>({ pool });
    const session = await sessions.open(undefined);
    session.set('a', 1);
    await session.save();
    const header = sessions.setCookie(session, false)!;
    const id = decodeURIComponent(header.slice(4)).split('.')[0]!;
    const { rows } = await pool.query<{ id: Buffer }>('select id from banyan.sessions');
    expect(rows.some(row => row.id.equals(sessionKey(id)))).toBe(true);
    expect(rows.some(row => row.id.includes(id))).toBe(false);
  });

  test('many that start together make the table once', async () => {
    const url = await postgres.database();
    await Promise.all(
      Array.from({ length: 8 }, async (_, i) => {
        const store = new SessionStore(
          await postgres.pool({ connectionString: url, max: 1 }),
          1_000,
        );
        await store.create(Buffer.from([i]), undefined, {});
      }),
    );
  });

  test('sweep deletes what has expired, in portions, and nothing else; two at once share the work', async () => {
    const own = await postgres.pool();
    const store = new SessionStore(own, 60_000);
    await store.create(Buffer.from('alive'), undefined, {});
    await own.query(`insert into banyan.sessions (id, data, expires_at)
      select int4send(n), '{}', now() - interval '1 second' from generate_series(1, 2500) n`);
    const swept = await Promise.all([store.sweep(), store.sweep()]);
    expect(swept[0]! + swept[1]!).toBe(2500);
    expect((await own.query('select from banyan.sessions')).rowCount).toBe(1);
  });

  test('a database that was away when the first session came is used when it is back', async () => {
    const server = await TestPostgres.start();
    const away = await server.pool({ connectionString: server.url() });
    const store = new SessionStore(away, 60_000);
    await server.stop();
    await expect(store.load(Buffer.from('x'))).rejects.toThrow();
    await server.start();
    expect(await store.load(Buffer.from('x'))).toBeUndefined();
    await server.remove();
  });
});

test.each([
  { ttlMs: 0 },
  { ttlMs: Number.NaN },
  { ttlMs: Number.POSITIVE_INFINITY },
  { cookie: { name: 'my cookie' } },
  { cookie: { path: '/;x' } },
  { cookie: { domain: 'a b' } },
])('%j is refused at once, not at the first login', options => {
  expect(() => createSessions({ pool, ...options })).toThrow(InvalidSessionsOption);
});

describe('one request', () => {
  test('several updates and saves at a time are all kept', async () => {
    const sessions = createSessions<Data>({ pool });
    const session = await sessions.open(undefined);
    await Promise.all([
      session.update('a', () => 1),
      session.update('b', () => 2),
      session.save(),
      session.update('a', n => Number(n) + 1),
    ]);
    const cookie = sessions.setCookie(session, false)!.split(';')[0];
    const again = await sessions.open(cookie);
    expect([again.get('a'), again.get('b')]).toEqual([2, 2]);
  });

  test('a change that is made while a save is under way is written by the next', async () => {
    const sessions = createSessions<Data>({ pool });
    const session = await sessions.open(undefined);
    session.set('a', 1);
    const begun = new Promise(resolve => pool.once('acquire', resolve));
    const saving = session.save();
    await begun;
    session.set('b', 2);
    await saving;
    expect(session.needsSave).toBe(true);
    await session.save();
    const cookie = sessions.setCookie(session, false)!.split(';')[0];
    const again = await sessions.open(cookie);
    expect([again.get('a'), again.get('b')]).toEqual([1, 2]);
  });

  test('a logout while a save is under way leaves nothing behind', async () => {
    const sessions = createSessions<Data>({ pool });
    const session = await sessions.open(undefined);
    session.set('marker', 'leaves nothing');
    session.login('zoe');
    const saving = session.save();
    await Promise.resolve();
    session.logout();
    await saving;
    await session.save();
    expect((await pool.query(`select from banyan.sessions where user_id = 'zoe'`)).rowCount).toBe(
      0,
    );
  });
});
