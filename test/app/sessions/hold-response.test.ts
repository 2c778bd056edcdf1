/** What Express applications and other middleware do to a response goes on working while it is held back. */
import type { RequestListener, ServerResponse } from 'node:http';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import { afterEach, expect, test } from 'vitest';
import { holdResponse } from '../../../src/app/sessions/hold-response.ts';
import { type Listening, listen, RawConnection } from '../../support/listen.ts';
import { until } from '../../support/until.ts';

const closing: Listening[] = [];
afterEach(async () => {
  for (const listening of closing.splice(0)) await listening.close();
});

/** A server whose responses are held until the test lets them go, or fails them. */
async function hold(application: (res: ServerResponse) => unknown) {
  const work = Promise.withResolvers<void>();
  // It may fail before anyone waits for it.
  work.promise.catch(() => {});
  const state = { needed: true, runs: 0, failures: 0 };
  const listener: RequestListener = (_req, res) => {
    holdResponse(res, {
      isNeeded: () => state.needed,
      run: async () => {
        state.runs++;
        await work.promise;
        state.needed = false;
      },
      beforeHeaders: () => {
        res.appendHeader('set-cookie', 'held=1');
      },
      onFailure: () => {
        state.failures++;
      },
    });
    application(res);
  };
  const listening = await listen(listener);
  closing.push(listening);
  return { ...listening, state, release: work.resolve, fail: () => work.reject(new Error('no')) };
}

test('the application sees headers as sent, while nothing has left', async () => {
  let seen: unknown[] = [];
  const { port, release, state } = await hold(res => {
    res.writeHead(201, 'Made', ['X-A', '1', 'X-A', '2', 'Set-Cookie', 'own=1']);
    res.write('one ');
    res.end('two');
    seen = [res.headersSent, res.statusCode];
  });
  const client = await new RawConnection(port).opened();
  client.send('GET / HTTP/1.1', 'Host: x', 'Connection: close');
  await until(() => state.runs === 1);
  expect(seen).toEqual([true, 201]);
  expect(client.text).toBe('');
  release();
  await client.closed;
  expect(client.text).toMatch(/^HTTP\/1.1 201 Made\r\n/);
  expect(client.text.match(/^X-A: \d/gim)).toEqual(['X-A: 1', 'X-A: 2']);
  expect(client.text.match(/^set-cookie: .*(?=\r)/gim)).toHaveLength(2);
  expect(client.text).toContain('one ');
});

test('a large stream is not kept in memory: the source is told to wait, and goes on afterwards', async () => {
  let produced = 0;
  const chunk = 'x'.repeat(64 * 1024);
  const { origin, release, state } = await hold(res =>
    Readable.from(
      (function* () {
        for (; produced < 200; produced++) yield chunk;
      })(),
    ).pipe(res),
  );
  const response = fetch(origin).then(answer => answer.text());
  await until(() => state.runs === 1);
  expect(produced).toBeLessThan(50);
  release();
  expect((await response).length).toBe(200 * chunk.length);
});

test('middleware that wraps the response afterwards, as compression does, stays in force', async () => {
  const { origin, release } = await hold(res => {
    const gzip = createGzip();
    const { write, end } = res;
    res.setHeader('content-encoding', 'gzip');
    gzip.on('data', chunk => write.call(res, chunk, 'utf8'));
    gzip.on('end', () => end.call(res, undefined, 'utf8'));
    res.write = ((data: string) => gzip.write(data)) as typeof res.write;
    res.end = ((data: string) => {
      gzip.end(data);
      return res;
    }) as typeof res.end;
    res.write('one ');
    setImmediate(() => res.end('two'));
  });
  release();
  expect(await (await fetch(origin)).text()).toBe('one two');
});

test('what a stream changes in its middle is done before its end', async () => {
  const { origin, release, state } = await hold(async res => {
    state.needed = false;
    res.write('one ');
    state.needed = true;
    res.end('two');
  });
  release();
  expect(await (await fetch(origin)).text()).toBe('one two');
  expect(state.runs).toBe(1);
});

test('a failure becomes a 500, whatever the application goes on to write', async () => {
  let outcome = '';
  const { origin, fail, state } = await hold(res => {
    res.setHeader('x-request-id', 'r-1');
    res.setHeader('location', '/promised');
    res.writeHead(302, { 'set-cookie': 'own=1' });
    pipeline(Readable.from(['a'.repeat(100_000), 'b']), res).then(
      () => {
        outcome = 'done';
      },
      () => {
        outcome = 'failed';
      },
    );
  });
  fail();
  const response = await fetch(origin, { redirect: 'manual' });
  expect(response.status).toBe(500);
  expect(response.headers.get('location')).toBeNull();
  expect(response.headers.getSetCookie()).toEqual([]);
  expect(response.headers.get('x-request-id')).toBe('r-1');
  expect(await response.text()).toContain('could not be stored');
  await until(() => outcome !== '', { what: 'the writer is not left waiting' });
  expect(state.failures).toBe(1);
});

test('a failure at the end of a stream that has begun cuts it off: it does not look complete', async () => {
  const { origin, fail, state } = await hold(async res => {
    state.needed = false;
    res.write('one ');
    state.needed = true;
    res.end('two');
  });
  fail();
  const response = await fetch(origin);
  await expect(response.text()).rejects.toThrow();
  expect(state.failures).toBe(1);
});

test('a browser that goes away while the response is held does no harm', async () => {
  const gone = Promise.withResolvers<void>();
  const { origin, port, release, state } = await hold(res => {
    res.once('close', gone.resolve);
    res.write('x'.repeat(100_000));
    res.end('y');
  });
  const client = await new RawConnection(port).opened();
  client.send('GET / HTTP/1.1', 'Host: x');
  await until(() => state.runs === 1);
  client.socket.destroy();
  await gone.promise;
  release();
  state.needed = false;
  expect((await fetch(origin)).status).toBe(200);
});
