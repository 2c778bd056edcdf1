/**
 * L2: entries in Redis, for all processes.
 *
 * Holds true here:
 * - It never fails anybody: what goes wrong is a miss. It costs one short timeout a few times, then a circuit breaker
 *   lets nobody wait until Redis answers again.
 * - What it gives holds, by the rule of README.md, as far as this process knows; else it gives nothing.
 */
import { compressed, decode, decompressed } from './codec.ts';
import {
  type CheckedTo,
  type EntryInfo,
  readEntry,
  type StoredEntry,
  writeEntry,
} from './entry-format.ts';
import type { InvalidationMemory } from './memory.ts';
import type { FillAnswer, RedisStore } from './redis/redis-store.ts';

/** So many failures in a row, and it is taken for away. */
const FAILURES = 3;
/** Then it is tried again, with one question, this much later. */
const TRY_AGAIN_MS = 1_000;
/** Smaller ones gain nothing that the time for it would not cost. */
const COMPRESS_FROM_BYTES = 4_096;

export interface Found {
  readonly entry: StoredEntry;
  /** By this process, or by what it knows. */
  readonly checkedTo: CheckedTo;
  readonly value: unknown;
  /** Of the memory, when it was found to hold. */
  readonly version: number;
}

export type Lookup =
  | { readonly kind: 'hit'; readonly found: Found }
  | { readonly kind: 'miss'; readonly why: 'absent' | 'overtaken' | 'unknown' | 'away' };

export class SharedEntries {
  readonly #store: RedisStore;
  readonly #memory: InvalidationMemory;
  /** In a row. */
  #failures = 0;
  /** By `performance.now()`: until then nobody asks. */
  #openUntil = 0;

  constructor(store: RedisStore, memory: InvalidationMemory) {
    this.#store = store;
    this.#memory = memory;
  }

  /** It answers, as far as is known, or it is time to try. */
  get isThere(): boolean {
    if (!this.#store.isReady) return false;
    return this.#failures < FAILURES || performance.now() >= this.#openUntil;
  }

  /** Without `#try`, and with as few promises as can be: a hit is little more than this question. */
  get(key: string): Promise<Lookup> {
    if (!this.#memory.isWhole) return Promise.resolve({ kind: 'miss', why: 'unknown' });
    if (!this.#mayAsk()) return Promise.resolve({ kind: 'miss', why: 'away' });
    return this.#store.get(key).then(
      bytes => {
        this.#failures = 0;
        return this.#open(key, bytes);
      },
      () => {
        this.#failed();
        return { kind: 'miss', why: 'away' };
      },
    );
  }

  #open(key: string, bytes: Buffer | null): Lookup | Promise<Lookup> {
    const entry = bytes && readEntry(bytes);
    if (!entry) return { kind: 'miss', why: 'absent' };
    const checked = this.#check(key, entry);
    if (checked instanceof Promise || entry.isCompressed) return this.#openSlowly(entry, checked);
    if (typeof checked === 'string') return { kind: 'miss', why: checked };
    return this.#unpack(entry, checked, entry.value);
  }

  async #openSlowly(entry: StoredEntry, checking: Checked | Promise<Checked>): Promise<Lookup> {
    const checked = await checking;
    if (typeof checked === 'string') return { kind: 'miss', why: checked };
    // Judged before it is decompressed: what comes meanwhile makes another version of the memory.
    const { version } = this.#memory;
    try {
      const raw = entry.isCompressed ? await decompressed(entry.value) : entry.value;
      return this.#unpack(entry, checked, raw, version);
    } catch {
      return { kind: 'miss', why: 'absent' };
    }
  }

  #unpack(
    entry: StoredEntry,
    checkedTo: CheckedTo,
    raw: Buffer,
    version = this.#memory.version,
  ): Lookup {
    try {
      return { kind: 'hit', found: { entry, checkedTo, value: decode(raw), version } };
    } catch {
      // Damaged, or of another version.
      return { kind: 'miss', why: 'absent' };
    }
  }

  /** As it lies there, whether it holds or not. */
  async peek(key: string): Promise<{ entry: StoredEntry; holds: boolean } | undefined> {
    const bytes = await this.#try(() => this.#store.get(key));
    const entry = bytes === AWAY ? undefined : bytes && readEntry(bytes);
    if (!entry) return undefined;
    const { kind } = this.#memory.judge(entry.tags, entry.positions, entry.checkedTo);
    return { entry, holds: kind === 'holds' };
  }

  #check(key: string, entry: StoredEntry): Checked | Promise<Checked> {
    const memory = this.#memory;
    const { kind } = memory.judge(entry.tags, entry.positions, entry.checkedTo);
    if (kind === 'overtaken') return 'overtaken';
    if (kind === 'holds') {
      const upto = memory.upto()!;
      // Before the memories of all have moved on, and the records would have to be asked.
      if (memory.isAgeing(entry.checkedTo))
        void this.#try(() => this.#store.vouch(key, entry, upto));
      return upto;
    }
    return this.#checkByRecords(key, entry);
  }

  async #checkByRecords(key: string, entry: StoredEntry): Promise<Checked> {
    const memory = this.#memory;
    const answer = await this.#try(() => this.#store.askRecords(key, entry, memory.horizons()));
    if (answer === AWAY || answer.kind !== 'vouched') return 'unknown';
    const again = memory.judge(entry.tags, entry.positions, answer.checkedTo);
    return again.kind === 'holds' ? memory.upto()! : again.kind;
  }

  /** Stores it if it holds. @param keepMs from now */
  async fill(
    key: string,
    info: Omit<EntryInfo, 'isCompressed'>,
    value: Buffer,
    checkedTo: CheckedTo,
    keepMs: number,
    lease: string,
  ): Promise<FillAnswer | undefined> {
    const isCompressed = value.length >= COMPRESS_FROM_BYTES;
    const bytes = isCompressed ? await compressed(value) : value;
    const entry = writeEntry({ ...info, isCompressed }, bytes);
    const { positions, tags } = info;
    const answer = await this.#try(() =>
      this.#store.fill({ key, entry, positions, checkedTo, tags, keepMs, lease }),
    );
    return answer === AWAY ? undefined : answer;
  }

  /** @returns whether one is to load it; undefined when nobody can say */
  async lease(key: string, token: string, forMs: number): Promise<boolean | undefined> {
    const answer = await this.#try(() => this.#store.lease(key, token, forMs));
    return answer === AWAY ? undefined : answer;
  }

  async release(key: string, token: string): Promise<void> {
    await this.#try(() => this.#store.release(key, token));
  }

  async remove(key: string): Promise<void> {
    await this.#try(() => this.#store.remove(key));
  }

  /** The circuit breaker: a library's costs half as much as the question itself. */
  async #try<T>(ask: () => Promise<T>): Promise<T | typeof AWAY> {
    if (!this.#mayAsk()) return AWAY;
    try {
      const answer = await ask();
      this.#failures = 0;
      return answer;
    } catch {
      this.#failed();
      return AWAY;
    }
  }

  #mayAsk(): boolean {
    if (this.#failures < FAILURES) return true;
    const now = performance.now();
    if (now < this.#openUntil) return false;
    // One may try; who comes meanwhile does not wait for what comes of it.
    this.#openUntil = now + TRY_AGAIN_MS;
    return true;
  }

  #failed(): void {
    this.#failures++;
    if (this.#failures >= FAILURES) this.#openUntil = performance.now() + TRY_AGAIN_MS;
  }
}

/** How far it is known to hold, or why it is not to be given. */
type Checked = CheckedTo | 'overtaken' | 'unknown';

const AWAY = Symbol('away');
