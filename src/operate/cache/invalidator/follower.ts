/**
 * Follows one database cluster: from its log to batches, to the feed and to the store.
 *
 * Holds true here:
 * - What is told is a line without a hole: each batch begins where the one before ended, or a gap is told first.
 * - The log is acknowledged when the feed and the store have had it. A bucket that is away is not waited for: it has a hole,
 *   which it finds itself.
 * - The feed is not kept waiting by the store: each has batches of its own, of whatever has come until then.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import type { Invalidation } from '../../../app/cache/feed.ts';
import type { InvalidationStore } from '../../../app/cache/store.ts';
import { type Coverages, EVERYTHING, tagsOfChange, wholesaleTag } from '../../../app/cache/tags.ts';
import { type Change, formatLsn, type Gap, type Transaction } from '../../../app/changes/change.ts';
import { type Address, abandon, findPrimary } from '../../../app/changes/primary.ts';
import { ChangeReader } from '../../../app/changes/reader.ts';
import { untilAllEnded } from '../../../app/changes/settle.ts';
import type { Whereabouts } from '../../../app/changes/slot.ts';
import { leftAt, parseLsn } from '../../../app/database/timelines.ts';
import { BanyanError } from '../../../errors.ts';
import {
  fingerprint,
  logEnd,
  OWN_TABLES,
  readCoverage,
  SCHEMA_CHANGES,
  watchSchema,
} from './coverage.ts';
import type { FeedServer } from './feed-server.ts';
import { PUBLICATION, SLOT } from './names.ts';
import type { ClusterStatus } from './protocol.ts';

/** A session that has just written is served from the cache when what is told has passed its place in the log. */
const TICK_MS = 50;
/** So often the store hears that nothing has happened: its buckets then know how far they are. */
const STORE_IDLE_MS = 1_000;
/** Where no trigger tells of it, so often it is looked whether the schema has changed. */
const LOOK_MS = 2_000;
/** After an error that waiting does not mend: somebody may mend it. */
const RETRY_MS = 5_000;
const SAMPLES = 1_000;

export interface FollowerOptions {
  /** The shard's id. */
  readonly cluster: string;
  readonly members: () => readonly Address[];
  readonly connection: pg.ClientConfig;
  readonly feed: FeedServer;
  readonly store: () => InvalidationStore | undefined;
  /** The line of positions begins anew: what the store has is of another one. */
  readonly onOtherLine: () => Promise<void>;
  readonly note: (text: string, details?: object) => void;
  readonly onStoreTrouble: (text: string | undefined) => void;
}

export class ClusterFollower {
  readonly #options: FollowerOptions;
  readonly #closing = new AbortController();
  #reader: ChangeReader;
  #here: Whereabouts | undefined;
  /** All up to here has been told; undefined: no line has begun. */
  #told: bigint | undefined;
  #coverages: Coverages = {};
  #isCovering = false;
  /**
   * Which columns have tags is known: since the last gap, or since this process has begun. Before, a transaction cannot be told:
   * entries of the time before may have tags that it would not be given.
   */
  #knowsTags = false;
  /**
   * Between a gap and the word of what is covered nothing is told. The line begins with that word: otherwise a standby that is
   * behind could give a result of before it, whose tags nobody has told.
   */
  #isSilent = false;
  #coverAgain = false;
  #hasTrigger = false;
  #print: string | undefined;
  #lookedAt = 0;
  /** For the store. */
  #storedTo: bigint | undefined;
  #unstored: Invalidation[] = [];
  #unacknowledged: Transaction | undefined;
  #storing: Promise<void> | undefined;
  #storedAt = 0;
  readonly #lags: number[] = [];
  #lagAt = 0;
  #gaps = 0;
  #lastGap: string | undefined;
  #failure: unknown;

  constructor(options: FollowerOptions) {
    this.#options = options;
    this.#reader = this.#newReader();
  }

  /** Until `close`. */
  async run(): Promise<void> {
    const ticking = setInterval(() => this.#tick(), TICK_MS);
    try {
      while (!this.#closing.signal.aborted) {
        try {
          for await (const event of this.#reader.events()) {
            if (event.kind === 'gap') await this.#onGap(event);
            else await this.#onTransaction(event);
          }
        } catch (error) {
          if (this.#closing.signal.aborted) return;
          this.#fail(error);
          await delay(RETRY_MS, undefined, { signal: this.#closing.signal }).catch(() => {});
          this.#reader = this.#newReader();
        }
      }
    } finally {
      clearInterval(ticking);
    }
  }

  close(): void {
    this.#closing.abort();
    this.#reader.close();
  }

  get status(): ClusterStatus {
    const { state, failure, serverLsn, pendingSince } = this.#reader.progress;
    const told = this.#told;
    const isReading = state === 'reading' && told !== undefined;
    const ended = this.#failure ?? (isReading ? undefined : failure);
    const sorted = this.#lags.toSorted((a, b) => a - b);
    const part = (share: number) => sorted[Math.floor((sorted.length - 1) * share)];
    return {
      cluster: this.#options.cluster,
      state: this.#failure ? 'failed' : state,
      applied: told === undefined ? undefined : formatLsn(told),
      lagBytes:
        isReading && serverLsn !== undefined
          ? Number(serverLsn > told ? serverLsn - told : 0n)
          : undefined,
      lagMs: isReading ? (pendingSince ? Date.now() - pendingSince.getTime() : 0) : undefined,
      lagP50Ms: part(0.5),
      lagP99Ms: part(0.99),
      tables: Object.keys(this.#coverages).length,
      gaps: this.#gaps,
      lastGap: this.#lastGap,
      failure: ended
        ? {
            what: ended instanceof BanyanError ? ended.what : (ended as Error).message,
            remedy: ended instanceof BanyanError ? ended.remedy : undefined,
          }
        : undefined,
    };
  }

  #newReader(): ChangeReader {
    const { members, connection, cluster } = this.#options;
    return new ChangeReader({
      members,
      connection: { ...connection, application_name: 'banyan invalidator' },
      slot: SLOT,
      publication: {
        name: PUBLICATION,
        tables: 'all',
        withoutIdentity: 'skip',
        also: OWN_TABLES,
      },
      where: `shard ${cluster}`,
    });
  }

  #fail(error: unknown): void {
    if (String(error) !== String(this.#failure)) {
      const { message, code } = error as BanyanError;
      this.#options.note('the log cannot be read', {
        cluster: this.#options.cluster,
        code,
        message,
      });
    }
    this.#failure = error;
    // Nobody reads: what is told now would be a lie soon.
    if (this.#told !== undefined) {
      this.#told = undefined;
      this.#storedTo = undefined;
      this.#unstored = [];
      this.#coverages = {};
      this.#knowsTags = false;
      this.#isSilent = false;
      this.#options.feed.gap(this.#options.cluster, undefined, 'the log cannot be read');
    }
  }

  async #onGap(gap: Gap): Promise<void> {
    this.#failure = undefined;
    const { reason, endLsn } = gap;
    this.#here = this.#reader.here;
    const isOtherLine =
      reason === 'other-cluster' ||
      reason === 'diverged' ||
      (this.#told !== undefined && endLsn < this.#told);
    if (isOtherLine) {
      this.#told = undefined;
      await this.#options.onOtherLine();
    }
    await this.#forget(endLsn, reason);
    await this.#reader.applied(gap);
    void this.#cover();
  }

  /** What happened before `upto` is not known. */
  async #forget(upto: bigint, reason: string): Promise<void> {
    const { cluster, feed, note } = this.#options;
    this.#gaps++;
    this.#lastGap = reason;
    await this.#storing;
    this.#told = upto;
    this.#storedTo = upto;
    this.#unstored = [];
    this.#coverages = {};
    this.#knowsTags = false;
    this.#isSilent = true;
    feed.gap(cluster, upto, reason);
    note('everything is forgotten', { cluster, reason, upto: formatLsn(upto) });
    await this.#flushStore(upto);
  }

  /** A bucket that does not hear of it has a hole, and finds that itself. */
  async #flushStore(upto: bigint): Promise<void> {
    const { cluster, store, note } = this.#options;
    await store()
      ?.flush(cluster, upto)
      .catch(error => note('the store could not be told', { message: (error as Error).message }));
  }

  /**
   * A connection has begun: whether what was told still is what happened. On another timeline what was told may never
   * have happened, or the places of the log that were told of as empty may be filled now.
   */
  async #greet(): Promise<void> {
    const here = this.#reader.here;
    if (!here || here === this.#here) return;
    const before = this.#here;
    this.#here = here;
    this.#failure = undefined;
    if (this.#told === undefined) {
      // A new process goes on where the last one was acknowledged.
      this.#told = this.#reader.progress.applied;
      this.#storedTo = this.#told;
    } else if (before && before.timeline !== here.timeline) {
      const left = leftAt(here.history, here.timeline, before.timeline);
      if (left === undefined || (left !== 'never' && left < this.#told)) {
        const { serverLsn = 0n } = this.#reader.progress;
        await this.#forget(later(serverLsn, this.#told), 'another primary');
      }
    }
    void this.#cover();
  }

  async #onTransaction(transaction: Transaction): Promise<void> {
    await this.#greet();
    await this.#untilTagsAreKnown();
    const { endLsn, xid, committedAt, changes } = transaction;
    const told = this.#told;
    const isOfSchema = changes.some(({ schema, table }) => `${schema}.${table}` === SCHEMA_CHANGES);
    // It came again after a break, or nothing is told at the moment.
    if (told === undefined || endLsn <= told || this.#isSilent) {
      if (told !== undefined && endLsn > told) this.#told = endLsn;
      this.#unacknowledged = transaction;
      this.#store();
      if (this.#isSilent && isOfSchema) {
        this.#gaps++;
        void this.#cover();
      }
      return;
    }
    const tags = this.#tagsOf(changes);
    const invalidations =
      tags.length > 0 ? [{ xid: Number(xid & 0xffff_ffffn), lsn: endLsn, tags }] : [];
    this.#options.feed.batch({
      cluster: this.#options.cluster,
      from: told,
      upto: endLsn,
      invalidations,
    });
    this.#told = endLsn;
    this.#sample(Date.now() - committedAt.getTime());
    this.#unstored.push(...invalidations);
    this.#unacknowledged = transaction;
    if (isOfSchema) {
      await this.#forget(endLsn, 'the schema has changed');
      void this.#cover();
    }
    this.#store();
  }

  async #untilTagsAreKnown(): Promise<void> {
    while (!this.#knowsTags && !this.#isSilent && !this.#closing.signal.aborted) {
      await this.#cover();
      if (!this.#knowsTags) await delay(TICK_MS);
    }
  }

  #tagsOf(changes: readonly Change[]): string[] {
    const tags = new Set<string>();
    for (const { schema, table, kind, before, after } of changes) {
      if (`${schema}.${table}` === SCHEMA_CHANGES) continue;
      if (kind === 'truncate' || kind === 'whole') {
        tags.add(EVERYTHING).add(wholesaleTag(schema, table));
        continue;
      }
      const coverage = this.#coverages[`${schema}.${table}`] ?? { key: [], columns: {} };
      // A large value that an UPDATE left as it was is not in the log: whose tag it is nobody knows.
      const isPartial =
        after && Object.keys(coverage.columns).some(column => after[column] === undefined);
      if (isPartial) tags.add(wholesaleTag(schema, table));
      for (const tag of tagsOfChange(schema, table, coverage, before, after)) tags.add(tag);
    }
    return [...tags];
  }

  #sample(ms: number): void {
    this.#lags[this.#lagAt++ % SAMPLES] = Math.max(0, ms);
  }

  #tick(): void {
    const { state, applied } = this.#reader.progress;
    if (state !== 'reading') return;
    this.#reader.ask();
    void this.#greet().then(() => {
      // On idle, when all that was read has been dealt with, the server's own place is the reader's.
      const told = this.#told;
      if (told !== undefined && applied !== undefined && applied > told) {
        const { cluster, feed } = this.#options;
        if (this.#knowsTags) {
          feed.batch({ cluster, from: told, upto: applied, invalidations: [] });
          this.#told = applied;
        } else if (this.#isSilent) this.#told = applied;
      }
      if (performance.now() - this.#storedAt > STORE_IDLE_MS) this.#store();
    });
    const isDue = performance.now() - this.#lookedAt > LOOK_MS;
    if (isDue && !this.#hasTrigger) void this.#cover();
  }

  /** Brings the store up to what was told, one batch at a time, and acknowledges. */
  #store(): void {
    this.#storing ??= this.#storeAll().finally(() => {
      this.#storing = undefined;
    });
  }

  async #storeAll(): Promise<void> {
    const { cluster, store, onStoreTrouble } = this.#options;
    do {
      this.#storedAt = performance.now();
      const last = this.#unacknowledged;
      const invalidations = this.#unstored;
      const [from, upto] = [this.#storedTo, this.#told];
      this.#unacknowledged = undefined;
      this.#unstored = [];
      // An empty one as well: a bucket that has lost its marker gets a new one, on a quiet database too.
      if (from !== undefined && upto !== undefined && this.#knowsTags) {
        const applied = await store()
          ?.apply({ cluster, from, upto, invalidations })
          .catch((error: Error) => ({ unreachable: [{ bucket: 0, error: error as unknown }] }));
        const [trouble] = applied?.unreachable ?? [];
        onStoreTrouble(
          trouble
            ? `${applied!.unreachable.length} parts of the store did not take what changed: ${(trouble.error as Error).message}`
            : undefined,
        );
        // Somebody may have forgotten everything meanwhile.
        if (this.#storedTo === from) this.#storedTo = upto;
      }
      if (last) await this.#reader.applied(last);
    } while (this.#unacknowledged);
  }

  /**
   * Looks what the log covers, and tells it: after a gap, a change of the schema, or another connection. What does not work
   * is tried again with the next look; until then nothing more is covered.
   */
  async #cover(): Promise<void> {
    if (this.#isCovering) {
      this.#coverAgain = true;
      return;
    }
    this.#isCovering = true;
    this.#lookedAt = performance.now();
    const { members, connection, cluster, feed, note } = this.#options;
    let client: pg.Client | undefined;
    try {
      do {
        this.#coverAgain = false;
        const gaps = this.#gaps;
        ({ client } = await findPrimary(members(), {
          ...connection,
          application_name: 'banyan invalidator',
        }));
        this.#hasTrigger = await watchSchema(client);
        if (!this.#hasTrigger) await this.#comparePrint(client);
        await this.#reader.refreshPublication();
        const asked = client;
        await untilAllEnded(text => asked.query(text), this.#closing.signal);
        const from = parseLsn(await logEnd(client));
        const tables = await readCoverage(client, PUBLICATION);
        abandon(client);
        client = undefined;
        // What was found may be of before a gap that was told meanwhile.
        if (gaps !== this.#gaps) {
          this.#coverAgain = true;
          continue;
        }
        if (this.#told === undefined) break;
        if (this.#isSilent) await this.#breakSilence(from, tables);
        else {
          this.#knowsTags = true;
          if (JSON.stringify(tables) === JSON.stringify(this.#coverages)) continue;
          this.#coverages = tables;
          // What was told already had the tags of before.
          feed.covers(cluster, later(from, this.#told), tables);
        }
        note('the log covers', { cluster, tables: Object.keys(tables).length });
      } while (this.#coverAgain && !this.#closing.signal.aborted);
    } catch (error) {
      if (!this.#closing.signal.aborted) {
        note('what the log covers could not be looked up', {
          cluster,
          message: (error as Error).message,
        });
        this.#hasTrigger = false;
      }
    } finally {
      if (client) abandon(client);
      this.#isCovering = false;
    }
  }

  /** The line begins anew, with all that was committed until now before it. */
  async #breakSilence(from: bigint, tables: Coverages): Promise<void> {
    const { cluster, feed } = this.#options;
    const gaps = this.#gaps;
    const begin = later(from, this.#told ?? 0n);
    await this.#storing;
    await this.#flushStore(begin);
    if (gaps !== this.#gaps || this.#told === undefined) {
      this.#coverAgain = true;
      return;
    }
    // What came meanwhile was told to nobody either.
    this.#told = later(begin, this.#told);
    this.#storedTo = this.#told;
    this.#unstored = [];
    this.#coverages = tables;
    this.#knowsTags = true;
    this.#isSilent = false;
    feed.covers(cluster, this.#told, tables);
    feed.batch({ cluster, from: this.#told, upto: this.#told, invalidations: [] });
  }

  /** Where no trigger may be made. */
  async #comparePrint(client: pg.Client): Promise<void> {
    const print = await fingerprint(client);
    // What changed while nobody looked is not known either.
    const changed = print !== this.#print;
    this.#print = print;
    if (!changed || this.#told === undefined) return;
    await this.#forget(this.#told, 'the schema has changed');
  }
}

function later(one: bigint, other: bigint): bigint {
  if (one > other) return one;
  return other;
}
