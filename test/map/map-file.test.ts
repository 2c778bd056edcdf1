import { appendFile, mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import fc from 'fast-check';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { publishRuntimeMap, readRuntimeMap, watchRuntimeMap } from '../../src/map/map-file.ts';
import {
  InvalidRuntimeMap,
  parseRuntimeMap,
  type RuntimeMap,
  RuntimeMapMissing,
} from '../../src/map/runtime-map.ts';
import { temporaryFolder } from '../support/deployment.ts';
import { until } from '../support/until.ts';

type Content = Omit<RuntimeMap, 'format' | 'epoch'>;

const content = (host = 'db', baseUrl = ''): Content => ({
  deployment: 'shop',
  dataCentre: 'local',
  database: {
    name: 'shop',
    shards: [{ id: '1', members: [{ host, port: 5432, dataCentre: 'local' }] }],
  },
  assets: { baseUrl },
});

let root: string;
let folder: string;
let file: string;
let count = 0;
beforeAll(() => {
  root = temporaryFolder();
});
afterAll(() => rm(root, { recursive: true }));
beforeEach(async () => {
  folder = path.join(root, String(++count));
  await mkdir(folder);
  file = path.join(folder, 'map.json');
});

const text = fc.string({ unit: 'grapheme' });
const filled = fc.string({ unit: 'grapheme', minLength: 1 });
const member = fc.record({
  host: filled,
  port: fc.integer({ min: 1, max: 65_535 }),
  dataCentre: text,
});
const anyContent: fc.Arbitrary<Content> = fc.record({
  deployment: text,
  dataCentre: text,
  database: fc.record({
    name: text,
    shards: fc.array(
      fc.record({ id: text, members: fc.array(member, { minLength: 1, maxLength: 3 }) }),
      { minLength: 1, maxLength: 3 },
    ),
  }),
  assets: fc.record({ baseUrl: text }),
});

describe('a map', () => {
  test('property: what is published is what is read', async () => {
    await fc.assert(
      fc.asyncProperty(anyContent, async next => {
        const published = await publishRuntimeMap(file, next);
        expect(readRuntimeMap(file)).toEqual(published);
        expect(published).toMatchObject(next);
      }),
      { numRuns: 50 },
    );
  });

  test('property: any text is a map or an InvalidRuntimeMap', () => {
    const whole = JSON.stringify({ format: 1, epoch: 1, ...content() });
    const cut = fc.nat(whole.length).map(end => whole.slice(0, end));
    fc.assert(
      fc.property(fc.oneof(fc.json(), fc.string(), cut), given => {
        try {
          parseRuntimeMap(given, file);
        } catch (error) {
          expect(error).toBeInstanceOf(InvalidRuntimeMap);
        }
      }),
    );
  });

  test('names the key that is wrong; a newer format is said to be one', () => {
    const wrong = (change: object) => () =>
      parseRuntimeMap(JSON.stringify({ format: 1, epoch: 1, ...content(), ...change }), file);
    expect(wrong({ database: { name: 'x', shards: [] } })).toThrow('database.shards');
    expect(wrong({ epoch: 0 })).toThrow('epoch');
    expect(wrong({ format: 99 })).toThrow('it has format 99, and this version of Banyan reads 1');
  });

  test('keys of a newer version that may be overlooked are', () => {
    const map = parseRuntimeMap(
      JSON.stringify({ format: 1, epoch: 1, ...content(), later: 1 }),
      file,
    );
    expect(map).not.toHaveProperty('later');
  });

  test('that is not there is an error of its own', () => {
    expect(() => readRuntimeMap(file)).toThrow(RuntimeMapMissing);
  });
});

describe('the epoch', () => {
  test('rises by one with every change, and not without one', async () => {
    expect((await publishRuntimeMap(file, content('a'))).epoch).toBe(1);
    expect((await publishRuntimeMap(file, content('a'))).epoch).toBe(1);
    expect((await publishRuntimeMap(file, content('b'))).epoch).toBe(2);
    expect((await publishRuntimeMap(file, content('a'))).epoch).toBe(3);
  });

  test('rises over a damaged map too', async () => {
    for (let i = 0; i < 5; i++) await publishRuntimeMap(file, content(String(i)));
    const { epoch } = readRuntimeMap(file);
    await writeFile(file, '{"format":1,"epo');
    expect((await publishRuntimeMap(file, content('x'))).epoch).toBeGreaterThan(epoch);
    expect((await publishRuntimeMap(file, content('y'))).epoch).toBe(readRuntimeMap(file).epoch);
  });

  test('a map that cannot be read for another reason is not replaced', async () => {
    await mkdir(file);
    await expect(publishRuntimeMap(file, content())).rejects.toThrow('EISDIR');
    expect(await readdir(folder)).toEqual(['map.json']);
  });
});

test('a reader sees the old map or the new, never a part, and nothing is left beside it', async () => {
  const long = (n: number) => content('db', 'x'.repeat(50_000 + n));
  await publishRuntimeMap(file, long(0));
  let writing = true;
  const epochs: number[] = [];
  const reader = (async () => {
    while (writing) {
      epochs.push(readRuntimeMap(file).epoch);
      await new Promise(resolve => setImmediate(resolve));
    }
  })();
  for (let n = 1; n <= 50; n++) await publishRuntimeMap(file, long(n));
  writing = false;
  await reader;
  expect(epochs).toEqual(epochs.toSorted((a, b) => a - b));
  expect(new Set(epochs).size).toBeGreaterThan(5);
  expect(await readdir(folder)).toEqual(['map.json']);
});

describe('watching', () => {
  const stops: (() => void)[] = [];
  afterEach(() => {
    for (const stop of stops.splice(0)) stop();
  });

  function watch(current: RuntimeMap) {
    const seen: RuntimeMap[] = [];
    const errors: unknown[] = [];
    const stop = watchRuntimeMap(
      file,
      current,
      map => seen.push(map),
      error => errors.push(error),
    );
    stops.push(stop);
    return { seen, errors, stop };
  }

  test('gets to the newest of many changes, in rising order', async () => {
    const { seen, errors } = watch(await publishRuntimeMap(file, content()));
    for (let n = 1; n <= 30; n++) await publishRuntimeMap(file, content(`db-${n}`));
    await until(() => seen.at(-1)?.epoch === 31);
    const epochs = seen.map(({ epoch }) => epoch);
    expect(epochs).toEqual([...new Set(epochs)].toSorted((a, b) => a - b));
    expect(errors).toEqual([]);
  });

  test('a damaged map is told once, the last good one stays, and the next good one counts', async () => {
    const { seen, errors } = watch(await publishRuntimeMap(file, content('a')));
    await writeFile(file, 'rubbish');
    await until(() => errors.length === 1);
    for (let i = 0; i < 5; i++) await appendFile(path.join(folder, 'map.json'), '');
    await publishRuntimeMap(path.join(folder, 'other.json'), content());
    await publishRuntimeMap(file, content('b'));
    await until(() => seen.length === 1);
    expect(seen[0]!.database.shards[0]!.members[0]!.host).toBe('b');
    expect(errors).toHaveLength(1);
    expect(errors[0]).toBeInstanceOf(InvalidRuntimeMap);
  });

  test('an older map is not handed on', async () => {
    const old = await publishRuntimeMap(file, content('a'));
    const { seen } = watch({ ...old, epoch: 10 });
    await publishRuntimeMap(file, content('b'));
    const map = { ...readRuntimeMap(file), epoch: 11 };
    await writeFile(`${file}.tmp`, JSON.stringify(map));
    await rename(`${file}.tmp`, file);
    await until(() => seen.length > 0);
    expect(seen.map(({ epoch }) => epoch)).toEqual([11]);
  });

  test('goes on when the folder is replaced: the poll catches what the watch misses', async () => {
    const { seen } = watch(await publishRuntimeMap(file, content('a')));
    await rename(folder, `${folder}-old`);
    await mkdir(folder);
    const map = { ...(await publishRuntimeMap(file, content('b'))), epoch: 2 };
    await writeFile(file, JSON.stringify(map));
    await until(() => seen.length > 0);
    expect(seen[0]!.epoch).toBe(2);
  });

  test('an error in the listener is reported, and the watch goes on', async () => {
    const current = await publishRuntimeMap(file, content('a'));
    const errors: unknown[] = [];
    const seen: number[] = [];
    stops.push(
      watchRuntimeMap(
        file,
        current,
        ({ epoch }) => {
          seen.push(epoch);
          if (epoch === 2) throw new Error('listener');
        },
        error => errors.push(error),
      ),
    );
    await publishRuntimeMap(file, content('b'));
    await until(() => errors.length === 1);
    await publishRuntimeMap(file, content('c'));
    await until(() => seen.length === 2);
  });

  test('ends when it is told to', async () => {
    const { seen, stop } = watch(await publishRuntimeMap(file, content('a')));
    const other = watch(readRuntimeMap(file));
    stop();
    await publishRuntimeMap(file, content('b'));
    await until(() => other.seen.length === 1);
    expect(seen).toEqual([]);
  });
});
