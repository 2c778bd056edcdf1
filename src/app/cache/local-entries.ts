/**
 * L1: entries in the process's own memory.
 *
 * Holds true here:
 * - What is in it held when it entered, and has been held against every batch since: a hit asks nobody anything.
 * - Bounded in bytes, by the size of the values' encoding: what the objects themselves take is a small multiple of it.
 */
import { LRUCache } from 'lru-cache';
import type { EntryInfo } from './entry-format.ts';
import type { Batch } from './feed.ts';
import { sees } from './position.ts';

export interface LocalEntry extends EntryInfo {
  readonly key: string;
  readonly value: unknown;
  /** Of its encoding. */
  readonly bytes: number;
  readonly from: 'load' | 'store';
  /** Of those who ask: made once. */
  answer?: Promise<unknown>;
}

/** Of an entry without its value: positions, tags, its place in the index. */
const ENTRY_BYTES = 500;
const TAG_BYTES = 150;

function sizeOf({ bytes, tags, key }: LocalEntry): number {
  return bytes + key.length * 2 + ENTRY_BYTES + tags.length * TAG_BYTES;
}

export class LocalEntries {
  readonly #entries: LRUCache<string, LocalEntry>;
  /** A larger one is not kept. */
  readonly #most: number;
  readonly #byTag = new Map<string, Set<LocalEntry>>();

  constructor(bytes: number) {
    const maxBytes = Math.max(8, Math.floor(bytes));
    this.#most = Math.floor(maxBytes / 8);
    this.#entries = new LRUCache({
      maxSize: maxBytes,
      maxEntrySize: this.#most,
      sizeCalculation: sizeOf,
      dispose: entry => this.#forget(entry),
    });
  }

  get size(): number {
    return this.#entries.size;
  }

  get bytes(): number {
    return this.#entries.calculatedSize;
  }

  get(key: string): LocalEntry | undefined {
    return this.#entries.get(key);
  }

  /** Without counting as a use. */
  peek(key: string): LocalEntry | undefined {
    return this.#entries.peek(key);
  }

  set(entry: LocalEntry): void {
    this.#entries.delete(entry.key);
    if (sizeOf(entry) > this.#most) return;
    for (const tag of entry.tags) {
      const entries = this.#byTag.get(tag);
      if (entries) entries.add(entry);
      else this.#byTag.set(tag, new Set([entry]));
    }
    this.#entries.set(entry.key, entry);
  }

  delete(key: string): void {
    this.#entries.delete(key);
  }

  clear(): void {
    this.#entries.clear();
    this.#byTag.clear();
  }

  /** Drops what a batch has changed under it. @returns how many */
  apply({ cluster, invalidations }: Batch): number {
    let dropped = 0;
    for (const invalidation of invalidations) {
      for (const tag of invalidation.tags) {
        const entries = this.#byTag.get(tag);
        if (!entries) continue;
        for (const entry of entries) {
          if (sees(entry.positions[cluster], invalidation)) continue;
          this.#entries.delete(entry.key);
          dropped++;
        }
      }
    }
    return dropped;
  }

  #forget(entry: LocalEntry): void {
    for (const tag of entry.tags) {
      const entries = this.#byTag.get(tag);
      if (!entries?.delete(entry)) continue;
      if (entries.size === 0) this.#byTag.delete(tag);
    }
  }
}
