/** The store in Redis: what a bucket vouches for, and that what is lost vouches for nothing. */
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { readEntry, writeEntry } from '../../../src/app/cache/entry-format.ts';
import type { Batch } from '../../../src/app/cache/feed.ts';
import type { Positions } from '../../../src/app/cache/position.ts';
import { hashTagOf, slotOf } from '../../../src/app/cache/redis/buckets.ts';
import { RedisStore } from '../../../src/app/cache/redis/redis-store.ts';
import { RECENT_BATCHES } from '../../../src/app/cache/redis/scripts.ts';
import { parseSnapshot } from '../../../src/app/changes/snapshot.ts';
import { TestRedis } from '../../support/redis.ts';
import { until } from '../../support/until.ts';

let redis: TestRedis;
let names = 0;
const stores: RedisStore[] = [];

beforeAll(async () => {
  redis = await TestRedis.start();
});
afterEach(async () => {
  for (const store of stores.splice(0)) await store.close();
});
afterAll(() => redis.remove());

async function open(buckets = 1, prefix = `test-${++names}`): Promise<RedisStore> {
  const store = new RedisStore({ target: redis.target, prefix, buckets, onError: () => {} });
  stores.push(store);
  await until(() => store.isReady);
  return store;
}

const batch = (
  from: number,
  upto: number,
  ...changes: [xid: number, lsn: number, ...tags: string[]][]
): Batch => ({
  cluster: '1',
  from: BigInt(from),
  upto: BigInt(upto),
  invalidations: changes.map(([xid, lsn, ...tags]) => ({ xid, lsn: BigInt(lsn), tags })),
});
const seen = (snapshot: string, lsn: number): Positions => ({
  '1': {
    kind: 'snapshot',
    snapshot: parseSnapshot(snapshot),
    lsn: BigInt(lsn),
    before: BigInt(lsn),
  },
});
const replayed = (lsn: number): Positions => ({ '1': { kind: 'replayed', lsn: BigInt(lsn) } });
const info = { loadedAt: 0, expiresAt: 0, goneAt: 0, loadMs: 1, isCompressed: false };

function fill(
  store: RedisStore,
  key: string,
  positions: Positions,
  checkedTo: number,
  tags: string[],
) {
  return store.fill({
    key,
    entry: writeEntry({ ...info, positions, tags }, Buffer.from('value')),
    positions,
    checkedTo: { '1': BigInt(checkedTo) },
    tags,
    keepMs: 60_000,
    lease: '',
  });
}

const refused = (why: string, by = '') => ({ kind: 'refused', why, by });
const stored = (lsn: number) => ({ kind: 'stored', checkedTo: { '1': BigInt(lsn) } });

test('what was overtaken is not stored: not visible in the snapshot, or not replayed', async () => {
  const store = await open();
  await store.apply(batch(100, 100));
  await store.apply(batch(100, 200, [741, 150, 'a'], [743, 180, 'b']));
  // The filler has heard up to 100. 741 was over, 743 was running.
  expect(await fill(store, 'k', seen('742:746:743', 160), 100, ['a'])).toEqual(stored(200));
  expect(await fill(store, 'k', seen('742:746:743', 160), 100, ['a', 'b'])).toEqual(
    refused('overtaken', 'b'),
  );
  expect(await fill(store, 'k', seen('742:743:', 190), 100, ['b'])).toEqual(
    refused('overtaken', 'b'),
  );
  expect(await fill(store, 'k', replayed(180), 100, ['b'])).toEqual(stored(200));
  expect(await fill(store, 'k', replayed(179), 100, ['b'])).toEqual(refused('overtaken', 'b'));
  expect(await fill(store, 'k', replayed(100), 100, ['c'])).toEqual(stored(200));
});

test('an xid beyond 32 bits is told from its lower half', async () => {
  const store = await open();
  const epoch = 5n << 32n;
  await store.apply(batch(0, 0));
  await store.apply(batch(0, 100, [0xffff_fff0, 50, 'old'], [3, 60, 'new']));
  const positions = seen(`${epoch + 2n}:${epoch + 4n}:`, 70);
  expect(await fill(store, 'k', positions, 0, ['old'])).toEqual(stored(100));
  expect(await fill(store, 'k', positions, 0, ['new'])).toEqual(stored(100));
  const earlier = seen(`${epoch + 2n}:${epoch + 3n}:`, 70);
  expect(await fill(store, 'k', earlier, 0, ['new'])).toEqual(refused('overtaken', 'new'));
});

test('a bucket without a marker stores nothing; with one, nothing from before it', async () => {
  const store = await open();
  expect(await fill(store, 'k', replayed(100), 100, ['a'])).toEqual(refused('unmarked', '1'));
  await store.apply(batch(90, 100));
  expect(await fill(store, 'k', replayed(80), 80, ['a'])).toEqual(refused('forgotten', '1'));
  expect(await fill(store, 'k', replayed(90), 90, ['a'])).toEqual(stored(100));
});

test('what the list of recent batches does not reach back to is not stored', async () => {
  const store = await open();
  await store.apply(batch(0, 1));
  for (let i = 1; i <= RECENT_BATCHES + 1; i++) await store.apply(batch(i, i + 1, [i, i + 1, 'x']));
  expect(await fill(store, 'k', replayed(1), 1, ['a'])).toEqual(refused('forgotten'));
  // The oldest that is left ends there.
  expect(await fill(store, 'k', replayed(3), 3, ['a'])).toEqual(stored(RECENT_BATCHES + 2));
});

test('an entry that holds is vouched for by its records, and not once its tag was invalidated', async () => {
  const store = await open();
  await store.apply(batch(0, 100));
  await fill(store, 'k', replayed(100), 100, ['a', 'b']);
  await store.apply(batch(100, 200, [7, 150, 'other']));
  const entry = readEntry((await store.get('k'))!)!;
  expect(entry.checkedTo).toEqual({ '1': 100n });
  expect(entry.value.toString()).toBe('value');
  expect(await store.askRecords('k', entry, { '1': 200n })).toEqual({
    kind: 'vouched',
    checkedTo: { '1': 200n },
  });
  expect(readEntry((await store.get('k'))!)!.checkedTo).toEqual({ '1': 200n });
  // It is not known there how far the reader's memory reaches back.
  expect(await store.askRecords('k', entry, { '1': 201n })).toMatchObject({ kind: 'unknown' });
  await store.apply(batch(200, 300, [8, 250, 'b']));
  expect(await store.askRecords('k', entry, { '1': 300n })).toEqual({
    kind: 'unknown',
    why: 'invalidated',
  });
});

test('a record that was evicted vouches for nothing, nor does one that was made anew', async () => {
  const store = await open(1, 'evicted');
  await store.apply(batch(0, 100));
  await fill(store, 'k', replayed(100), 100, ['a']);
  const entry = readEntry((await store.get('k'))!)!;
  expect(await redis.command('DEL', `banyan:evicted:{0}:t:a`)).toBe(1);
  await store.apply(batch(100, 200, [7, 150, 'a']));
  expect(await store.askRecords('k', entry, { '1': 200n })).toEqual({
    kind: 'unknown',
    why: 'no record',
  });
  await fill(store, 'another', replayed(200), 200, ['a']);
  expect(await store.askRecords('k', entry, { '1': 200n })).toEqual({
    kind: 'unknown',
    why: 'invalidated',
  });
});

test('a hole is closed from what was applied before; what nobody has any more is not vouched for', async () => {
  const store = await open(1, 'hole');
  await store.apply(batch(0, 100));
  await fill(store, 'k', replayed(100), 100, ['a']);
  const entry = readEntry((await store.get('k'))!)!;
  await store.apply(batch(100, 200, [7, 150, 'a']));
  // As a failover does that loses the last writes.
  await redis.command('HSET', 'banyan:hole:{0}:m', 'a:1', '0000000000000064');
  await redis.command('HSET', 'banyan:hole:{0}:t:a', '1', '0000000000000064');
  expect((await store.apply(batch(200, 300))).begunAnew).toEqual([]);
  expect(await store.askRecords('k', entry, { '1': 300n })).toEqual({
    kind: 'unknown',
    why: 'invalidated',
  });

  const successor = await open(1, 'hole');
  await redis.command('HSET', 'banyan:hole:{0}:m', 'a:1', '0000000000000064');
  await redis.command('HSET', 'banyan:hole:{0}:t:a', '1', '0000000000000064');
  expect((await successor.apply(batch(300, 400))).begunAnew).toEqual([0]);
  expect(await successor.askRecords('k', entry, { '1': 400n })).toEqual({
    kind: 'unknown',
    why: 'forgotten',
  });
});

test('a list of batches that was evicted lets nothing through that it would have stopped', async () => {
  const store = await open(1, 'list');
  await store.apply(batch(0, 100));
  await store.apply(batch(100, 200, [7, 150, 'a']));
  await redis.command('DEL', 'banyan:list:{0}:r');
  expect(await fill(store, 'k', replayed(100), 100, ['a'])).toEqual(refused('forgotten'));
  await store.apply(batch(200, 300, [8, 250, 'b']));
  expect(await fill(store, 'k', replayed(100), 100, ['a'])).toEqual(refused('forgotten', '1'));
  expect(await fill(store, 'k', replayed(200), 200, ['a'])).toEqual(stored(300));
});

test('a flush: nothing of before is vouched for', async () => {
  const store = await open();
  await store.apply(batch(0, 100));
  await fill(store, 'k', replayed(100), 100, ['a']);
  const entry = readEntry((await store.get('k'))!)!;
  await store.flush('1', 500n);
  expect(await store.askRecords('k', entry, { '1': 500n })).toEqual({
    kind: 'unknown',
    why: 'forgotten',
  });
  expect(await fill(store, 'k', replayed(100), 100, ['a'])).toEqual(refused('forgotten', '1'));
});

test('batches come again, and to every bucket', async () => {
  const store = await open(16);
  for (const _ of [1, 2]) {
    const applied = await store.apply(batch(0, 100, [7, 50, 'a', 'b']));
    expect(applied).toMatchObject({ buckets: 16, unreachable: [] });
  }
  for (let i = 0; i < 40; i++) {
    expect(await fill(store, `k${i}`, replayed(49), 10, ['a'])).toEqual(refused('overtaken', 'a'));
    expect(await fill(store, `k${i}`, replayed(50), 10, ['a'])).toEqual(stored(100));
  }
});

test('a lease is one’s own until it is given back', async () => {
  const store = await open();
  expect(await store.lease('k', 'mine', 60_000)).toBe(true);
  expect(await store.lease('k', 'other', 60_000)).toBe(false);
  await store.release('k', 'other');
  expect(await store.lease('k', 'other', 60_000)).toBe(false);
  await store.release('k', 'mine');
  expect(await store.lease('k', 'other', 60_000)).toBe(true);
});

test('buckets have slots in their own part of all', async () => {
  // From Redis Cluster's specification: CRC16 of 123456789 is 0x31C3.
  expect(slotOf('123456789')).toBe(0x31c3);
  const slots = Array.from({ length: 16 }, (_, bucket) => slotOf(hashTagOf(bucket, 16)));
  expect(slots.map(slot => Math.floor(slot / 1024))).toEqual(
    Array.from({ length: 16 }, (_, i) => i),
  );
});
