/** One holder at a time, whatever happened to the last one. */
import { spawn } from 'node:child_process';
import { readdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { AlreadyRunning, lockHolder, takeLock } from '../../src/machines/lock.ts';
import { identify } from '../../src/machines/process-identity.ts';
import { temporaryFolder } from '../support/deployment.ts';

let folder: string;
let file: string;
beforeEach(() => {
  folder = temporaryFolder();
  file = path.join(folder, 'lock');
});
afterEach(() => rmSync(folder, { recursive: true }));

test('a lock that is held is refused with its holder; given back it is free', async () => {
  const release = await takeLock(file);
  await expect(takeLock(file)).rejects.toThrow(AlreadyRunning);
  await expect(takeLock(file)).rejects.toThrow(String(process.pid));
  expect((await lockHolder(file))?.pid).toBe(process.pid);
  release();
  expect(await lockHolder(file)).toBeUndefined();
  (await takeLock(file))();
  expect(readdirSync(folder)).toEqual([]);
});

test('the lock of a process that was killed is taken over', async () => {
  const child = spawn('sleep', ['60']);
  writeFileSync(file, JSON.stringify(await identify(child.pid!)));
  await expect(takeLock(file)).rejects.toThrow(AlreadyRunning);
  const gone = new Promise(resolve => child.once('exit', resolve));
  child.kill('SIGKILL');
  await gone;
  (await takeLock(file))();
});

test('another process with the same pid does not hold it: the start counts', async () => {
  const identity = await identify(process.pid);
  writeFileSync(file, JSON.stringify({ ...identity, started: 'another boot:1' }));
  (await takeLock(file))();
});

test.each(['', 'nonsense', '{}', '{"pid": "x"}'])('a damaged lock %j is taken over', async text => {
  writeFileSync(file, text);
  (await takeLock(file))();
});

test('of many that race for a stale lock exactly one wins', async () => {
  for (let round = 0; round < 20; round++) {
    writeFileSync(file, JSON.stringify({ pid: 2 ** 22 - 1, started: 'long ago' }));
    const results = await Promise.allSettled(Array.from({ length: 8 }, () => takeLock(file)));
    const winners = results.filter(result => result.status === 'fulfilled');
    expect(winners).toHaveLength(1);
    winners[0]!.value();
  }
});
