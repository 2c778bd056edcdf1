/** A race for a port that was lost is run again; nothing else is. */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import path from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { freePort, onFreePort } from '../../src/machines/free-port.ts';
import { PORT_LOST } from '../../src/machines/unit.ts';
import { UnitStartFailed } from '../../src/machines/unit-process.ts';
import { REPOSITORY } from '../support/deployment.ts';

const HOST = '127.0.0.1';

const failed = (diagnosis?: typeof PORT_LOST) =>
  new UnitStartFailed('some-1', 'it ended', [], 'some.log', diagnosis);

test('what says that it lost a port is started on others, also when the chosen one is free again', async () => {
  const tried: number[] = [];
  const won = await onFreePort(HOST, freePort, async port => {
    tried.push(port);
    if (tried.length < 3) throw failed(PORT_LOST);
    return port;
  });
  expect(won).toBe(tried[2]);
});

test('what says nothing of a port, while somebody has it, is started on another', async () => {
  const other = createServer();
  const tried: number[] = [];
  await onFreePort(HOST, freePort, async port => {
    tried.push(port);
    if (tried.length > 1) return;
    await new Promise<void>(resolve => other.listen(port, HOST, resolve));
    throw failed();
  });
  other.close();
  expect(tried).toHaveLength(2);
});

test('another reason is told at once, and a port that is lost each time in the end', async () => {
  let attempts = 0;
  const start = (error: Error) =>
    onFreePort(HOST, freePort, async () => {
      attempts++;
      throw error;
    });
  const reason = failed();
  await expect(start(reason)).rejects.toBe(reason);
  expect(attempts).toBe(1);
  const lost = failed(PORT_LOST);
  await expect(start(lost)).rejects.toBe(lost);
  expect(attempts).toBe(4);
});

test.runIf(process.platform === 'linux')(
  'none is one that the system gives to a connection that goes out',
  async () => {
    const ports = await Promise.all(Array.from({ length: 100 }, () => freePort()));
    const text = readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'utf8');
    const [first = 0, last = 0] = text.trim().split(/\s+/).map(Number);
    expect(ports.filter(port => port >= first && port <= last)).toEqual([]);
  },
);

test.runIf(process.platform === 'linux')(
  'two programs that choose many at the same time, and listen later, are never given the same',
  async () => {
    const module = path.join(REPOSITORY, 'src/machines/free-port.ts');
    const COUNT = 400;
    const text = `import { freePort } from ${JSON.stringify(module)};
      const ports = [];
      for (let i = 0; i < ${COUNT}; i++) ports.push(await freePort());
      console.log(JSON.stringify(ports));
      setInterval(() => {}, 1_000);`;
    const chosen = await Promise.all(
      [0, 1].map(
        () =>
          new Promise<number[]>(resolve => {
            const child = spawn(process.execPath, ['--input-type=module', '--eval', text]);
            onTestFinished(() => void child.kill());
            child.stdout.once('data', data => resolve(JSON.parse(String(data))));
          }),
      ),
    );
    expect(new Set(chosen.flat()).size).toBe(2 * COUNT);
  },
);
