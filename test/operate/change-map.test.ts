/** Who changes the runtime map puts nothing back that another has changed, in this process or in others, however they interleave. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { globSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { publishRuntimeMap, readRuntimeMap } from '../../src/map/map-file.ts';
import { changeMap } from '../../src/operate/change-map.ts';
import { REPOSITORY, temporaryFolder } from '../support/deployment.ts';
import { until } from '../support/until.ts';

const SOURCES = path.join(REPOSITORY, 'src');
let folder: string;
let file: string;

beforeEach(async () => {
  folder = temporaryFolder();
  file = path.join(folder, 'map.json');
  await start();
});
afterEach(() => rmSync(folder, { recursive: true }));

function start() {
  return publishRuntimeMap(file, {
    deployment: 'test',
    dataCentre: 'main',
    database: {
      name: 'test',
      shards: [{ id: '1', members: [{ host: '127.0.0.1', port: 1, dataCentre: 'main' }] }],
      unique: [],
    },
    assets: { baseUrl: '' },
  });
}

/** Each change adds a name of its own, so one that was put back is missing. */
const add = (name: string) =>
  changeMap(file, map => ({
    ...map,
    database: { ...map.database, unique: [...(map.database.unique ?? []), name] },
  }));
const added = () => readRuntimeMap(file).database.unique ?? [];

/** Another process that adds so many. */
function elsewhere(name: string, count: number): ChildProcess {
  const script = `
    import { changeMap } from ${JSON.stringify(path.join(SOURCES, 'operate/change-map.ts'))};
    for (let n = 0; n < ${count}; n++) {
      await changeMap(${JSON.stringify(file)}, map => ({
        ...map, database: { ...map.database, unique: [...map.database.unique, '${name}.' + n + '.x'] },
      }));
    }`;
  return spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: 'inherit' });
}

test('changes of one process, in any number at the same time, are all kept', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.uniqueArray(fc.stringMatching(/^[a-z]{1,8}$/), { maxLength: 12 }),
      async names => {
        const { epoch } = await changeMap(file, map => ({
          ...map,
          database: { ...map.database, unique: [] },
        }));
        await Promise.all(names.map(add));
        expect(added()).toEqual(names);
        expect(readRuntimeMap(file).epoch).toBe(epoch + names.length);
      },
    ),
    { numRuns: 15 },
  );
});

test('changes of several processes are all kept, though one is killed while it changes', async () => {
  const children = ['a', 'b', 'c'].map(name => once(elsewhere(name, 20), 'exit'));
  const endless = elsewhere('killed', 1_000_000);
  await until(() => added().filter(name => name.startsWith('killed')).length > 3, {
    what: 'the one to be killed is at work',
    timeoutMs: 60_000,
  });
  const killed = once(endless, 'exit');
  endless.kill('SIGKILL');
  await killed;
  const codes = (await Promise.all(children)).map(([code]) => code);
  expect(codes).toEqual([0, 0, 0]);
  for (const name of ['a', 'b', 'c']) {
    const own = added().filter(each => each.startsWith(`${name}.`));
    expect(own).toEqual(Array.from({ length: 20 }, (_, n) => `${name}.${n}.x`));
  }
});

test('nobody writes the map by another way', () => {
  const writers = globSync('**/*.ts', { cwd: SOURCES }).filter(
    name =>
      name !== path.join('map', 'map-file.ts') &&
      /\b(changeRuntimeMap|publishRuntimeMap)\b/.test(
        readFileSync(path.join(SOURCES, name), 'utf8'),
      ),
  );
  expect(writers).toEqual([path.join('operate', 'change-map.ts')]);
});
