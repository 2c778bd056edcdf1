/** `sticky: true`: a client stays on its server for as long as that lives. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ask } from '../../support/ask.ts';
import { balancedSite } from '../../support/balanced-app.ts';
import type { Site } from '../../support/deployment.ts';
import { until } from '../../support/until.ts';

let site: Site;
beforeAll(async () => {
  site = await balancedSite({ web: { servers: 2, sticky: true } });
  await site.up();
});
afterAll(() => site.remove());

/** As a browser: it keeps its cookie. */
class Client {
  cookie: string | undefined;

  async server(): Promise<string> {
    const headers: Record<string, string> = this.cookie ? { cookie: this.cookie } : {};
    const reply = await ask(`${site.address}/who`, { headers });
    expect(reply.status).toBe(200);
    const [set] = reply.headers['set-cookie'] ?? [];
    if (set) this.cookie = set.split(';')[0];
    return reply.text;
  }

  /** The one and only server that answers this client. */
  async staysOn(): Promise<string> {
    const seen = new Set<string>();
    for (let i = 0; i < 20; i++) seen.add(await this.server());
    expect([...seen]).toHaveLength(1);
    return [...seen][0]!;
  }
}

/** New clients, until one of them is on that server. */
const clientOn = (server: string) =>
  until(
    async () => {
      const client = new Client();
      return (await client.server()) === server ? client : undefined;
    },
    { what: `a client is sent to ${server}` },
  );

test('the cookie is out of reach of scripts, and tells nothing of the server', async () => {
  const reply = await ask(`${site.address}/cacheable`);
  const [cookie = ''] = reply.headers['set-cookie'] ?? [];
  expect(cookie).toMatch(/^BANYAN_SERVER=[0-9a-f]{16}; path=\/; HttpOnly; SameSite=Lax$/);
  // An answer for one client must not be kept for others by a cache in between.
  expect(reply.headers['cache-control']).toContain('private');
});

test('a client stays on its server, also after another has joined and on the one that joined', async () => {
  const [one, other] = await Promise.all([clientOn('web-1'), clientOn('web-2')]);
  expect(await one.staysOn()).toBe('web-1');
  expect(await other.staysOn()).toBe('web-2');

  await site.ok('scale', 'web=3');
  expect(await one.staysOn()).toBe('web-1');
  expect(await other.staysOn()).toBe('web-2');
  expect(await (await clientOn('web-3')).staysOn()).toBe('web-3');
});

test('a reload of the balancer moves nobody', async () => {
  const client = await clientOn('web-3');
  process.kill(await site.pidOf('balancer-1'), 'SIGUSR2');
  expect(await client.staysOn()).toBe('web-3');
});

test('when its server dies or leaves, a client is served by another and stays there', async () => {
  const client = await clientOn('web-3');
  process.kill(await site.pidOf('web-3'), 'SIGKILL');
  const next = await client.server();
  expect(next).not.toBe('web-3');
  expect(await client.staysOn()).toBe(next);

  const third = await clientOn('web-3');
  await site.ok('scale', 'web=2');
  expect(await third.server()).not.toBe('web-3');
  await third.staysOn();
});
