import { type ChildProcess, spawn } from 'node:child_process';
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { createPool } from '../../../src/app/database/pool.ts';
import {
  type Lifecycle,
  type LifecycleOptions,
  lifecycle,
} from '../../../src/app/lifecycle/lifecycle.ts';
import { log } from '../../../src/app/telemetry/log.ts';
import { requestContext } from '../../../src/app/telemetry/request-context.ts';
import { type Listening, listen, RawConnection } from '../../support/listen.ts';
import { TestPostgres } from '../../support/postgres.ts';
import { until } from '../../support/until.ts';

log.level = 'silent';

interface Started extends Listening {
  life: Lifecycle;
}

const started: Started[] = [];
afterEach(async () => {
  for (const server of started.splice(0)) {
    await server.close();
    await server.life.shutdown();
  }
});

async function start(listener: RequestListener, options: LifecycleOptions = {}): Promise<Started> {
  const listening = await listen(listener);
  const server = { ...listening, life: lifecycle(listening.server, options) };
  started.push(server);
  return server;
}

/** A listener whose requests wait until they are let go. */
function gate() {
  const waiting: { req: IncomingMessage; res: ServerResponse }[] = [];
  return {
    listener: (req: IncomingMessage, res: ServerResponse) => void waiting.push({ req, res }),
    arrived: (count: number) => until(() => waiting.length >= count, { what: 'requests arrive' }),
    open: () => {
      for (const { res } of waiting.splice(0)) res.end('done');
    },
  };
}

const fails = (work: Promise<unknown>): Promise<boolean> =>
  work.then(
    () => false,
    () => true,
  );

async function ready(origin: string) {
  const response = await fetch(`${origin}/readyz`);
  return { status: response.status, ...((await response.json()) as object) };
}

describe('health and readiness', () => {
  const hello: RequestListener = (_req, res) => res.end('hello');

  test('are answered in front of the application, everything else is not', async () => {
    const { origin } = await start(hello);
    const health = await fetch(`${origin}/healthz?x=1`);
    expect([health.status, await health.json()]).toEqual([200, { healthy: true }]);
    expect(health.headers.get('cache-control')).toBe('no-store');
    expect((await fetch(`${origin}/readyz`, { method: 'HEAD' })).status).toBe(200);
    expect(await (await fetch(`${origin}/healthz`, { method: 'POST' })).text()).toBe('hello');
    expect(await (await fetch(`${origin}/healthz/x`)).text()).toBe('hello');
  });

  test('not ready while starting, ready afterwards; healthy all the time', async () => {
    const starting = Promise.withResolvers<void>();
    const { origin } = await start(hello, { startUp: starting.promise });
    expect(await ready(origin)).toEqual({
      status: 503,
      ready: false,
      phase: 'starting',
      checks: {},
    });
    expect((await fetch(`${origin}/healthz`)).status).toBe(200);
    starting.resolve();
    await until(async () => (await ready(origin)).status === 200);
  });

  test('not ready while a check fails, with the reason; ready when it works again', async () => {
    let problem: Error | undefined = new Error('the model is not loaded');
    const { origin } = await start(hello, {
      checks: {
        model: async () => {
          if (problem) throw problem;
        },
      },
    });
    expect(await ready(origin)).toMatchObject({
      status: 503,
      checks: { model: 'the model is not loaded' },
    });
    problem = undefined;
    expect(await ready(origin)).toMatchObject({ status: 200, checks: { model: 'ok' } });
  });

  test('not ready while draining', async () => {
    const { listener, arrived, open } = gate();
    const { origin, port, life } = await start(listener);
    const probe = await new RawConnection(port).opened();
    const slow = fetch(origin);
    await arrived(1);
    const done = life.shutdown();
    probe.send('GET /readyz HTTP/1.1', 'Host: x');
    await until(() => probe.text.includes('"draining"'));
    expect(probe.text).toMatch(/^HTTP\/1.1 503 /);
    open();
    expect(await (await slow).text()).toBe('done');
    await done;
  });
});

describe('readiness and the database', () => {
  let postgres: TestPostgres;
  beforeAll(async () => {
    postgres = await TestPostgres.start();
  });
  afterAll(() => postgres.remove());

  test.each(['stop', 'kill'] as const)(
    'not ready without the database (%s), ready when it is back; healthy all the time',
    async how => {
      const pool = createPool({ connectionString: postgres.url() });
      const { origin } = await start((_req, res) => res.end(), { pool });
      expect(await ready(origin)).toMatchObject({ status: 200, checks: { database: 'ok' } });
      await postgres[how]();
      // A query that succeeded within the last second would do; a backend that is orphaned dies first.
      await until(async () => (await ready(origin)).status === 503);
      expect((await fetch(`${origin}/healthz`)).status).toBe(200);
      await postgres.start();
      await until(async () => (await ready(origin)).status === 200);
    },
  );

  test('a broken connection that is given back as if it were whole makes nothing ready', async () => {
    const pool = createPool({ connectionString: postgres.url() });
    const { origin } = await start((_req, res) => res.end(), { pool });
    const client = await pool.connect();
    await client.query('begin');
    await postgres.kill();
    await until(() => fails(client.query('select 1')));
    client.release();
    const seen = await ready(origin);
    await postgres.start();
    expect(seen).toMatchObject({ status: 503 });
  });

  test('a pool whose clients are all busy is not broken, and is asked once for many probes', async () => {
    const pool = createPool({ connectionString: postgres.url(), max: 1 });
    const { origin } = await start((_req, res) => res.end(), { pool });
    const client = await pool.connect();
    const probes = [ready(origin), ready(origin), ready(origin)];
    await until(() => pool.waitingCount > 0);
    await until(async () => (await fetch(`${origin}/healthz`)).ok);
    expect(pool.waitingCount).toBe(1);
    client.release();
    expect(await Promise.all(probes)).toMatchObject(Array(3).fill({ status: 200 }));
  });

  test('a request that is cut off in the middle of a query does not hold the shutdown up', async () => {
    const pool = postgres.adopt(createPool({ connectionString: postgres.url() }));
    const { origin, life } = await start(
      (_req, res) => {
        pool.query('select pg_sleep(600)').then(
          () => res.end(),
          () => res.destroy(),
        );
      },
      { pool, drainTimeoutMs: 50 },
    );
    const slow = fetch(origin).then(
      () => 'answered',
      () => 'cut off',
    );
    const watcher = await postgres.pool();
    const sleeping = `from pg_stat_activity where query like 'select pg_sleep(600)%' and pid <> pg_backend_pid()`;
    await until(async () => (await watcher.query(`select ${sleeping}`)).rowCount === 1);
    await life.shutdown();
    expect(await slow).toBe('cut off');
    await watcher.query(`select pg_terminate_backend(pid) ${sleeping}`);
  });
});

describe('draining', () => {
  test('finishes requests in flight, tells connections to close, refuses new ones', async () => {
    const { listener, arrived, open } = gate();
    const { origin, port, life } = await start(listener);
    const kept = await new RawConnection(port).opened();
    kept.send('GET /1 HTTP/1.1', 'Host: x');
    await arrived(1);
    const done = life.shutdown();
    await until(() => fails(fetch(origin)), { what: 'new ones are refused' });
    open();
    await until(() => kept.text.includes('done'));
    await kept.closed;
    await done;
    expect(life.phase).toBe('draining');
  });

  test('a request on an open connection is still served, with Connection: close', async () => {
    const { listener, arrived, open } = gate();
    const { origin, port, life } = await start(listener);
    const slow = fetch(origin);
    await arrived(1);
    const kept = await new RawConnection(port).opened();
    kept.send('GET /healthz HTTP/1.1', 'Host: x');
    await until(() => kept.text.includes('healthy'));
    expect(kept.text).not.toMatch(/^connection: close/im);
    const done = life.shutdown();
    kept.send('GET /late HTTP/1.1', 'Host: x');
    await arrived(2);
    open();
    await kept.closed;
    expect(kept.text).toMatch(/connection: close[\s\S]*done/i);
    expect(await (await slow).text()).toBe('done');
    await done;
  });

  test('a response that is on its way to a slow reader arrives to its last byte', async () => {
    const body = Buffer.alloc(30_000_000, 'x');
    const ended = Promise.withResolvers<void>();
    const { port, life } = await start((_req, res) => {
      res.end(body);
      ended.resolve();
    });
    const reader = await new RawConnection(port).opened();
    reader.socket.pause();
    reader.send('GET / HTTP/1.1', 'Host: x', 'Connection: close');
    await ended.promise;
    const done = life.shutdown();
    reader.socket.resume();
    await reader.closed;
    expect(reader.byteCount).toBeGreaterThan(body.length);
    await done;
  });

  test('a connection whose response was begun before is closed after its end', async () => {
    let response: ServerResponse | undefined;
    const { port, life } = await start(
      (_req, res) => {
        res.writeHead(200, { 'content-length': '8' });
        res.write('half');
        response = res;
      },
      { drainTimeoutMs: 60_000 },
    );
    const kept = await new RawConnection(port).opened();
    kept.send('GET / HTTP/1.1', 'Host: x');
    await until(() => kept.text.endsWith('half'));
    expect(kept.text).not.toMatch(/^connection: close/im);
    const done = life.shutdown();
    response!.end('full');
    await kept.closed;
    expect(kept.text).toMatch(/halffull$/);
    await done;
  });

  test('cuts off what is not done in time', async () => {
    const { listener, arrived } = gate();
    const { origin, life } = await start(listener, { drainTimeoutMs: 20 });
    const slow = fetch(origin).then(
      () => 'answered',
      () => 'cut off',
    );
    await arrived(1);
    await life.shutdown();
    expect(await slow).toBe('cut off');
  });

  test('does not wait for a connection that has sent nothing', async () => {
    const { port, life } = await start((_req, res) => res.end(), { drainTimeoutMs: 60_000 });
    const silent = await new RawConnection(port).opened();
    await life.shutdown();
    await silent.closed;
  });

  test('goes on serving for drainDelayMs while it says that it is not ready', async () => {
    const { origin, life } = await start((_req, res) => res.end('served'), { drainDelayMs: 1_500 });
    const done = life.shutdown();
    expect(await ready(origin)).toMatchObject({ status: 503, phase: 'draining' });
    expect(await (await fetch(origin)).text()).toBe('served');
    await done;
    await expect(fetch(origin)).rejects.toThrow();
  });

  test('onShutdown runs when requests are done and WebSockets are there to be told; then they are cut', async () => {
    const events: string[] = [];
    const { port, server, life } = await start((_req, res) => res.end(), {
      drainTimeoutMs: 60_000,
      onShutdown: () => {
        events.push('onShutdown');
      },
    });
    server.on('upgrade', (_req, socket) => {
      socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n');
      socket.on('close', () => events.push('closed'));
    });
    const upgraded = await new RawConnection(port).opened();
    upgraded.send('GET / HTTP/1.1', 'Host: x', 'Connection: Upgrade', 'Upgrade: x');
    await until(() => upgraded.text.includes('101'));
    await life.shutdown();
    await upgraded.closed;
    await until(() => events.length === 2);
    expect(events).toEqual(['onShutdown', 'closed']);
  });

  test('a failing onShutdown fails the shutdown; a second call gets the same', async () => {
    const listening = await listen((_req, res) => res.end());
    const life = lifecycle(listening.server, {
      onShutdown: () => {
        throw new Error('could not flush');
      },
    });
    await expect(life.shutdown()).rejects.toThrow('could not flush');
    await expect(life.shutdown()).rejects.toThrow('could not flush');
  });

  test('leaves no listener for signals behind', async () => {
    const before = process.listenerCount('SIGTERM');
    const one = await start((_req, res) => res.end());
    const two = await start((_req, res) => res.end());
    expect(process.listenerCount('SIGTERM')).toBe(before + 1);
    await Promise.all([one.life.shutdown(), two.life.shutdown()]);
    expect(process.listenerCount('SIGTERM')).toBe(before);
  });
});

describe('connections that are kept open', () => {
  test('outlive those of a balancer, so that no request meets a close; one’s own time is left', async () => {
    const { server } = await start((_req, res) => res.end());
    expect(server.keepAliveTimeout).toBeGreaterThan(60_000);
    const listening = await listen((_req, res) => res.end());
    const { server: other } = listening;
    other.keepAliveTimeout = 1_234;
    started.push({ ...listening, life: lifecycle(other) });
    expect(other.keepAliveTimeout).toBe(1_234);
  });
});

describe('requests', () => {
  const echo: RequestListener = (_req, res) => {
    setImmediate(() => res.end(requestContext()?.requestId));
  };

  test('have an id: the one that was given, in the response and in async code', async () => {
    const { origin } = await start(echo);
    const response = await fetch(origin, { headers: { 'x-request-id': 'edge-1/abc.DEF:9=' } });
    expect(response.headers.get('x-request-id')).toBe('edge-1/abc.DEF:9=');
    expect(await response.text()).toBe('edge-1/abc.DEF:9=');
  });

  test.each(['', 'with space', '{"json":1}', 'x'.repeat(129), 'ünï'])(
    'get a new id when the given one is malformed: %j',
    async given => {
      const { port } = await start(echo);
      const client = await new RawConnection(port).opened();
      client.send('GET / HTTP/1.1', 'Host: x', 'Connection: close', `X-Request-Id: ${given}`);
      await client.closed;
      expect(client.text).toMatch(/^x-request-id: [0-9a-f]{8}-[0-9a-f-]{27}\r$/m);
    },
  );

  test('of different clients do not share an id', async () => {
    const { origin } = await start(echo);
    const ids = await Promise.all(
      Array.from({ length: 20 }, async () => (await fetch(origin)).text()),
    );
    expect(new Set(ids).size).toBe(20);
  });

  test('a listener that is put on the server later is served too', async () => {
    const { server, origin } = await start(() => {});
    server.removeAllListeners('request');
    server.on('request', (_req, res) => res.end('later'));
    expect(await (await fetch(origin)).text()).toBe('later');
    expect((await fetch(`${origin}/healthz`)).status).toBe(200);
  });

  test('a plain request that offers an upgrade gets its answer', async () => {
    const { port } = await start((_req, res) => res.end('plain'));
    const client = await new RawConnection(port).opened();
    client.send('GET / HTTP/1.1', 'Host: x', 'Connection: Upgrade, close', 'Upgrade: h2c');
    await until(() => client.text.includes('plain'));
    client.socket.destroy();
  });
});

describe('the process', () => {
  const LIFECYCLE = new URL('../../../src/app/lifecycle/lifecycle.ts', import.meta.url).href;
  const children: ChildProcess[] = [];
  afterEach(() => {
    for (const child of children.splice(0)) child.kill('SIGKILL');
  });

  /** A server process that answers after a while; it prints the port of each of its servers. */
  async function run(servers: number, options = '{}') {
    const script = `
      import { createServer } from 'node:http';
      import { lifecycle } from ${JSON.stringify(LIFECYCLE)};
      for (let i = 0; i < ${servers}; i++) {
        const server = createServer((req, res) => {
          console.log('request');
          process.stdin.once('data', () => res.end('finished'));
        });
        lifecycle(server, ${options});
        server.listen(0, '127.0.0.1', () => console.log('port ' + server.address().port));
      }`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    children.push(child);
    let output = '';
    child.stdout.on('data', chunk => {
      output += chunk;
    });
    const exited = new Promise<string>(resolve => {
      child.once('exit', (code, signal) => resolve(signal ?? `code ${code}`));
    });
    const ports = await until(() => {
      const found = [...output.matchAll(/port (\d+)/g)].map(match => Number(match[1]));
      return found.length === servers && found;
    });
    return { child, ports, exited, output: () => output };
  }

  test.each(['SIGTERM', 'SIGINT'] as const)(
    '%s: the request in flight is finished, also when the signal comes again, and the exit code is 0',
    async signal => {
      const { child, ports, exited, output } = await run(1);
      const slow = fetch(`http://127.0.0.1:${ports[0]}`);
      await until(() => output().includes('request'));
      child.kill(signal);
      await until(() => fails(fetch(`http://127.0.0.1:${ports[0]}/healthz`)));
      // A shell that passes it on, npm that passes it on.
      child.kill(signal);
      child.kill(signal === 'SIGTERM' ? 'SIGINT' : 'SIGTERM');
      child.stdin!.write('go\n');
      expect(await (await slow).text()).toBe('finished');
      expect(await exited).toBe('code 0');
    },
  );

  test('with two servers waits for the requests of both', async () => {
    const { child, ports, exited, output } = await run(2);
    const slow = fetch(`http://127.0.0.1:${ports[1]}`);
    await until(() => output().includes('request'));
    child.kill('SIGTERM');
    await until(() => fails(fetch(`http://127.0.0.1:${ports[0]}/healthz`)));
    child.stdin!.write('go\n');
    expect(await (await slow).text()).toBe('finished');
    expect(await exited).toBe('code 0');
  });

  test('ends with 1 and the reason when the application cannot start up', async () => {
    const { exited, output } = await run(
      1,
      `{ startUp: new Promise((_, no) => setTimeout(no, 300, new Error('no licence'))) }`,
    );
    expect(await exited).toBe('code 1');
    expect(output()).toContain('no licence');
  });
});
