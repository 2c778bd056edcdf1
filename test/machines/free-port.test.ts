/** A race for a port that was lost is run again; nothing else is. */
import { createServer } from 'node:net';
import { expect, test } from 'vitest';
import { freePort, onFreePort } from '../../src/machines/free-port.ts';
import { PORT_LOST } from '../../src/machines/unit.ts';
import { UnitStartFailed } from '../../src/machines/unit-process.ts';

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
