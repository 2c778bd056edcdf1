/**
 * The cache: what an application asks. README.md says why what it gives is right.
 *
 * Holds true here:
 * - It gives what its loader would give now, or gave when nothing that it depends on was different.
 * - Nobody gets what is older than his session's last write.
 * - One load for a key at a time, in this process, and with Redis in all of them, as far as waiting for it is bounded.
 * - A loader's error is the caller's, and is not kept. The cache's own troubles are nobody's.
 */
import type { HeavyKey } from '../database/shards/hot/space-saving.ts';
import { CacheState, type Explanation } from './cache-state.ts';
import { InvalidCacheOption } from './errors.ts';
import { type CacheKey, fullKey, type GetOptions, isTag } from './options.ts';
import type { CacheParts, Loader } from './parts.ts';
import type { CacheCounts, CacheEmitter } from './stats.ts';
import { explicitTag } from './tags.ts';

export type { Explanation } from './cache-state.ts';
export type { Loader } from './parts.ts';

export class Cache {
  readonly #parts: CacheParts;
  readonly #namespace: string;
  readonly #state: CacheState;

  /** @internal By `createCache`. */
  constructor(parts: CacheParts, namespace = '', state = new CacheState(parts)) {
    this.#parts = parts;
    this.#namespace = namespace;
    this.#state = state;
  }

  /** Tells of loads and of what was not kept. */
  get events(): CacheEmitter {
    return this.#state.events;
  }

  /** The same cache, with keys and tags of their own. */
  namespace(name: string): Cache {
    if (!/^[\w.-]{1,64}$/.test(name)) {
      throw new InvalidCacheOption('namespace', name, 'Use letters, digits, `_`, `-` and `.`');
    }
    const full = this.#namespace === '' ? name : `${this.#namespace}/${name}`;
    return new Cache(this.#parts, full, this.#state);
  }

  /**
   * What is kept for the key, or what `loader` gives.
   *
   * What the loader reads through the cache's pool is noted: when it changes, whoever changes it, the entry is dropped.
   * The result is shared by all who ask, and frozen.
   * @throws what `loader` throws; InvalidCacheKey, InvalidCacheOption; NotStorable
   */
  get<T>(key: CacheKey, loader: Loader<T>, options: GetOptions = {}): Promise<T> {
    try {
      const full = fullKey(this.#namespace, key);
      return this.#state.get(full, loader, options, this.#namespace) as Promise<T>;
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /** Drops an entry, everywhere. Whoever is computing it does not keep it. */
  async delete(key: CacheKey): Promise<void> {
    await this.#state.drop(fullKey(this.#namespace, key));
  }

  /** Drops all entries of the namespace that were given this tag, everywhere. @throws when nobody can tell the others */
  async invalidateTag(tag: string): Promise<void> {
    if (!isTag(tag)) throw new InvalidCacheOption('tag', tag, 'Give a text of up to 512 bytes');
    await this.#state.invalidate([explicitTag(this.#namespace, tag)]);
  }

  /** What is known of an entry; undefined when there is none. */
  explain(key: CacheKey): Promise<Explanation | undefined> {
    return this.#state.explain(fullKey(this.#namespace, key));
  }

  /** What this process has counted since it began. */
  get counts(): Readonly<CacheCounts> {
    return this.#state.counts;
  }

  /** The keys that were asked for most of late, by this process; `weight` is estimated. */
  topKeys(count = 20): HeavyKey[] {
    return this.#state.hot.top(count);
  }

  /** Entries and bytes in this process. */
  get size(): { entries: number; bytes: number } {
    return { entries: this.#parts.local.size, bytes: this.#parts.local.bytes };
  }

  /** Resolves when queries can be read and it is known what changes: until then nothing is kept. */
  ready(): Promise<void> {
    return this.#state.ready();
  }

  /** @internal Resolves when what is written to Redis beside requests has been. */
  async settled(): Promise<void> {
    await Promise.all(this.#state.pending);
  }

  close(): Promise<void> {
    return this.#state.close();
  }
}
