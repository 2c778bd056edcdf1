/**
 * Loads: runs a loader, finds out what its result depends on, and keeps it where nothing of that has changed meanwhile.
 *
 * Holds true here:
 * - So many at a time and no more, so that losing the cache does not take the database along.
 * - A result is kept here and in Redis only if no change is known that its reads did not see.
 * - What a load reads shows what had been told here when it began.
 */
import { type BulkheadPolicy, bulkhead } from 'cockatiel';
import { LRUCache } from 'lru-cache';
import { currentWatch, watchReads } from '../database/read-watch.ts';
import { decode, encode } from './codec.ts';
import { lifetimeOf } from './options.ts';
import type { Ask, CacheParts, Outcome } from './parts.ts';
import { LoadWatch } from './reads/load-watch.ts';
import type { CacheCounts, CacheEmitter } from './stats.ts';
import { explicitTag, keyTag } from './tags.ts';

/** Those who came together expire over a tenth of their time. */
const JITTER = 0.1;
/** A result larger than that is not kept. */
const MOST_BYTES = 4 * 1024 * 1024;
/** Keys of which it is remembered that their result cannot be kept. */
const UNKEPT_KEYS = 10_000;

/** Where loads are counted and told of, and what they leave to be done beside requests. */
export interface Telling {
  readonly counts: CacheCounts;
  readonly events: CacheEmitter;
  beside(work: Promise<unknown>): void;
}

export class Loads {
  readonly #parts: CacheParts;
  readonly #telling: Telling;
  /** What was last loaded for them can neither be kept nor shared: there is no use in waiting for somebody else's. */
  readonly #unkept = new LRUCache<string, true>({ max: UNKEPT_KEYS });
  readonly #bulkhead: BulkheadPolicy;

  constructor(parts: CacheParts, telling: Telling) {
    this.#parts = parts;
    this.#telling = telling;
    this.#bulkhead = bulkhead(parts.maxLoads, Number.POSITIVE_INFINITY);
  }

  /** What is loaded for the key cannot be kept, as far as is known. */
  isUnkept(key: string): boolean {
    return this.#unkept.has(key);
  }

  /** @param lease that Redis gave for the key; empty: none. @throws what the loader throws, NotStorable */
  async load({ key, loader, options, namespace }: Ask, lease: string): Promise<Outcome> {
    const { memory, reads, shared } = this.#parts;
    const { counts, events } = this.#telling;
    const watch = new LoadWatch(reads, memory);
    const begun = performance.now();
    let loaded: unknown;
    try {
      const run = async () => {
        this.#readsWhatWasTold();
        return watchReads(watch, loader);
      };
      // A load within a load has a place already: to wait for another could be to wait for itself.
      loaded = await (currentWatch() ? run() : this.#bulkhead.execute(run));
    } catch (error) {
      counts.failedLoads++;
      this.#giveBack(key, lease);
      throw error;
    }
    counts.loads++;
    const loadMs = performance.now() - begun;
    if (events.listenerCount('loaded') > 0) events.emit('loaded', { key, ms: loadMs });
    let bytes: Buffer;
    try {
      bytes = encode(loaded);
    } catch (error) {
      this.#giveBack(key, lease);
      throw error;
    }
    const value = decode(bytes);
    const explicit = (options.tags ?? []).map(tag => explicitTag(namespace, tag));
    const known = watch.dependencies([keyTag(key), ...explicit]);
    if (known.kind === 'spoilt' || bytes.length > MOST_BYTES) {
      if (!watch.isOfPrimaries) this.#unkept.set(key, true);
      this.#refuse(key, known.kind === 'spoilt' ? known.why : 'is too large');
      this.#giveBack(key, lease);
      return { value, positions: undefined, holds: false, isOfPrimaries: watch.isOfPrimaries };
    }
    this.#unkept.delete(key);
    const { isOfPrimaries } = watch;
    const { positions, tags } = known;
    const judgement = memory.judge(tags, positions);
    if (judgement.kind !== 'holds') {
      this.#refuse(
        key,
        judgement.kind === 'overtaken'
          ? `was overtaken by a change of ${judgement.by}`
          : `began before the memory of ${judgement.cluster}`,
      );
      this.#giveBack(key, lease);
      return { value, positions, holds: false, isOfPrimaries };
    }
    const { ttlMs, staleMs } = lifetimeOf(options, loaded);
    const loadedAt = Date.now();
    const expiresAt = loadedAt + ttlMs * (1 - JITTER * Math.random());
    const goneAt = expiresAt + staleMs;
    const info = { positions, tags, loadedAt, expiresAt, goneAt, loadMs, isCompressed: false };
    this.#parts.local.set({ ...info, key, value, bytes: bytes.length, from: 'load' });
    if (shared?.isThere) {
      const checkedTo = memory.upto()!;
      const filled = shared.fill(key, info, bytes, checkedTo, goneAt - loadedAt, lease);
      this.#telling.beside(
        filled.then(answer => {
          if (answer?.kind === 'refused') this.#refuse(key, `was ${answer.why} in Redis`);
        }),
      );
    }
    return { value, positions, holds: true, isOfPrimaries };
  }

  /**
   * A request that came before a change, and asks after it has been told here, must not be given what was: its own position
   * is of before, and a replica of that position may be chosen for its reads.
   */
  #readsWhatWasTold(): void {
    const told = this.#parts.memory.upto();
    if (!told) return;
    for (const { id, pool } of this.#parts.reads.poolsByCluster()) {
      const lsn = told[id];
      if (lsn !== undefined) pool.positions?.scope().atLeast(lsn);
    }
  }

  #refuse(key: string, why: string): void {
    const { counts, events } = this.#telling;
    counts.refusedFills++;
    if (events.listenerCount('refused') > 0) events.emit('refused', { key, why });
  }

  #giveBack(key: string, lease: string): void {
    const { shared } = this.#parts;
    if (lease !== '' && shared) this.#telling.beside(shared.release(key, lease));
  }
}
