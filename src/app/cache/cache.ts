/**
 * The cache: what an application asks. README.md says why what it gives is right.
 *
 * Holds true here:
 * - It gives what its loader would give now, or gave when nothing that it depends on was different.
 * - Nobody gets what is older than his session's last write.
 * - One load for a key at a time, in this process, and with Redis in all of them, as far as waiting for it is bounded.
 * - A loader's error is the caller's, and is not kept. The cache's own troubles are nobody's.
 */
import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { type BulkheadPolicy, bulkhead } from 'cockatiel';
import { LRUCache } from 'lru-cache';
import { tick } from '../database/consistency/position.ts';
import { currentRequest } from '../database/consistency/scope.ts';
import { currentWatch, watchReads } from '../database/read-watch.ts';
import { type HeavyKey, SpaceSaving } from '../database/shards/hot/space-saving.ts';
import { decode, encode } from './codec.ts';
import type { CheckedTo } from './entry-format.ts';
import { InvalidCacheOption } from './errors.ts';
import { EXPLICIT, type FeedEvent, type InvalidationFeed } from './feed.ts';
import type { LocalEntries, LocalEntry } from './local-entries.ts';
import type { InvalidationMemory } from './memory.ts';
import {
  type CacheKey,
  checkOptions,
  fullKey,
  type GetOptions,
  isTag,
  lifetimeOf,
} from './options.ts';
import { covers, type Positions } from './position.ts';
import type { DatabaseReads } from './reads/database-reads.ts';
import { LoadWatch } from './reads/load-watch.ts';
import { NOWHERE, type SessionNeeds } from './session-needs.ts';
import type { SharedEntries } from './shared-entries.ts';
import { type CacheCounts, CacheEmitter, noCounts } from './stats.ts';
import { explicitTag, keyTag } from './tags.ts';
import { turnNow } from './turn-clock.ts';

export type Loader<T> = () => T | Promise<T>;

export interface Explanation {
  readonly key: string;
  /** Where it is, as this process sees it. */
  readonly in: readonly ('process' | 'redis')[];
  /** It would be given out. */
  readonly holds: boolean;
  readonly tags: readonly string[];
  readonly positions: Positions;
  readonly ageMs: number;
  /** Until it expires; negative when it has. */
  readonly leftMs: number;
  readonly loadMs: number;
}

export interface CacheParts {
  readonly local: LocalEntries;
  /** Comes and goes with the map. */
  readonly shared: SharedEntries | undefined;
  readonly memory: InvalidationMemory;
  readonly feed: InvalidationFeed | undefined;
  readonly reads: DatabaseReads;
  readonly needs: SessionNeeds;
  /** Loaders that may run at a time. */
  readonly maxLoads: number;
  readonly onClose: () => Promise<void>;
}

/** One call of `get`. */
interface Ask {
  /** With its namespace. */
  readonly key: string;
  readonly loader: Loader<unknown>;
  readonly options: GetOptions;
  readonly namespace: string;
}

/** One load under way, or one look into Redis. */
interface Flight {
  readonly begun: number;
  /** Whose reads it makes: they have to show what was acknowledged before *that* request came. */
  readonly request: object | undefined;
  readonly outcome: Promise<Outcome>;
}

interface Outcome {
  readonly value: unknown;
  /** Undefined: it is not known what it depends on. */
  readonly positions: Positions | undefined;
  /** Nothing had changed when it was there. */
  readonly holds: boolean;
  /** It shows what had been acknowledged before it began, whoever asks. */
  readonly isOfPrimaries: boolean;
}

/** A loader that takes longer is taken for dead by the other servers. */
const LEASE_MS = 10_000;
/** For another server's load: longer, and one loads oneself. */
const LEASE_WAIT_MS = 1_000;
const FIRST_PAUSE_MS = 5;
const LONGEST_PAUSE_MS = 50;
/** Those who came together expire over a tenth of their time. */
const JITTER = 0.1;
/** A result larger than that is not kept. */
const MOST_BYTES = 4 * 1024 * 1024;
/** Keys that are found for certain have more than a 128th part of all. */
const HOT_KEYS = 128;
/** One of so many is counted, for that many. */
const SAMPLE = 16;
const HALVE_AFTER = 100_000;
/**
 * After so many tries to share a load one loads for oneself: the first may have begun before one came, the second has not, and shows
 * all that had been acknowledged by then, if it was read on a primary.
 */
const MOST_SHARED = 2;
/** Keys of which it is remembered that their result cannot be kept. */
const UNKEPT_KEYS = 10_000;
/** Who has to be shown what was written a moment ago waits for so long until that has been told, then asks the database. */
const TOLD_WAIT_MS = 50;
/** After a wait in vain nobody waits for so long. */
const IMPATIENT_MS = 1_000;

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

/**
 * Whether it shows all that had been told. A snapshot of a primary does not say so by its LSN: what ended before that
 * may have become visible after it was taken.
 * @param told undefined: nothing is known to have been
 */
function shows({ positions }: Outcome, told: CheckedTo | undefined): boolean {
  if (!positions || !told) return false;
  return Object.entries(told).every(([cluster, lsn]) => {
    const position = positions[cluster];
    return position?.kind === 'replayed' && position.lsn >= lsn;
  });
}

/** What all namespaces have in common. */
class CacheState {
  readonly events = new CacheEmitter();
  readonly counts = noCounts();
  readonly hot = new SpaceSaving(HOT_KEYS);
  readonly pending = new Set<Promise<unknown>>();
  readonly #parts: CacheParts;
  readonly #flights = new Map<string, Flight>();
  readonly #refreshing = new Set<string>();
  /** What was last loaded for them can neither be kept nor shared: there is no use in waiting for somebody else's. */
  readonly #unkept = new LRUCache<string, true>({ max: UNKEPT_KEYS });
  /** Who waits until something has been told. */
  readonly #waiting = new Set<() => void>();
  /** By `performance.now()`: until then nobody waits. */
  #impatientUntil = 0;
  readonly #loads: BulkheadPolicy;
  readonly #disconnect: (() => void) | undefined;
  #sample = 0;
  #heard: PromiseWithResolvers<void> | undefined;

  constructor(parts: CacheParts) {
    this.#parts = parts;
    this.#loads = bulkhead(parts.maxLoads, Number.POSITIVE_INFINITY);
    this.#disconnect = parts.feed?.connect(event => this.#hear(event));
  }

  get(
    key: string,
    loader: Loader<unknown>,
    options: GetOptions,
    namespace: string,
  ): Promise<unknown> {
    this.#observe(key);
    const { local, needs } = this.#parts;
    const entry = local.get(key);
    if (entry) {
      const needed = needs.current();
      if (
        needed === undefined ||
        (!(needed instanceof Promise) && this.#satisfies(entry, needed))
      ) {
        const served = this.#serve(entry, key, loader, options, namespace);
        if (served) return served;
        local.delete(key);
      }
    }
    checkOptions(options);
    return this.#getSlowly({ key, loader, options, namespace });
  }

  /** Undefined when its time is over, and its grace. */
  #serve(
    entry: LocalEntry,
    key: string,
    loader: Loader<unknown>,
    options: GetOptions,
    namespace: string,
  ): Promise<unknown> | undefined {
    const now = turnNow();
    if (now >= entry.goneAt) return undefined;
    const isStale = now >= entry.expiresAt;
    if (isStale) this.counts.staleHits++;
    if (isStale || isDueEarly(entry, now)) this.#refresh({ key, loader, options, namespace });
    this.counts.localHits++;
    return this.#given(entry);
  }

  #given(entry: LocalEntry): Promise<unknown> {
    const watch = currentWatch();
    if (watch instanceof LoadWatch) watch.addEntry(entry, this.#parts.memory.upto());
    entry.answer ??= Promise.resolve(entry.value);
    return entry.answer;
  }

  async #getSlowly(ask: Ask): Promise<unknown> {
    const { key, loader, options, namespace } = ask;
    const came = tick();
    const told = this.#parts.memory.upto();
    const needed = await this.#parts.needs.current();
    const { local } = this.#parts;
    const before = local.peek(key);
    if (needed && before && !this.#satisfies(before, needed)) await this.#untilTold(needed);
    const entry = local.peek(key);
    if (entry && this.#satisfies(entry, needed)) {
      const served = this.#serve(entry, key, loader, options, namespace);
      if (served) return served;
    } else if (entry && Date.now() < entry.expiresAt) this.counts.tooOld++;
    for (let shared = 0; shared < MOST_SHARED && !this.#unkept.has(key); shared++) {
      const flight = this.#flights.get(key);
      if (!flight) break;
      const outcome = await flight.outcome;
      // Nothing had changed when it was done, or it shows what had been told when one asked. That it began later is not
      // enough, but on a primary: it reads for a request that may have come long before, from a replica that is as far as that.
      const isLater = flight.begun > came;
      const isOwn = isLater && flight.request === currentRequest();
      const isFresh =
        outcome.holds || isOwn || (isLater && outcome.isOfPrimaries) || shows(outcome, told);
      if (isFresh && (needed === undefined || this.#satisfies(outcome, needed))) {
        this.counts.joined++;
        return this.#take(key, outcome);
      }
    }
    const flight = this.#begin(key, () => this.#fly(ask, needed));
    return this.#take(key, await flight.outcome);
  }

  /** Within another load, what this one depends on is that one's business too. */
  #take(key: string, { value, holds }: Outcome): unknown {
    const watch = currentWatch();
    if (!(watch instanceof LoadWatch)) return value;
    const entry = this.#parts.local.peek(key);
    if (holds && entry && entry.value === value) watch.addEntry(entry, this.#parts.memory.upto());
    else watch.spoil(`uses ${key}, which is not kept`);
    return value;
  }

  #begin(key: string, fly: () => Promise<Outcome>): Flight {
    const flight: Flight = { begun: tick(), request: currentRequest(), outcome: fly() };
    this.#flights.set(key, flight);
    const over = () => {
      if (this.#flights.get(key) === flight) this.#flights.delete(key);
    };
    flight.outcome.then(over, over);
    return flight;
  }

  async #fly(ask: Ask, needed: CheckedTo | undefined): Promise<Outcome> {
    const { key } = ask;
    const { shared } = this.#parts;
    let lease = '';
    if (shared?.isThere) {
      const found = await this.#find(ask, needed);
      if (found) return found;
      lease = randomBytes(8).toString('base64url');
      if ((await shared.lease(key, lease, LEASE_MS)) === false) {
        const others = await this.#awaitOthers(ask, needed);
        if (others) return others;
        lease = '';
      }
    }
    return this.#load(ask, lease);
  }

  /** Looks into Redis. */
  async #find(ask: Ask, needed: CheckedTo | undefined): Promise<Outcome | undefined> {
    const { key } = ask;
    const lookup = await this.#parts.shared!.get(key);
    if (lookup.kind === 'miss') return undefined;
    const { entry, value, version } = lookup.found;
    if (needed && !this.#satisfies(entry, needed)) await this.#untilTold(needed);
    const now = Date.now();
    if (now >= entry.goneAt) return undefined;
    // Something may have come while it was unpacked: from here on nothing is awaited until it is where batches find it.
    const { memory } = this.#parts;
    const isAsFound = memory.version === version;
    if (!isAsFound && memory.judge(entry.tags, entry.positions, entry.checkedTo).kind !== 'holds') {
      return undefined;
    }
    if (!this.#satisfies(entry, needed)) {
      this.counts.tooOld++;
      return undefined;
    }
    const kept: LocalEntry = { ...entry, key, value, bytes: entry.value.length, from: 'store' };
    this.#parts.local.set(kept);
    this.counts.sharedHits++;
    if (now >= entry.expiresAt) this.counts.staleHits++;
    if (now >= entry.expiresAt || isDueEarly(entry, now)) {
      this.#refresh(ask);
    }
    return { value, positions: entry.positions, holds: true, isOfPrimaries: false };
  }

  /** Another server loads it. */
  async #awaitOthers(ask: Ask, needed: CheckedTo | undefined): Promise<Outcome | undefined> {
    const deadline = performance.now() + LEASE_WAIT_MS;
    let pause = FIRST_PAUSE_MS;
    while (performance.now() < deadline && this.#parts.shared!.isThere) {
      await delay(pause);
      pause = Math.min(LONGEST_PAUSE_MS, pause * 2);
      const found = await this.#find(ask, needed);
      if (found) return found;
    }
    return undefined;
  }

  async #load({ key, loader, options, namespace }: Ask, lease: string): Promise<Outcome> {
    const { memory, reads, shared } = this.#parts;
    const watch = new LoadWatch(reads, memory);
    const begun = performance.now();
    let loaded: unknown;
    try {
      const run = async () => {
        this.#readsWhatWasTold();
        return watchReads(watch, loader);
      };
      // A load within a load has a place already: to wait for another could be to wait for itself.
      loaded = await (currentWatch() ? run() : this.#loads.execute(run));
    } catch (error) {
      this.counts.failedLoads++;
      this.#giveBack(key, lease);
      throw error;
    }
    this.counts.loads++;
    const loadMs = performance.now() - begun;
    if (this.events.listenerCount('loaded') > 0) this.events.emit('loaded', { key, ms: loadMs });
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
      this.#beside(
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

  /** Computes it anew beside the requests: once here, and by one server. */
  #refresh(ask: Ask): void {
    const { key } = ask;
    if (this.#refreshing.has(key) || this.#flights.has(key)) return;
    this.#refreshing.add(key);
    const refresh = async () => {
      const { shared } = this.#parts;
      let lease = '';
      if (shared?.isThere) {
        lease = randomBytes(8).toString('base64url');
        if ((await shared.lease(key, lease, LEASE_MS)) === false) return;
      }
      const flight = this.#begin(key, () => this.#load(ask, lease));
      await flight.outcome;
    };
    this.#beside(
      refresh()
        .catch(() => {})
        .finally(() => this.#refreshing.delete(key)),
    );
  }

  async drop(key: string): Promise<void> {
    const { local, shared } = this.#parts;
    local.delete(key);
    await shared?.remove(key);
    await this.invalidate([keyTag(key)]);
  }

  async invalidate(tags: readonly string[]): Promise<void> {
    const { feed, local, memory } = this.#parts;
    if (feed && memory.clusters.includes(EXPLICIT)) return feed.invalidate(tags);
    // Alone there is nobody to tell; a load that is under way is of before.
    const upto = (memory.uptoOf(EXPLICIT) ?? 0n) + 1n;
    const invalidations = [{ xid: undefined, lsn: upto, tags }];
    const batch = { cluster: EXPLICIT, from: upto - 1n, upto, invalidations };
    memory.note({ kind: 'batch', batch });
    this.counts.invalidated += local.apply(batch);
  }

  async explain(key: string): Promise<Explanation | undefined> {
    const { local, shared } = this.#parts;
    const here = local.peek(key);
    const there = await shared?.peek(key);
    const entry = here ?? there?.entry;
    if (!entry) return undefined;
    const now = Date.now();
    return {
      key,
      in: [...(here ? ['process' as const] : []), ...(there ? ['redis' as const] : [])],
      holds: here !== undefined || there?.holds === true,
      tags: entry.tags,
      positions: entry.positions,
      ageMs: now - entry.loadedAt,
      leftMs: entry.expiresAt - now,
      loadMs: entry.loadMs,
    };
  }

  async ready(): Promise<void> {
    await this.#parts.reads.ready();
    while (!this.#parts.memory.isWhole) {
      this.#heard ??= Promise.withResolvers();
      await this.#heard.promise;
    }
  }

  async close(): Promise<void> {
    this.#disconnect?.();
    await Promise.allSettled(this.pending);
    await this.#parts.onClose();
    this.#parts.local.clear();
  }

  #hear(event: FeedEvent): void {
    const { memory, local } = this.#parts;
    const isContinuous = memory.note(event);
    if (!isContinuous) {
      local.clear();
      this.counts.gaps++;
      const cluster = event.kind === 'batch' ? event.batch.cluster : event.cluster;
      const reason = event.kind === 'gap' ? event.reason : 'batches are missing';
      this.events.emit('gap', { cluster, reason });
    }
    if (event.kind !== 'batch') return;
    this.counts.invalidated += local.apply(event.batch);
    this.#heard?.resolve();
    this.#heard = undefined;
    for (const look of this.#waiting) look();
  }

  /** Waits until what a session has to see has been told, where that is a matter of a moment. */
  async #untilTold(needed: CheckedTo): Promise<void> {
    const { memory } = this.#parts;
    const isTold = () => {
      for (const cluster in needed)
        if (!((memory.uptoOf(cluster) ?? 0n) >= needed[cluster]!)) return false;
      return true;
    };
    const isKnown = !Object.values(needed).includes(NOWHERE) && memory.isWhole;
    if (isTold() || !isKnown || performance.now() < this.#impatientUntil) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const look = () => {
      if (isTold()) resolve();
    };
    this.#waiting.add(look);
    const timer = setTimeout(() => {
      this.#impatientUntil = performance.now() + IMPATIENT_MS;
      resolve();
    }, TOLD_WAIT_MS);
    await promise;
    clearTimeout(timer);
    this.#waiting.delete(look);
  }

  /** An entry that holds, as far as is known here, shows a session all that it has to see. */
  #satisfies(
    { positions }: { positions: Positions | undefined },
    needed: CheckedTo | undefined,
  ): boolean {
    for (const cluster in needed) {
      const lsn = needed[cluster]!;
      const upto = this.#parts.memory.uptoOf(cluster);
      if (upto !== undefined && upto >= lsn) continue;
      if (!covers(positions?.[cluster], lsn)) return false;
    }
    return true;
  }

  #refuse(key: string, why: string): void {
    this.counts.refusedFills++;
    if (this.events.listenerCount('refused') > 0) this.events.emit('refused', { key, why });
  }

  #giveBack(key: string, lease: string): void {
    const { shared } = this.#parts;
    if (lease !== '' && shared) this.#beside(shared.release(key, lease));
  }

  #beside(work: Promise<unknown>): void {
    this.pending.add(work);
    const over = () => this.pending.delete(work);
    work.then(over, over);
  }

  #observe(key: string): void {
    this.#sample = (this.#sample + 1) % SAMPLE;
    if (this.#sample !== 0) return;
    this.hot.observe(key, SAMPLE);
    if (this.hot.total > HALVE_AFTER) this.hot.halve();
  }
}

/**
 * Whether to compute an entry anew before it expires, so that a hot one is never missed: the likelier, the nearer its
 * end, the longer its load and the more often it is asked for.
 * Source: Vattani, Chierichetti, Lowenstein, "Optimal Probabilistic Cache Stampede Prevention" (2015), XFetch.
 */
function isDueEarly({ expiresAt, loadMs }: LocalEntryTimes, now: number): boolean {
  const left = expiresAt - now;
  // Beyond 20 times the load's time it is less likely than one in a billion.
  if (left > loadMs * 20) return false;
  return -Math.log(Math.random()) * loadMs >= left;
}

type LocalEntryTimes = Pick<LocalEntry, 'expiresAt' | 'loadMs'>;
