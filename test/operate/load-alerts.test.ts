/** When a key or a shard is said to be hot. */
import { expect, test } from 'vitest';
import { type LoadSnapshot, summarise } from '../../src/app/database/shards/hot/load.ts';
import { LoadWatch, loadAlerts } from '../../src/operate/load-alerts.ts';

/** What one web server counted: calls by shard, and of which so many of one key. */
const server = (shards: Record<string, number>, hot = 0, overBy = 0): LoadSnapshot => ({
  shards: Object.fromEntries(
    Object.entries(shards).map(([shard, calls]) => [shard, { calls, timeMs: calls }]),
  ),
  byCalls: hot ? [{ key: 'integer\x0042', weight: hot, overBy }] : [],
  byTime: [],
});
const ids = (...servers: LoadSnapshot[]) => loadAlerts(summarise(servers)).map(({ id }) => id);

test('shards that take their part, and keys that take little, are no alert', () => {
  expect(ids(server({ 1: 600, 2: 500, 3: 550, 4: 580 }, 100))).toEqual([]);
});

test('a key is hot by what all web servers together say of it', () => {
  const one = server({ 1: 500, 2: 500 }, 80);
  expect(ids(one)).toEqual([]);
  expect(ids(one, server({ 1: 250, 2: 250 }, 200))).toEqual(['key integer 42']);
});

test('what may be counted too high is no alert', () => {
  expect(ids(server({ 1: 1_000, 2: 1_000 }, 400, 350))).toEqual([]);
});

test('a shard is hot when it takes far more than its part; one alone never is', () => {
  expect(ids(server({ 1: 800, 2: 200 }))).toEqual(['shard 1']);
  expect(ids(server({ 1: 700, 2: 300 }))).toEqual([]);
  expect(ids(server({ 1: 400, 2: 200, 3: 200, 4: 200 }))).toEqual(['shard 1']);
  expect(ids(server({ 1: 5_000 }))).toEqual([]);
});

test('of few calls nothing is said', () => {
  expect(ids(server({ 1: 90, 2: 10 }, 80))).toEqual([]);
});

test('an alert is said once while it lasts, again after long, and when it is over', async () => {
  let load = summarise([server({ 1: 800, 2: 200 }, 300)]);
  const said: string[] = [];
  const watch = new LoadWatch(
    async () => load,
    text => said.push(text),
  );
  await watch.look(0);
  await watch.look(60_000);
  expect(said).toHaveLength(2);
  expect(said[0]).toMatch(/^hot: a key of the kind integer, .* takes 30 % of all calls: .*cache/);
  // A key is a value of a row, which the log does not hold.
  expect(said[0]).not.toContain('42');
  expect(loadAlerts(load)[0]!.text).toContain('"42"');
  expect(said[1]).toMatch(/^hot: shard 1 takes 80 % .* 50 % would be its part: see the hot keys/);
  await watch.look(31 * 60_000);
  expect(said).toHaveLength(4);
  load = summarise([server({ 1: 500, 2: 500 })]);
  await watch.look(32 * 60_000);
  expect(said.slice(4)).toEqual([
    'no longer hot: a key of the kind integer, which `banyan status` names,',
    'no longer hot: shard 1',
  ]);
});
