/** Hot keys are found, whatever else is asked, with what is promised of the error. */
import { existsSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { threadId } from 'node:worker_threads';
import fc from 'fast-check';
import { expect, test, vi } from 'vitest';
import { reportLoad } from '../../../../src/app/database/shards/hot/load-report.ts';
import { LoadSketch } from '../../../../src/app/database/shards/hot/load-sketch.ts';
import { SpaceSaving } from '../../../../src/app/database/shards/hot/space-saving.ts';
import { LOAD_INTERVAL_MS } from '../../../../src/map/load-folder.ts';
import { askForLoad, readLoad } from '../../../../src/operate/load.ts';
import { temporaryFolder } from '../../../support/deployment.ts';
import { until } from '../../../support/until.ts';

const stream = fc.array(
  fc.tuple(fc.oneof(fc.nat(5), fc.nat(200)).map(String), fc.integer({ min: 1, max: 9 })),
  { maxLength: 2_000 },
);

test('property: no key with more than its part is missed, and no counter is wrong by more', () => {
  fc.assert(
    fc.property(stream, fc.integer({ min: 1, max: 20 }), (observed, size) => {
      const sketch = new SpaceSaving(size);
      const truth = new Map<string, number>();
      for (const [key, weight] of observed) {
        sketch.observe(key, weight);
        truth.set(key, (truth.get(key) ?? 0) + weight);
      }
      const total = [...truth.values()].reduce((sum, weight) => sum + weight, 0);
      const found = sketch.top(size);
      expect(sketch.total).toBe(total);
      expect(found.length).toBe(Math.min(size, truth.size));
      for (const { key, weight, overBy } of found) {
        expect(weight).toBeGreaterThanOrEqual(truth.get(key)!);
        expect(weight - overBy).toBeLessThanOrEqual(truth.get(key)!);
        expect(overBy).toBeLessThanOrEqual(total / size);
      }
      const keys = new Set(found.map(({ key }) => key));
      for (const [key, weight] of truth) {
        if (weight > total / size) expect(keys).toContain(key);
      }
      const weights = found.map(({ weight }) => weight);
      expect(weights).toEqual(weights.toSorted((a, b) => b - a));
    }),
  );
});

test('a hot key and a hot shard stand out, by calls and by time', () => {
  const sketch = new LoadSketch(() => 0);
  for (let i = 0; i < 10_000; i++) {
    sketch.observe(String(i % 4), 1, 'text', `u${i}`);
    if (i % 10 === 0) sketch.observe('2', 1, 'text', 'celebrity');
    if (i % 1_000 === 0) sketch.observe('3', 500, 'uuid', 'slow');
  }
  sketch.observe('1', 1);
  const { shards, hotKeys } = sketch.load();
  expect(hotKeys.map(({ family, key, by }) => `${family} ${key} ${by}`)).toEqual([
    'uuid slow time',
    'text celebrity calls',
  ]);
  expect(hotKeys[1]!.share).toBeGreaterThanOrEqual(1_000 / 11_011);
  expect(hotKeys[1]!.shareAtLeast).toBeLessThanOrEqual(1_000 / 11_011);
  expect(shards[0]).toMatchObject({ shard: '3', calls: 2_510 });
  expect(shards.map(({ shareOfCalls }) => shareOfCalls).reduce((a, b) => a + b)).toBeCloseTo(1);
});

test('what was long ago counts no more', () => {
  let now = 0;
  const sketch = new LoadSketch(() => now);
  for (let i = 0; i < 1_000; i++) sketch.observe('1', 1, 'text', 'yesterday');
  now = 600_000;
  for (let i = 0; i < 100; i++) sketch.observe('2', 1, 'text', 'today');
  expect(sketch.load().hotKeys[0]).toMatchObject({ key: 'today' });
  expect(sketch.load().shards[0]).toMatchObject({ shard: '2', calls: 100 });
  now = Number.MAX_SAFE_INTEGER;
  expect(sketch.load().hotKeys).toEqual([]);
});

test('what several processes tell is put together, and what one told that is gone is forgotten', async () => {
  const folder = temporaryFolder();
  try {
    const map = path.join(folder, 'map.json');
    const sketch = new LoadSketch(() => 0);
    for (let i = 0; i < 300; i++) sketch.observe('1', 2, 'text', i % 3 ? `${i}` : 'ann');
    expect(await readLoad(path.join(folder, 'load'))).toBeUndefined();
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
    const end = reportLoad(map, sketch);
    // Nobody has asked for it.
    vi.advanceTimersByTime(LOAD_INTERVAL_MS);
    expect(existsSync(path.join(folder, 'load'))).toBe(false);
    askForLoad(path.join(folder, 'load'));
    vi.advanceTimersByTime(LOAD_INTERVAL_MS);
    vi.useRealTimers();
    const file = path.join(folder, 'load', `${process.pid}-${threadId}.json`);
    await until(() => existsSync(file) || undefined, { what: 'the load is written' });
    const told = readFileSync(file, 'utf8');
    writeFileSync(path.join(folder, 'load', '1-0.json'), told);
    const load = await readLoad(path.join(folder, 'load'));
    expect(load!.shards).toEqual([
      { shard: '1', calls: 600, timeMs: 1_200, shareOfCalls: 1, shareOfTime: 1 },
    ]);
    expect(load!.hotKeys[0]).toMatchObject({ family: 'text', key: 'ann' });
    expect(load!.hotKeys[0]!.share).toBeCloseTo(1 / 3);
    for (const name of [file, path.join(folder, 'load', '1-0.json')]) utimesSync(name, 0, 0);
    expect(await readLoad(path.join(folder, 'load'))).toBeUndefined();
    end();
    expect(readdirSync(path.join(folder, 'load'))).toEqual([]);
  } finally {
    vi.useRealTimers();
    rmSync(folder, { recursive: true, force: true });
  }
});
