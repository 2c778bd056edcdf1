/**
 * The database as the cache sees it: its clusters, what a query reads, where a primary is, and what a session has to be
 * shown.
 *
 * Holds true here: what it asks of the database itself is not told to anybody's watch, and is nobody's write.
 */
import { LRUCache } from 'lru-cache';
import type pg from 'pg';
import { BanyanPool } from '../../database/banyan-pool.ts';
import { forNobody } from '../../database/consistency/scope.ts';
import type { Moment } from '../../database/primary-clock.ts';
import { unwatched } from '../../database/read-watch.ts';
import { ShardedPool } from '../../database/shards/sharded-pool.ts';
import { StatementReader } from '../../database/shards/statement-reader.ts';
import { log } from '../../telemetry/log.ts';
import type { Coverages } from '../tags.ts';
import { type QueryReads, readsOf } from './query-reads.ts';
import { type ReadTags, tagsOfReads } from './read-tags.ts';
import { SchemaShape, SHAPE_QUERY } from './schema-shape.ts';

/** The name of the only cluster where the map names none. */
export const ONLY_CLUSTER = '1';

/** A view or a function made elsewhere is known after this at the latest. */
const REFRESH_MS = 60_000;
const REFRESH_PAUSE_MS = 1_000;
const MOST_TEXTS = 5_000;

interface KnownText {
  readonly reads: QueryReads | undefined;
  readonly why: string;
}

export class DatabaseReads {
  readonly #pool: pg.Pool;
  readonly #reader: StatementReader;
  readonly #texts = new LRUCache<string, KnownText>({ max: MOST_TEXTS });
  readonly #timer: NodeJS.Timeout;
  #single: { id: string; pool: BanyanPool } | undefined;
  readonly #list: { id: string; pool: BanyanPool }[] = [];
  #shape: SchemaShape | undefined;
  #refreshing: Promise<void> | undefined;
  #refreshedAt = -Infinity;

  constructor(pool: pg.Pool) {
    this.#pool = pool;
    this.#reader = new StatementReader({ query: (text: string) => this.#ask(text) } as never);
    this.#timer = setInterval(() => void this.refresh(), REFRESH_MS);
    this.#timer.unref();
    void this.refresh();
  }

  get #home(): pg.Pool {
    return this.#pool instanceof ShardedPool ? this.#pool.shards.home.pool : this.#pool;
  }

  /** By their names in the map. */
  clusters(): readonly string[] {
    return this.#pool instanceof ShardedPool
      ? this.#pool.shards.all.map(({ id }) => id)
      : [this.#name];
  }

  get #name(): string {
    return (this.#pool instanceof BanyanPool ? this.#pool.cluster : undefined) ?? ONLY_CLUSTER;
  }

  /** Undefined for a pool that is none of the cache's. */
  clusterOf(pool: pg.Pool): string | undefined {
    if (pool === this.#pool) return this.#name;
    if (!(this.#pool instanceof ShardedPool)) return undefined;
    return this.#pool.shards.all.find(shard => shard.pool === pool)?.id;
  }

  poolsByCluster(): readonly { readonly id: string; readonly pool: BanyanPool }[] {
    if (this.#pool instanceof ShardedPool) return this.#pool.shards.all;
    if (!(this.#pool instanceof BanyanPool)) return [];
    if (this.#single?.id !== this.#name) this.#single = { id: this.#name, pool: this.#pool };
    this.#list[0] = this.#single;
    return this.#list;
  }

  /** Where the primary is, now or later. @throws what connecting and querying throw */
  async moment(pool: pg.Pool): Promise<Moment> {
    if (!(pool instanceof BanyanPool)) throw new TypeError('it is not one of createPool');
    return pool.clock.now();
  }

  /** Resolves when queries can be read. */
  async ready(): Promise<void> {
    await this.#reader.ready;
    await this.refresh();
  }

  /** Something that was committed there is not to be seen yet: a shard was away when the others committed. */
  isUnfinished(cluster: string): boolean {
    return this.#pool instanceof ShardedPool && this.#pool.isUnfinished(cluster);
  }

  isWrite(text: string): boolean {
    return this.#reader.ready !== undefined || this.#reader.facts(text).access !== 'read';
  }

  tagsOf(
    text: string,
    values: readonly unknown[],
    result: unknown,
    coverages: Coverages,
  ): ReadTags {
    const shape = this.#shape;
    if (!shape || this.#reader.ready) {
      return { kind: 'refused', why: 'reads while the schema is not known yet' };
    }
    const facts = this.#reader.facts(text);
    const harmless = facts.transaction.length > 0 && facts.tables.length === 0;
    if (facts.access !== 'read' && !harmless) {
      if (facts.unknownNames.length > 0) void this.#refreshSoon();
      return { kind: 'refused', why: `does more than read: it ${facts.reasons[0]?.text ?? 'may'}` };
    }
    const known = this.#known(text);
    if (!known.reads) return { kind: 'refused', why: known.why };
    const tags = tagsOfReads(known.reads, shape, coverages, values, result);
    if (tags.kind === 'refused') void this.#refreshSoon();
    return tags;
  }

  close(): void {
    clearInterval(this.#timer);
    this.#reader.close();
  }

  refresh(): Promise<void> {
    this.#refreshing ??= this.#load().finally(() => {
      this.#refreshing = undefined;
    });
    return this.#refreshing;
  }

  #refreshSoon(): Promise<void> | undefined {
    if (performance.now() - this.#refreshedAt < REFRESH_PAUSE_MS) return undefined;
    return this.refresh();
  }

  async #load(): Promise<void> {
    try {
      this.#refreshedAt = performance.now();
      const { rows } = await this.#ask<{ shape: string }>(SHAPE_QUERY);
      this.#shape = new SchemaShape(rows[0]!.shape);
    } catch (error) {
      log.debug({ err: error }, 'the schema could not be read for the cache; tried again later');
    }
  }

  /** While texts cannot be read yet each counts as a write: as nobody's, or all that is cached would be too old for a while. */
  #ask<R extends pg.QueryResultRow>(text: string): Promise<pg.QueryResult<R>> {
    return forNobody(() => unwatched(() => this.#home.query<R>(text)));
  }

  #known(text: string): KnownText {
    let known = this.#texts.get(text);
    if (!known) {
      const statements = this.#reader.parse(text);
      known = statements
        ? { reads: readsOf(statements), why: '' }
        : { reads: undefined, why: 'sends a text that could not be read' };
      this.#texts.set(text, known);
    }
    return known;
  }
}
