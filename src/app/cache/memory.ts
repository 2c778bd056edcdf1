/**
 * What a process remembers of invalidations: enough to tell of an entry whether it still holds.
 *
 * Holds true here:
 * - Bounded. What is forgotten is remembered as a bound: an LSN (the *horizon*) and a transaction id below which it all
 *   lies. A position that does not see everything below its bound is not known to hold.
 * - "It holds" is said only when every invalidation of its tags, by every cluster that is followed, is seen by its
 *   position, or was vouched for (`checked to`).
 * - A cluster that is followed and has not been heard of yet, or has a gap, makes everything unknown.
 *
 * Pure: it is told and asked, and does nothing by itself.
 */

import { fullXid } from '../changes/snapshot.ts';
import type { CheckedTo } from './entry-format.ts';
import type { Batch, FeedEvent } from './feed.ts';
import { type Commit, type Position, type Positions, sees } from './position.ts';
import type { Coverages } from './tags.ts';

/** Of one tag. A table that is written to all the time is asked about by its last writes. */
const MOST_OF_A_TAG = 64;
/** Invalidated tags of all: about 100 bytes each. */
const MOST = 100_000;

export type Judgement =
  | { readonly kind: 'holds' }
  /** A transaction that its position does not see has changed what it depends on. */
  | { readonly kind: 'overtaken'; readonly by: string }
  /** The memory does not reach back to where it should. */
  | { readonly kind: 'unknown'; readonly cluster: string };

const HOLDS: Judgement = { kind: 'holds' };

/** All transactions that are not remembered: they end at or before `lsn`, and their ids are below `xid`. */
interface Bound {
  lsn: bigint;
  /** Exclusive, the lower 32 bits; undefined: not known yet, so no snapshot is known to see them. */
  xid: number | undefined;
}

interface Remembered extends Commit {
  readonly cluster: Cluster;
}

interface OfTag {
  /** The oldest first. */
  readonly list: Remembered[];
  /** Of those that did not fit: by cluster. */
  forgotten: Map<Cluster, Bound> | undefined;
}

class Cluster {
  readonly name: string;
  /** Undefined until it is heard of, and after a gap. */
  upto: bigint | undefined;
  readonly horizon: Bound = { lsn: 0n, xid: undefined };
  coverages: Coverages = {};
  /** Rises with each gap. */
  epoch = 0;

  constructor(name: string) {
    this.name = name;
  }
}

export class InvalidationMemory {
  readonly #clusters = new Map<string, Cluster>();
  readonly #tags = new Map<string, OfTag>();
  readonly #order: { tag: string; commit: Remembered }[] = [];
  #version = 0;
  #upto: CheckedTo | undefined;
  #uptoVersion = -1;
  #forgotten = 0;
  readonly #most: number;

  /** @param most invalidated tags that are remembered */
  constructor(most = MOST) {
    this.#most = most;
  }

  /** Clusters that have to be heard of. Those that are not among them any more do not matter. */
  follow(names: readonly string[]): void {
    this.#version++;
    for (const name of names) this.#cluster(name);
    for (const name of this.#clusters.keys())
      if (!names.includes(name)) this.#clusters.delete(name);
  }

  /** Rises with all that it is told: while it is the same, a judgement is. */
  get version(): number {
    return this.#version;
  }

  get clusters(): readonly string[] {
    return [...this.#clusters.keys()];
  }

  /** Every cluster is heard of. */
  get isWhole(): boolean {
    for (const { upto } of this.#clusters.values()) if (upto === undefined) return false;
    return true;
  }

  /** Up to where it has been heard, by cluster; undefined while something is missing. The same one until something is heard. */
  upto(): CheckedTo | undefined {
    if (this.#uptoVersion !== this.#version) {
      this.#upto = this.isWhole
        ? Object.fromEntries([...this.#clusters.values()].map(({ name, upto }) => [name, upto!]))
        : undefined;
      this.#uptoVersion = this.#version;
    }
    return this.#upto;
  }

  uptoOf(cluster: string): bigint | undefined {
    return this.#clusters.get(cluster)?.upto;
  }

  /** Of the cluster's memory, which begins anew with each gap; undefined while nothing is heard of it. */
  epochOf(cluster: string): number | undefined {
    const found = this.#clusters.get(cluster);
    return found?.upto === undefined ? undefined : found.epoch;
  }

  horizons(): CheckedTo {
    const all: Record<string, bigint> = {};
    for (const { name, horizon } of this.#clusters.values()) all[name] = horizon.lsn;
    return all;
  }

  coveragesOf(cluster: string): Coverages | undefined {
    const found = this.#clusters.get(cluster);
    return found?.upto === undefined ? undefined : found.coverages;
  }

  /**
   * Takes what the feed says.
   * @returns false when what it knew before is not to be relied on any more
   */
  note(event: FeedEvent): boolean {
    this.#version++;
    if (event.kind === 'covers') {
      const cluster = this.#cluster(event.cluster);
      // What was once told is kept: an entry may rely on it.
      cluster.coverages = { ...cluster.coverages, ...event.tables };
      return true;
    }
    if (event.kind === 'gap') {
      this.#lose(this.#cluster(event.cluster));
      return false;
    }
    const cluster = this.#cluster(event.batch.cluster);
    const { from, upto } = event.batch;
    if (cluster.upto !== undefined && upto <= cluster.upto) return true;
    const isHole = cluster.upto !== undefined && from > cluster.upto;
    if (isHole) this.#lose(cluster);
    if (cluster.upto === undefined) cluster.horizon.lsn = from;
    this.#remember(cluster, event.batch);
    cluster.upto = upto;
    return !isHole;
  }

  /**
   * A snapshot of the cluster that was asked for after its memory began: transactions from its end on have not
   * ended before that.
   * @param asked what `epochOf` said when it was asked
   */
  noteSnapshot(cluster: string, position: Position, asked: number): void {
    const found = this.#clusters.get(cluster);
    if (!found || found.epoch !== asked || position.kind !== 'snapshot') return;
    found.horizon.xid ??= Number(BigInt.asUintN(32, position.snapshot.xmax));
  }

  /** Half of what is remembered came later than somebody looked at the entry for the last time. */
  isAgeing(checkedTo: CheckedTo): boolean {
    if (this.#order.length - this.#forgotten < this.#most / 2) return false;
    const { commit } = this.#order[this.#forgotten + Math.floor(this.#most / 4)]!;
    const checked = checkedTo[commit.cluster.name];
    return checked !== undefined && checked < commit.lsn;
  }

  /** Whether nothing that it depends on has changed since. */
  judge(tags: readonly string[], positions: Positions, checkedTo?: CheckedTo): Judgement {
    for (const cluster of this.#clusters.values()) {
      const { name, upto, horizon } = cluster;
      const checked = checkedTo?.[name];
      const isKnown =
        upto !== undefined &&
        ((checked !== undefined && checked >= horizon.lsn) || seesAll(positions[name], horizon));
      if (!isKnown) return { kind: 'unknown', cluster: name };
    }
    for (const tag of tags) {
      const of = this.#tags.get(tag);
      if (!of) continue;
      for (let i = of.list.length - 1; i >= 0; i--) {
        const commit = of.list[i]!;
        const { name } = commit.cluster;
        const checked = checkedTo?.[name];
        if (checked !== undefined && commit.lsn <= checked) continue;
        if (this.#clusters.get(name) !== commit.cluster) continue;
        if (!sees(positions[name], commit)) return { kind: 'overtaken', by: tag };
      }
      for (const [{ name }, bound] of of.forgotten ?? []) {
        const checked = checkedTo?.[name];
        if (checked !== undefined && bound.lsn <= checked) continue;
        if (!seesAll(positions[name], bound)) return { kind: 'overtaken', by: tag };
      }
    }
    return HOLDS;
  }

  #cluster(name: string): Cluster {
    const known = this.#clusters.get(name);
    if (known) return known;
    const cluster = new Cluster(name);
    this.#clusters.set(name, cluster);
    return cluster;
  }

  /** What is remembered of it stays, and harms nobody; but nothing is known between that and what comes. */
  #lose(cluster: Cluster): void {
    cluster.upto = undefined;
    cluster.epoch++;
    cluster.horizon.xid = undefined;
    cluster.coverages = {};
  }

  #remember(cluster: Cluster, { invalidations }: Batch): void {
    const { upto } = cluster;
    for (const { xid, lsn, tags } of invalidations) {
      if (upto !== undefined && lsn <= upto) continue;
      const commit = { xid, lsn, cluster };
      for (const tag of tags) {
        const of = this.#tags.get(tag);
        if (!of) this.#tags.set(tag, { list: [commit], forgotten: undefined });
        else {
          of.list.push(commit);
          if (of.list.length > MOST_OF_A_TAG) this.#forgetOfTag(of, of.list.shift()!);
        }
        this.#order.push({ tag, commit });
      }
    }
    while (this.#order.length - this.#forgotten > this.#most) this.#forgetOldest();
    if (this.#forgotten > this.#most) {
      this.#order.splice(0, this.#forgotten);
      this.#forgotten = 0;
    }
  }

  #forgetOfTag(of: OfTag, commit: Remembered): void {
    of.forgotten ??= new Map();
    const bound = of.forgotten.get(commit.cluster) ?? { lsn: 0n, xid: commit.xid };
    raise(bound, commit);
    of.forgotten.set(commit.cluster, bound);
  }

  #forgetOldest(): void {
    const { tag, commit } = this.#order[this.#forgotten++]!;
    raise(commit.cluster.horizon, commit);
    const of = this.#tags.get(tag);
    if (of?.list[0] === commit) of.list.shift();
    if (of?.list.length === 0) this.#tags.delete(tag);
  }
}

function raise(bound: Bound, { lsn, xid }: Commit): void {
  if (lsn > bound.lsn) bound.lsn = lsn;
  if (bound.xid === undefined || xid === undefined) return;
  const next = (xid + 1) >>> 0;
  // Ids go round: the later of the two is the one within half of the range.
  if (((next - bound.xid) | 0) > 0) bound.xid = next;
}

function seesAll(position: Position | undefined, bound: Bound): boolean {
  if (!position) return false;
  if (position.kind === 'replayed') return position.lsn >= bound.lsn;
  const { snapshot } = position;
  return bound.xid !== undefined && fullXid(bound.xid, snapshot) <= snapshot.xmin;
}
