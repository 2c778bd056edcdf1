/**
 * The facts of a statement by its text: parsed and classified once, then a look-up.
 *
 * Holds true here:
 * - What is given out is of the catalog as it is now. Facts of an older one are drawn anew when their text
 *   comes again; trees are not kept, since they weigh far more than facts and the catalog changes rarely.
 * - It is bounded in entries and in bytes. Texts too long to keep are parsed each time they come.
 * - What a standby refused stays a write until the catalog changes.
 */
import { LRUCache } from 'lru-cache';
import type { Catalog } from './catalog.ts';
import { classify } from './classify.ts';
import { factsOfRefused, type StatementFacts } from './facts.ts';
import type { Parser } from './parser.ts';
import type { RouteOptions } from './query-reader.ts';

export interface StatementCacheOptions extends RouteOptions {
  /** Default: 10,000 texts. An application has hundreds; one that writes values into its texts has no end of them. */
  readonly maxEntries?: number;
  /** In bytes, estimated. Default: 32 MB. */
  readonly maxBytes?: number;
}

const MAX_ENTRIES = 10_000;
const MAX_BYTES = 32 * 1024 * 1024;

/** In bytes. A text beyond it is a bulk load: it takes the place of a hundred others, and hardly comes again. */
const MAX_ENTRY_BYTES = 128 * 1024;

/** Of an entry without its text. Measured with two tables: 1,900 bytes (`bench/route.ts`). */
const FACTS_BYTES = 2_000;

interface Entry {
  readonly facts: StatementFacts;
  /** Of the catalog that they were drawn from. */
  readonly version: number;
}

export class StatementCache {
  readonly #parser: Parser;
  readonly #catalog: () => Catalog;
  readonly #options: StatementCacheOptions;
  readonly #entries: LRUCache<string, Entry>;

  /** @param catalog as it is known now: `() => keeper.current` */
  constructor(parser: Parser, catalog: () => Catalog, options: StatementCacheOptions = {}) {
    this.#parser = parser;
    this.#catalog = catalog;
    this.#options = options;
    const maxSize = options.maxBytes ?? MAX_BYTES;
    this.#entries = new LRUCache({
      max: options.maxEntries ?? MAX_ENTRIES,
      maxSize,
      maxEntrySize: Math.min(MAX_ENTRY_BYTES, maxSize),
      sizeCalculation: (_entry, text) => text.length * 2 + FACTS_BYTES,
    });
  }

  /** Texts that are held. */
  get size(): number {
    return this.#entries.size;
  }

  /** The estimated bytes that are held. */
  get bytes(): number {
    return this.#entries.calculatedSize;
  }

  /** What is known of a text. Never throws. */
  facts(text: string): StatementFacts {
    const catalog = this.#catalog();
    const entry = this.#entries.get(text);
    if (entry?.version === catalog.version) return entry.facts;
    const parsed = this.#parser.parse(text);
    const facts = classify(parsed, catalog, this.#options);
    // In a moment the parser is there again.
    if (parsed.kind !== 'unavailable') {
      this.#entries.set(text, { facts, version: catalog.version });
    }
    return facts;
  }

  /**
   * To be called when a standby refused what was classified as a read.
   * @param sqlstate 25006 (a write) or 0A000 (an unlogged table)
   */
  refused(text: string, sqlstate: string): void {
    const facts = factsOfRefused(this.facts(text), sqlstate);
    this.#entries.set(text, { facts, version: this.#catalog().version });
  }
}
