/**
 * Keeps what is known of a database fresh.
 *
 * Holds true here:
 * - `current` is always there, at once. Before it was loaded, and from when this process changed the schema
 *   until it has been loaded again, it is empty, which sends all but the plainest to the primary.
 * - A load that began before the schema was changed does not count after it.
 * - One load at a time, however many ask. Asking for unknown names (a table made elsewhere, a spelling
 *   mistake that comes a thousand times a second) loads at most once in `UNKNOWN_PAUSE_MS`.
 * - The same contents are the same object with the same version, so what was drawn from it stays.
 *
 * Between a change made elsewhere and the next load, what was drawn from the old state may send a statement to
 * a standby that belongs on the primary. A standby refuses every write (25006) and every unlogged table
 * (0A000), having done nothing: see README.md, "When the catalog is behind".
 */
import { Catalog } from './catalog.ts';
import { type CatalogData, catalogQuery, type RelationRow } from './catalog-query.ts';
import type { StatementFacts } from './facts.ts';

/** A change made elsewhere is noticed after this at the latest; a load is about 40 ms of one server's time. */
const REFRESH_INTERVAL_MS = 60_000;

const UNKNOWN_PAUSE_MS = 1_000;

/** What the catalog is loaded through: a pool, or a client, that gives several statements' results as `pg` does. */
export interface CatalogSource {
  query(text: string): Promise<unknown>;
}

export interface CatalogKeeperOptions {
  /** Called with what went wrong when a load failed; what was known stays, and the next load is a new try. */
  onError(error: unknown): void;
  /** In milliseconds. Default: 60000. */
  refreshIntervalMs?: number;
  /** In milliseconds. Default: 1000. */
  unknownPauseMs?: number;
}

export class CatalogKeeper {
  readonly #source: CatalogSource;
  readonly #options: CatalogKeeperOptions;
  readonly #unknownPauseMs: number;
  readonly #timer: NodeJS.Timeout;
  #current = Catalog.EMPTY;
  #version = 0;
  #builtins: { data: CatalogData; trouble: RelationRow[] } | undefined;
  /** The text that `#current` was made of. */
  #loaded: string | undefined;
  #loading: Promise<void> | undefined;
  /** Rises when the schema was changed by this process. */
  #generation = 0;
  #lastLoad = -Infinity;

  constructor(source: CatalogSource, options: CatalogKeeperOptions) {
    this.#source = source;
    this.#options = options;
    this.#unknownPauseMs = options.unknownPauseMs ?? UNKNOWN_PAUSE_MS;
    this.#timer = setInterval(
      () => void this.refresh(),
      options.refreshIntervalMs ?? REFRESH_INTERVAL_MS,
    );
    this.#timer.unref();
  }

  get current(): Catalog {
    return this.#current;
  }

  /** Loads it, or waits for the load that is under way. Resolves also when the load failed. */
  refresh(): Promise<void> {
    this.#loading ??= this.#load().finally(() => {
      this.#loading = undefined;
    });
    return this.#loading;
  }

  /**
   * To be called after a statement with `changesCatalog`, and for one within a transaction after its commit.
   * Resolves when what is known is of after the change.
   */
  async changed(): Promise<void> {
    this.#generation++;
    this.#version++;
    this.#current = Catalog.EMPTY;
    this.#loaded = undefined;
    // The one under way may have looked before the change, and throws away what it saw.
    await this.#loading;
    await this.refresh();
  }

  /** To be called with the facts of what is run: loads when they name something unknown, but not too often. */
  noticed(facts: StatementFacts): void {
    if (facts.unknownNames.length === 0) return;
    if (performance.now() - this.#lastLoad >= this.#unknownPauseMs) void this.refresh();
  }

  /** Ends the timer. What is known stays. */
  close(): void {
    clearInterval(this.#timer);
  }

  async #load(): Promise<void> {
    const generation = this.#generation;
    this.#lastLoad = performance.now();
    try {
      this.#builtins ??= await this.#loadBuiltins();
      const { data, trouble } = this.#builtins;
      const text = await this.#ask(catalogQuery('user', trouble));
      if (generation !== this.#generation || text === this.#loaded) return;
      this.#loaded = text;
      this.#current = new Catalog(++this.#version, [data, JSON.parse(text)]);
    } catch (error) {
      this.#options.onError(error);
    }
  }

  async #loadBuiltins(): Promise<{ data: CatalogData; trouble: RelationRow[] }> {
    const data: CatalogData = JSON.parse(await this.#ask(catalogQuery('builtin')));
    return { data, trouble: data.relations.filter(([, , , , why]) => why) };
  }

  async #ask(query: string): Promise<string> {
    const results = await this.#source.query(query);
    const row = (results as { rows: { catalog: string }[] }[]).at(-1)?.rows[0];
    if (!row) throw new Error('the query for the catalog gave no row');
    return row.catalog;
  }
}
