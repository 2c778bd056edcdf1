/** Each HTTP request is a scope of its own under every framework, and a browser's session carries its token. */
import { Agent, request as httpRequest } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { currentRequest } from '../../../../src/app/database/consistency/scope.ts';
import {
  type Mark,
  parseMarks,
  renderMarks,
} from '../../../../src/app/database/consistency/session-token.ts';
import type { Pool } from '../../../../src/app/database/pool.ts';
import { createSessions } from '../../../../src/app/sessions/sessions.ts';
import { log } from '../../../../src/app/telemetry/log.ts';
import { Cluster } from '../../../support/cluster.ts';
import type { Listening } from '../../../support/listen.ts';
import { RoutedPools, routerOf, serverOf } from '../../../support/routed.ts';
import { Browser, type Data, FRAMEWORKS, type Framework } from '../../../support/session-app.ts';
import { until } from '../../../support/until.ts';

log.level = 'silent';

let cluster: Cluster;
let pools: RoutedPools;
/** Each stands for a process: what one knows the other does not. */
let here: Pool;
let there: Pool;

beforeAll(async () => {
  cluster = await Cluster.start({ standbys: 2 });
  pools = new RoutedPools(cluster);
  await pools.publish();
  await cluster.primary.ask(
    `create table notes (id int primary key, version int not null); insert into notes values (1, 0)`,
  );
  await pools.prepare();
  [here, there] = [await pools.reading(), await pools.reading()];
});
afterAll(async () => {
  await cluster?.remove();
});

const numbers = new WeakMap<object, number>();
let count = 0;
function numberOfRequest(): number {
  const scopes = currentRequest();
  if (!scopes) return 0;
  if (!numbers.has(scopes)) numbers.set(scopes, ++count);
  return numbers.get(scopes)!;
}

function serve(framework: Framework, pool: Pool): Promise<Listening> {
  return FRAMEWORKS[framework](createSessions<Data>({ pool }), async (url, session) => {
    if (url.pathname === '/who') {
      const before = numberOfRequest();
      await delay(1);
      await serverOf(pool);
      return { body: `${before} ${numberOfRequest()}` };
    }
    if (url.pathname === '/write') {
      session.set('wrote', true);
      await pool.query('update notes set version = $1 where id = 1', [
        Number(url.searchParams.get('version')),
      ]);
      return { body: 'written' };
    }
    const { rows } = await pool.query('select version, whereami() as server from notes');
    return { body: `${rows[0].version} ${rows[0].server}` };
  });
}

const agent = new Agent({ keepAlive: true, maxSockets: 1 });
async function getKeptAlive(origin: string): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  httpRequest(`${origin}/who`, { agent }, async response => {
    const chunks: string[] = [];
    for await (const chunk of response) chunks.push(String(chunk));
    resolve(chunks.join(''));
  })
    .on('error', reject)
    .end();
  return promise;
}

describe.each(Object.keys(FRAMEWORKS) as Framework[])('%s', framework => {
  test('every request has a scope of its own, on a kept connection too, and keeps it while it waits', async () => {
    const server = await serve(framework, here);
    const answers: string[] = [];
    for (let i = 0; i < 3; i++) answers.push(await getKeptAlive(server.origin));
    answers.push(
      ...(await Promise.all([getKeptAlive(server.origin), getKeptAlive(server.origin)])),
    );
    await server.close();
    for (const answer of answers) {
      const [before, after] = answer.split(' ');
      expect(before).toBe(after);
      expect(Number(before)).toBeGreaterThan(0);
    }
    expect(new Set(answers).size).toBe(5);
    expect(numberOfRequest()).toBe(0);
  });

  test('what a browser wrote in one process it sees in the other, though a replica stands still', async () => {
    const [one, two] = [await serve(framework, here), await serve(framework, there)];
    const browser = new Browser(one.origin);
    await cluster.standbys[0]!.pauseReplay();
    try {
      for (let version = 1; version <= 20; version++) {
        await browser.send(`/write?version=${version}`);
        const elsewhere = new Browser(two.origin, browser.cookies);
        const [seen] = (await elsewhere.send('/read')).text.split(' ');
        expect(Number(seen)).toBe(version);
        // Without any cookie as well.
        expect((await new Browser(two.origin).send('/read')).text).toMatch(`${version} `);
      }
      const cookie = browser.cookies.get('sid-seen')!;
      const [[name, { position }]] = [...parseMarks(decodeURIComponent(cookie))!] as [
        [string, Mark],
      ];
      expect(position.lsn).toBeGreaterThan(0n);

      // Old enough to count by itself: read from the replica that has got there.
      const writtenAt = Date.now() - 11_000;
      const old = renderMarks(new Map([[name, { position, writtenAt }]]));
      const later = new Browser(two.origin, [...browser.cookies, ['sid-seen', old]]);
      await until(async () => (await later.send('/read')).text === '20 member-2');
      // On another timeline it proves nothing, and the answer is right all the same.
      const elsewhere = { timeline: 1, lsn: position.lsn + 2n ** 40n };
      const foreign = renderMarks(new Map([[name, { position: elsewhere, writtenAt }]]));
      const ahead = new Browser(two.origin, [...browser.cookies, ['sid-seen', foreign]]);
      expect((await ahead.send('/read')).text).toBe(`20 ${cluster.primary.name}`);
    } finally {
      await cluster.standbys[0]!.resumeReplay();
      await Promise.all([one.close(), two.close()]);
    }
  });
});

test('a response that wrote nothing has no token; one that wrote is private', async () => {
  const server = await serve('Hono', here);
  const browser = new Browser(server.origin);
  expect((await browser.send('/read')).setCookies).toEqual([]);
  const { setCookies, headers } = await browser.send('/write?version=1');
  expect(setCookies.map(cookie => cookie.split('=')[0]).toSorted()).toEqual(['sid', 'sid-seen']);
  expect(headers.get('cache-control')).toContain('private');
  await server.close();
});

test('a token that is not ours is nothing', () => {
  const marks = new Map([
    ['1', { position: { timeline: 3, lsn: 2n ** 60n + 1n }, writtenAt: 1_700_000_000_001 }],
    ['shard-2', { position: { timeline: 1, lsn: 5n }, writtenAt: 1_700_000_000_000 }],
  ]);
  const token = renderMarks(marks);
  expect(parseMarks(token)).toEqual(marks);
  const last = token.at(-1) === 'A' ? 'B' : 'A';
  for (const wrong of ['', '.', 'a.b.c.d', `1${token}`, token.slice(0, -1) + last]) {
    expect(parseMarks(wrong)).toBeUndefined();
  }
});

test('without replicas nothing is watched and no token is set', async () => {
  const alone = new RoutedPools(cluster);
  await alone.publish([cluster.primary]);
  const pool = alone.pool();
  const server = await serve('Express', pool);
  const { setCookies } = await new Browser(server.origin).send('/write?version=1');
  expect(setCookies.map(cookie => cookie.split('=')[0])).toEqual(['sid']);
  await server.close();
  expect(() => routerOf(pool)).toThrow('no replicas');
});
