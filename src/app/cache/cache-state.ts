/**
 * What all namespaces of a cache have in common: where a key is looked for, in which order, and who loads it.
 *
 * Holds true here:
 * - In the process, then what another call is loading, then Redis, then what another server is loading; then it is loaded.
 * - What is given to a session shows all that the session has to see, wherever it was found.
 */
import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { tick } from '../database/consistency/position.ts';
import { currentRequest } from '../database/consistency/scope.ts';
import { currentWatch } from '../database/read-watch.ts';
import { SpaceSaving } from '../database/shards/hot/space-saving.ts';
import type { CheckedTo } from './entry-format.ts';
import { EXPLICIT, type FeedEvent } from './feed.ts';
import { Loads } from './loads.ts';
import type { LocalEntry } from './local-entries.ts';
import { checkOptions, type GetOptions } from './options.ts';
import { type Ask, type CacheParts, type Loader, type Outcome, shows } from './parts.ts';
import { covers, type Positions } from './position.ts';
import { LoadWatch } from './reads/load-watch.ts';
import type { Found, Lookup } from './shared-entries.ts';
import { CacheEmitter, noCounts } from './stats.ts';
import { keyTag } from './tags.ts';
import { ToldWait } from './told-wait.ts';
import { turnNow } from './turn-clock.ts';

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

/** One load under way, or one look into Redis. */
interface Flight {
  readonly begun: number;
  /** Whose reads it makes: they have to show what was acknowledged before *that* request came. */
  readonly request: object | undefined;
  readonly outcome: Promise<Outcome>;
}

/** A loader that takes longer is taken for dead by the other servers. */
const LEASE_MS = 10_000;
/** For another server's load: longer, and one loads oneself. */
const LEASE_WAIT_MS = 1_000;
const FIRST_PAUSE_MS = 5;
const LONGEST_PAUSE_MS = 50;
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
/** What all namespaces have in common. */
export class CacheState {
  readonly events = new CacheEmitter();
  readonly counts = noCounts();
  readonly hot = new SpaceSaving(HOT_KEYS);
  readonly pending = new Set<Promise<unknown>>();
  readonly #parts: CacheParts;
  readonly #flights = new Map<string, Flight>();
  readonly #refreshing = new Set<string>();
  readonly #told: ToldWait;
  readonly #loads: Loads;
  readonly #disconnect: (() => void) | undefined;
  #sample = 0;
  #heard: PromiseWithResolvers<void> | undefined;

  constructor(parts: CacheParts) {
    this.#parts = parts;
    this.#told = new ToldWait(parts.memory);
    this.#loads = new Loads(parts, this);
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
    const { local, needs } = this.#parts;
    const asked = needs.current();
    const needed = asked instanceof Promise ? await asked : asked;
    const before = local.peek(key);
    if (needed && before && !this.#satisfies(before, needed)) await this.#told.until(needed);
    const entry = local.peek(key);
    if (entry && this.#satisfies(entry, needed)) {
      const served = this.#serve(entry, key, loader, options, namespace);
      if (served) return served;
    } else if (entry && Date.now() < entry.expiresAt) this.counts.tooOld++;
    for (let shared = 0; shared < MOST_SHARED && !this.#loads.isUnkept(key); shared++) {
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
    return this.#take(key, await this.#begin(key, () => this.#fly(ask, needed)));
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

  async #begin(key: string, fly: () => Promise<Outcome>): Promise<Outcome> {
    const flight: Flight = { begun: tick(), request: currentRequest(), outcome: fly() };
    this.#flights.set(key, flight);
    try {
      return await flight.outcome;
    } finally {
      if (this.#flights.get(key) === flight) this.#flights.delete(key);
    }
  }

  async #fly(ask: Ask, needed: CheckedTo | undefined): Promise<Outcome> {
    const { key } = ask;
    const { shared } = this.#parts;
    let lease = '';
    if (shared?.isThere) {
      const given = this.#give(ask, needed, await shared.get(key));
      const found = given instanceof Promise ? await given : given;
      if (found) return found;
      lease = randomBytes(8).toString('base64url');
      if ((await shared.lease(key, lease, LEASE_MS)) === false) {
        const others = await this.#awaitOthers(ask, needed);
        if (others) return others;
        lease = '';
      }
    }
    return this.#loads.load(ask, lease);
  }

  /** What lay in Redis, if it holds and is new enough. */
  #give(
    ask: Ask,
    needed: CheckedTo | undefined,
    lookup: Lookup,
  ): Outcome | undefined | Promise<Outcome | undefined> {
    if (lookup.kind === 'miss') return undefined;
    const { found } = lookup;
    if (!needed || this.#satisfies(found.entry, needed)) return this.#keep(ask, needed, found);
    return this.#told.until(needed).then(() => this.#keep(ask, needed, found));
  }

  #keep(
    ask: Ask,
    needed: CheckedTo | undefined,
    { entry, checkedTo, value, version }: Found,
  ): Outcome | undefined {
    const { key } = ask;
    const now = Date.now();
    if (now >= entry.goneAt) return undefined;
    // Something may have come while it was unpacked: from here on nothing is awaited until it is where batches find it.
    const { memory } = this.#parts;
    const isAsFound = memory.version === version;
    const { positions, tags, loadedAt, expiresAt, goneAt, loadMs, isCompressed } = entry;
    if (!isAsFound && memory.judge(tags, positions, checkedTo).kind !== 'holds') return undefined;
    if (!this.#satisfies(entry, needed)) {
      this.counts.tooOld++;
      return undefined;
    }
    this.#parts.local.set({
      key,
      value,
      positions,
      tags,
      loadedAt,
      expiresAt,
      goneAt,
      loadMs,
      isCompressed,
      bytes: entry.value.length,
      from: 'store',
    });
    this.counts.sharedHits++;
    if (now >= expiresAt) this.counts.staleHits++;
    if (now >= expiresAt || isDueEarly(entry, now)) this.#refresh(ask);
    return { value, positions, holds: true, isOfPrimaries: false };
  }

  /** Another server loads it. */
  async #awaitOthers(ask: Ask, needed: CheckedTo | undefined): Promise<Outcome | undefined> {
    const deadline = performance.now() + LEASE_WAIT_MS;
    let pause = FIRST_PAUSE_MS;
    while (performance.now() < deadline && this.#parts.shared!.isThere) {
      await delay(pause);
      pause = Math.min(LONGEST_PAUSE_MS, pause * 2);
      const found = await this.#give(ask, needed, await this.#parts.shared!.get(ask.key));
      if (found) return found;
    }
    return undefined;
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
      await this.#begin(key, () => this.#loads.load(ask, lease));
    };
    this.beside(
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
    this.#told.look();
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

  /** What nobody waits for, but `settled` and `close`. */
  beside(work: Promise<unknown>): void {
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
