/** Units as child processes: started when ready, in order, kept running, stopped with all that they started. */
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { LocalMachine, MachineStopped } from '../../src/machines/local.ts';
import type { EngineSupport, UnitSpec } from '../../src/machines/unit.ts';
import { UnitStartFailed } from '../../src/machines/unit-process.ts';
import { temporaryFolder } from '../support/deployment.ts';
import { nothingRuns, processesOf } from '../support/processes.ts';
import { until } from '../support/until.ts';

let folder: string;
let machine: LocalMachine;
beforeEach(() => {
  folder = temporaryFolder();
  machine = new LocalMachine({
    recordsFolder: path.join(folder, 'run'),
    logFolder: path.join(folder, 'logs'),
    logLimits: { maxFileMb: 1, keepFiles: 2 },
    engines: { file: fileEngine },
  });
});
afterEach(async () => {
  await machine.stopAll();
  await nothingRuns(folder, 2_000);
  rmSync(folder, { recursive: true });
});

/** Ready when the file of the unit's name is there. */
const fileEngine: EngineSupport = {
  probe: async ({ name }) =>
    readdirSync(folder).includes(`${name}.ready`)
      ? { ready: true }
      : { ready: false, reason: 'its file is not there' },
};

const state = async () => (await machine.states())[0]!;

function shell(name: string, script: string, more: Partial<UnitSpec> = {}): UnitSpec {
  return {
    name,
    tier: 'test',
    engine: 'file',
    rank: 1,
    probe: {},
    command: '/bin/sh',
    args: ['-c', script],
    cwd: folder,
    env: { PATH: process.env.PATH, FOLDER: folder },
    stop: { signal: 'SIGTERM', group: true, timeoutMs: 2_000 },
    startTimeoutMs: 5_000,
    ...more,
  };
}

const notes = () => readFileSync(path.join(folder, 'notes'), 'utf8').trim().split('\n');

test('units start each when the one before is ready, and stop in the reverse order', async () => {
  const script = (name: string) =>
    `trap 'echo stop ${name} >> notes; exit' TERM
     echo start ${name} >> notes; sleep 0.1; echo ready ${name} >> notes; touch ${name}.ready; while :; do sleep 0.05; done`;
  for (const name of ['a', 'b', 'c']) await machine.start(shell(name, script(name)));
  await machine.stopAll();
  expect(notes()).toEqual([
    ...['start a', 'ready a', 'start b', 'ready b', 'start c', 'ready c'],
    ...['stop c', 'stop b', 'stop a'],
  ]);
});

test('a unit that ends before it is ready fails the start with its last words', async () => {
  const start = machine.start(shell('a', 'echo the reason is this >&2; exit 3'));
  await expect(start).rejects.toThrow(UnitStartFailed);
  await expect(start).rejects.toThrow(/exit code 3.*the reason is this/s);
  expect(await machine.states()).toEqual([]);
});

test('a unit that is not ready in time fails the start, and nothing of it is left', async () => {
  const start = machine.start(shell('a', 'sleep 100 & sleep 100', { startTimeoutMs: 300 }));
  await expect(start).rejects.toThrow(/not ready after 0.3 s: its file is not there/);
  expect(processesOf(folder).filter(({ command }) => command.includes('sleep'))).toEqual([]);
});

test('a program that is not there is told', async () => {
  await expect(machine.start(shell('a', '', { command: '/no/such/program' }))).rejects.toThrow(
    /\/no\/such\/program.*ENOENT/s,
  );
});

test('what a unit started ends with it, even when it ignores the signal', async () => {
  await machine.start(
    shell('a', `(trap '' TERM; while :; do sleep 0.05; done) & touch a.ready; wait`, {
      stop: { signal: 'SIGTERM', group: true, timeoutMs: 300 },
    }),
  );
  await machine.stopAll();
  expect(processesOf(folder)).toEqual([]);
});

test('a unit that was stopped with SIGSTOP is stopped all the same', async () => {
  await machine.start(shell('a', 'touch a.ready; while :; do sleep 0.05; done'));
  process.kill((await state()).pid!, 'SIGSTOP');
  await machine.stopAll();
});

test('a unit that ends unasked is started again, with growing pauses, and says why', async () => {
  await machine.start(shell('a', 'touch a.ready; sleep 0.2; exit 7'));
  await until(async () => ((await state()).restarts >= 2 ? true : undefined), {
    what: 'two restarts',
  });
  const lines = machine.logs.recent(100, 'a').map(({ text }) => text);
  expect(lines).toContain('banyan: it ended with exit code 7; starting it again in 100 ms');
  expect(lines).toContain('banyan: it ended with exit code 7; starting it again in 200 ms');
});

test('after a stop nothing is started any more', async () => {
  await machine.stopAll();
  await expect(machine.start(shell('a', 'touch a.ready; sleep 9'))).rejects.toThrow(MachineStopped);
});

test('a stop while a unit waits for its restart is immediate', async () => {
  await machine.start(shell('a', 'touch a.ready; sleep 0.1; exit 1'));
  await until(
    async () => {
      const { restarts, phase } = await state();
      return restarts >= 3 && phase === 'waiting to restart' ? true : undefined;
    },
    { what: 'it waits' },
  );
  await machine.stopAll();
  expect((await state()).phase).toBe('stopped');
});

test('every line is in the file with its time, also the last without an end, and a character cut in two', async () => {
  writeFileSync(path.join(folder, 'text'), 'grüße\n');
  await machine.start(
    shell(
      'a',
      `echo one; echo two >&2; head -c 3 text; sleep 0.05; tail -c +4 text; printf last; touch a.ready; sleep 0.1; exec sleep 9`,
    ),
  );
  await machine.stopAll();
  const text = readFileSync(path.join(folder, 'logs', 'a.log'), 'utf8');
  const lines = text.trim().split('\n');
  for (const line of lines) expect(line).toMatch(/^\d{4}-\d\d-\d\dT[\d:.]+Z /);
  const words = lines.map(line => line.slice(line.indexOf(' ') + 1));
  expect(words.filter(word => !word.startsWith('banyan:')).sort()).toEqual(
    ['grüße', 'last', 'one', 'two'].sort(),
  );
});

test('logs are rotated by size, and only so many are kept', async () => {
  await machine.start(
    shell(
      'a',
      `i=0; while [ $i -lt 50 ]; do head -c 100000 /dev/zero | tr '\\0' x; echo; i=$((i+1)); done; touch a.ready; sleep 9`,
    ),
  );
  await machine.stopAll();
  const files = readdirSync(path.join(folder, 'logs')).filter(name => name.startsWith('a.log'));
  expect(files.sort()).toEqual(['a.log', 'a.log.1', 'a.log.2']);
});
