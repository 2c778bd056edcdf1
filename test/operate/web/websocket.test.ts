/** WebSockets go through the balancer, and get their time when their server leaves. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { HaproxyRuntime } from '../../../src/engines/haproxy-runtime.ts';
import { balancedSite, configure } from '../../support/balanced-app.ts';
import type { Site } from '../../support/deployment.ts';
import { until } from '../../support/until.ts';

let site: Site;
const open: WebSocket[] = [];
beforeEach(async () => {
  // Far longer than a test: whoever waits for the time instead of for the client does not pass.
  site = await balancedSite({ web: { servers: 2, drainTimeoutMs: 600_000 } });
  await site.up();
});
afterEach(async () => {
  for (const socket of open.splice(0)) socket.close();
  await site.remove();
});

async function connect(): Promise<WebSocket> {
  const socket = new WebSocket(site.address.replace('http', 'ws'));
  await new Promise((resolve, reject) => {
    socket.onopen = resolve;
    socket.onerror = () => reject(new Error('the WebSocket was not opened'));
  });
  open.push(socket);
  return socket;
}

/** @returns the server that answered */
async function say(socket: WebSocket, text: string): Promise<string> {
  const answer = new Promise<string>((resolve, reject) => {
    socket.onmessage = event => resolve(String(event.data));
    socket.onclose = () => reject(new Error('the WebSocket was closed'));
  });
  socket.send(text);
  const [unit, said] = (await answer).split(' ');
  expect(said).toBe(text);
  return unit!;
}

/** One on each server. */
async function connectToBoth(): Promise<Map<string, WebSocket>> {
  const sockets = new Map<string, WebSocket>();
  for (let i = 0; i < 2; i++) {
    const socket = await connect();
    sockets.set(await say(socket, 'hello'), socket);
  }
  expect(sockets.size).toBe(2);
  return sockets;
}

/** The server that gets no new requests any more. */
const leaving = () =>
  until(
    async () => {
      const runtime = new HaproxyRuntime(site.paths.socketFor('balancer-1'));
      return (await runtime.statistics()).servers.find(({ status }) => status.startsWith('MAINT'))
        ?.name;
    },
    { what: 'a server is drained' },
  );

test('on scale down a WebSocket lives on until its client leaves, and scale waits for it', async () => {
  const sockets = await connectToBoth();
  let ended = false;
  const scaling = site.banyan(['scale', 'web=1']).finally(() => {
    ended = true;
  });
  const name = await leaving();
  const socket = sockets.get(name)!;
  for (let i = 0; i < 20; i++) expect(await say(socket, `number${i}`)).toBe(name);
  // New ones go to the server that stays.
  expect(await say(await connect(), 'new')).not.toBe(name);
  expect(ended).toBe(false);
  socket.close();
  expect(await scaling).toMatchObject({ code: 0 });
  for (const [unit, other] of sockets) {
    if (unit !== name) expect(await say(other, 'still')).toBe(unit);
  }
});

test('a WebSocket whose client does not leave is closed when the drain time is over', async () => {
  await configure(site, { web: { servers: 2, drainTimeoutMs: 500 } });
  await site.ok('apply', '--yes');
  const sockets = await connectToBoth();
  const scaling = site.banyan(['scale', 'web=1']);
  const name = await leaving();
  const closed = new Promise(resolve => {
    sockets.get(name)!.onclose = resolve;
  });
  expect(await scaling).toMatchObject({ code: 0 });
  await closed;
});
