/**
 * Which shards and keys are hot, out of what several processes have counted. Pure.
 *
 * Glossary: the *load* of a shard or a key is calls, and the time of their answers; its *share* is its part of all.
 */
import type { HeavyKey } from './space-saving.ts';

/** What one process has counted, in plain data. */
export interface LoadSnapshot {
  /** By the shard's id in the map. */
  shards: Record<string, { calls: number; timeMs: number }>;
  /** The heaviest keys by calls, and by time: its family, a zero character, its value. */
  byCalls: HeavyKey[];
  byTime: HeavyKey[];
}

export interface ShardLoad {
  /** Its id in the map. */
  shard: string;
  calls: number;
  /** Time of its answers together, in milliseconds. */
  timeMs: number;
  /** Its part of all calls, 0 to 1. */
  shareOfCalls: number;
  /** Its part of all time, 0 to 1. */
  shareOfTime: number;
}

export interface KeyLoad {
  /** `integer`, `text`, `uuid`. Tables whose keys are of one family share their keys. */
  family: string;
  key: string;
  /** Its part of all calls or of all time, whichever is more, 0 to 1; at most so much. */
  share: number;
  /** It is at least so much. */
  shareAtLeast: number;
  by: 'calls' | 'time';
}

export interface Load {
  /** The one that takes the most time first. */
  shards: ShardLoad[];
  /** The hottest first. */
  hotKeys: KeyLoad[];
}

/** A key with less is none that a shard would be moved for. */
export const HOT_SHARE = 0.02;
const MOST_HOT_KEYS = 20;
/** Of fewer calls no part says anything. */
const FEWEST_CALLS = 100;

/** Between a family and a key, in neither of which it can be. */
export const SEPARATOR = '\0';

export function summarise(snapshots: LoadSnapshot[]): Load {
  const totals = new Map<string, { calls: number; timeMs: number }>();
  const all = { calls: 0, timeMs: 0 };
  for (const [shard, { calls, timeMs }] of snapshots.flatMap(each => Object.entries(each.shards))) {
    const before = totals.get(shard) ?? { calls: 0, timeMs: 0 };
    totals.set(shard, { calls: before.calls + calls, timeMs: before.timeMs + timeMs });
    all.calls += calls;
    all.timeMs += timeMs;
  }
  const shards = [...totals].map(([shard, { calls, timeMs }]) => ({
    shard,
    calls: Math.round(calls),
    timeMs: Math.round(timeMs),
    shareOfCalls: part(calls, all.calls),
    shareOfTime: part(timeMs, all.timeMs),
  }));
  const byCalls = hotKeys('calls', merge(snapshots.map(each => each.byCalls)), all.calls);
  const byTime = hotKeys('time', merge(snapshots.map(each => each.byTime)), all.timeMs);
  return {
    shards: shards.toSorted((a, b) => b.shareOfTime - a.shareOfTime),
    hotKeys: all.calls < FEWEST_CALLS ? [] : hottest([...byCalls, ...byTime]),
  };
}

/** The same key of several processes is one. */
function merge(lists: HeavyKey[][]): HeavyKey[] {
  const merged = new Map<string, HeavyKey>();
  for (const each of lists.flat()) {
    const before = merged.get(each.key);
    merged.set(each.key, {
      key: each.key,
      weight: each.weight + (before?.weight ?? 0),
      overBy: each.overBy + (before?.overBy ?? 0),
    });
  }
  return [...merged.values()];
}

function hotKeys(by: KeyLoad['by'], keys: HeavyKey[], total: number): KeyLoad[] {
  return keys
    .map(({ key, weight, overBy }) => {
      const [family, value] = key.split(SEPARATOR) as [string, string];
      const share = part(weight, total);
      return { family, key: value, share, shareAtLeast: part(weight - overBy, total), by };
    })
    .filter(({ share }) => share >= HOT_SHARE);
}

/** Each key once, by what it has more of. */
function hottest(keys: KeyLoad[]): KeyLoad[] {
  const seen = new Set<string>();
  return keys
    .toSorted((a, b) => b.share - a.share)
    .filter(({ family, key }) => {
      const name = family + SEPARATOR + key;
      return seen.has(name) ? false : seen.add(name);
    })
    .slice(0, MOST_HOT_KEYS);
}

function part(some: number, all: number): number {
  return all === 0 ? 0 : some / all;
}
