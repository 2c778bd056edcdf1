/**
 * The store in Redis: what the invalidator applies, and what processes get and fill (README.md).
 *
 * Holds true here:
 * - Each bucket by itself: one that is away, or has a hole, is no matter of the others.
 * - A hole is closed from the last batches that were applied here; what is older is not known, and the bucket
 *   begins anew.
 */
import type { CheckedTo, EntryParts } from '../entry-format.ts';
import type { Batch } from '../feed.ts';
import { lsnText, type Positions, parseLsnText } from '../position.ts';
import type { Applied, InvalidationStore } from '../store.ts';
import { bucketOf, hashTagOf } from './buckets.ts';
import { RedisConnection, type RedisTarget, type Reply } from './connection.ts';
import { GatheredGets } from './gathered-gets.ts';
import { APPLY, FILL, FORGET, RELEASE, VOUCH } from './scripts.ts';

export interface RedisStoreOptions {
  readonly target: RedisTarget;
  /** The deployment's name and the map's generation: part of every key. */
  readonly prefix: string;
  readonly buckets: number;
  readonly onError: (error: unknown) => void;
  /** Of each question, in milliseconds. Default: 250. */
  readonly timeoutMs?: number;
}

export type FillAnswer =
  | { readonly kind: 'stored'; readonly checkedTo: CheckedTo }
  /** Nothing was stored. */
  | {
      readonly kind: 'refused';
      readonly why: 'unmarked' | 'forgotten' | 'overtaken';
      readonly by: string;
    };

export type VouchAnswer =
  | { readonly kind: 'vouched'; readonly checkedTo: CheckedTo }
  | { readonly kind: 'gone' }
  | { readonly kind: 'unknown'; readonly why: string };

export interface Fill {
  readonly key: string;
  readonly entry: EntryParts;
  readonly positions: Positions;
  readonly checkedTo: CheckedTo;
  readonly tags: readonly string[];
  /** How long it is kept, in milliseconds. */
  readonly keepMs: number;
  /** The lease that its loader has; empty: none. */
  readonly lease: string;
}

/** Batches kept to close holes with. */
const KEPT_BATCHES = 1_024;
/** Records that one run of the script touches. */
const MOST_TAGS = 2_000;

export class RedisStore implements InvalidationStore {
  readonly #connection: RedisConnection;
  readonly #gets: GatheredGets;
  readonly #prefixes: readonly string[];
  readonly #kept: Batch[] = [];

  constructor(options: RedisStoreOptions) {
    const { target, prefix, buckets, onError, timeoutMs } = options;
    this.#connection = RedisConnection.open(target, onError, timeoutMs);
    this.#gets = new GatheredGets(this.#connection);
    this.#prefixes = Array.from(
      { length: buckets },
      (_, bucket) => `banyan:${prefix}:{${hashTagOf(bucket, buckets)}}`,
    );
  }

  get isReady(): boolean {
    return this.#connection.isReady;
  }

  get buckets(): number {
    return this.#prefixes.length;
  }

  async apply(batch: Batch): Promise<Applied> {
    const parts = partsOf(batch);
    const unreachable: { bucket: number; error: unknown }[] = [];
    const begunAnew: number[] = [];
    await Promise.all(
      this.#prefixes.map(async (prefix, bucket) => {
        try {
          for (const part of parts) if (await this.#applyTo(prefix, part)) begunAnew.push(bucket);
        } catch (error) {
          unreachable.push({ bucket, error });
        }
      }),
    );
    this.#kept.push(...parts);
    if (this.#kept.length > KEPT_BATCHES) this.#kept.splice(0, this.#kept.length - KEPT_BATCHES);
    return { buckets: this.#prefixes.length - unreachable.length, unreachable, begunAnew };
  }

  /** @returns whether the bucket began anew */
  async #applyTo(prefix: string, batch: Batch): Promise<boolean> {
    const [word, applied] = await this.#send(prefix, batch, '');
    if (word !== 'HOLE') return false;
    for (const missed of this.#missed(batch, applied as string))
      await this.#send(prefix, missed, '');
    return (await this.#send(prefix, batch, 'anew'))[0] === 'ANEW';
  }

  /** What was applied here after a bucket's `applied`, if it reaches back to there. */
  #missed({ cluster, from }: Batch, applied: string): Batch[] {
    if (applied === '') return [];
    const after = parseLsnText(applied);
    const batches = this.#kept.filter(
      kept => kept.cluster === cluster && kept.upto > after && kept.upto <= from,
    );
    return batches[0] && batches[0].from <= after ? batches : [];
  }

  #send(
    prefix: string,
    { cluster, from, upto, invalidations }: Batch,
    mode: string,
  ): Promise<Reply[]> {
    const last = new Map<string, string>();
    const changes = invalidations.map(({ xid, lsn, tags }) => {
      const text = lsnText(lsn);
      for (const tag of tags) last.set(tag, text);
      return [xid ?? null, text, ...tags];
    });
    const packed = changes.length === 0 ? '' : JSON.stringify([cluster, lsnText(upto), changes]);
    return this.#connection.run(
      APPLY,
      [`${prefix}:m`, `${prefix}:r`, ...[...last.keys()].map(tag => `${prefix}:t:${tag}`)],
      [cluster, lsnText(from), lsnText(upto), packed, mode, ...last.values()],
    );
  }

  async flush(cluster: string, upto: bigint): Promise<void> {
    this.#kept.length = 0;
    await Promise.all(
      this.#prefixes.map(prefix =>
        this.#connection.run(FORGET, [`${prefix}:m`, `${prefix}:r`], [cluster, lsnText(upto)]),
      ),
    );
  }

  /** @throws CacheAway */
  get(key: string): Promise<Buffer | null> {
    const bucket = bucketOf(key, this.#prefixes.length);
    return this.#gets.get(bucket, `${this.#prefixes[bucket]}:e:${key}`);
  }

  /** Stores an entry if the rule holds for it; gives the lease back however it goes. @throws CacheAway */
  async fill({ key, entry, positions, checkedTo, tags, keepMs, lease }: Fill): Promise<FillAnswer> {
    const prefix = this.#prefixOf(key);
    const clusters = entry.clusters.flatMap(name => {
      const position = positions[name]!;
      const checked = lsnText(checkedTo[name]!);
      const lsn = lsnText(position.lsn);
      if (position.kind === 'replayed') return [name, checked, 'r', '', '', '', lsn];
      const { xmin, xmax, running } = position.snapshot;
      return [name, checked, 's', String(xmin), String(xmax), [...running].join(','), lsn];
    });
    const [word, ...rest] = (await this.#connection.run(
      FILL,
      [
        `${prefix}:m`,
        `${prefix}:r`,
        `${prefix}:e:${key}`,
        `${prefix}:l:${key}`,
        ...tags.map(tag => `${prefix}:t:${tag}`),
      ],
      [
        entry.before,
        entry.after,
        String(Math.max(1, Math.ceil(keepMs))),
        lease,
        String(entry.clusters.length),
        ...clusters,
        ...tags,
      ],
    )) as string[];
    if (word === 'OK') return { kind: 'stored', checkedTo: zip(entry.clusters, rest) };
    const why = word!.toLowerCase() as 'unmarked' | 'forgotten' | 'overtaken';
    return { kind: 'refused', why, by: rest[0] ?? '' };
  }

  /**
   * Asks the records whether an entry still holds up to where the reader's memory begins.
   * @param horizons of the reader, by cluster
   * @throws CacheAway
   */
  async askRecords(
    key: string,
    entry: { id: Buffer; clusters: readonly string[]; tags: readonly string[] },
    horizons: CheckedTo,
  ): Promise<VouchAnswer> {
    const records = entry.tags.map(tag => `${this.#prefixOf(key)}:t:${tag}`);
    return this.#vouch(key, entry, horizons, records);
  }

  /** Tells others how far one has checked an entry oneself. @throws CacheAway */
  async vouch(
    key: string,
    entry: { id: Buffer; clusters: readonly string[] },
    checkedTo: CheckedTo,
  ): Promise<VouchAnswer> {
    return this.#vouch(key, entry, checkedTo, []);
  }

  async #vouch(
    key: string,
    { id, clusters }: { id: Buffer; clusters: readonly string[] },
    lsns: CheckedTo,
    records: readonly string[],
  ): Promise<VouchAnswer> {
    const prefix = this.#prefixOf(key);
    const [word, ...rest] = (await this.#connection.run(
      VOUCH,
      [`${prefix}:m`, `${prefix}:e:${key}`, ...records],
      [id, String(clusters.length), ...clusters.flatMap(name => [name, lsnText(lsns[name] ?? 0n)])],
    )) as string[];
    if (word === 'OK') return { kind: 'vouched', checkedTo: zip(clusters, rest) };
    return word === 'GONE' ? { kind: 'gone' } : { kind: 'unknown', why: rest[0] ?? '' };
  }

  /** Whether one is the one who loads it. @throws CacheAway */
  async lease(key: string, token: string, forMs: number): Promise<boolean> {
    const at = `${this.#prefixOf(key)}:l:${key}`;
    const answer = await this.#connection.command(at, [
      'SET',
      at,
      token,
      'NX',
      'PX',
      String(forMs),
    ]);
    return answer === 'OK';
  }

  /** @throws CacheAway */
  async release(key: string, token: string): Promise<void> {
    await this.#connection.run(RELEASE, [`${this.#prefixOf(key)}:l:${key}`], [token]);
  }

  /** Takes an entry away. @throws CacheAway */
  async remove(key: string): Promise<void> {
    const at = `${this.#prefixOf(key)}:e:${key}`;
    await this.#connection.command(at, ['UNLINK', at]);
  }

  async close(): Promise<void> {
    this.#connection.close();
  }

  #prefixOf(key: string): string {
    return this.#prefixes[bucketOf(key, this.#prefixes.length)]!;
  }
}

/** A batch of many tags in several that follow each other. */
function partsOf(batch: Batch): Batch[] {
  const parts: Batch[] = [];
  let from = batch.from;
  let invalidations: Batch['invalidations'][number][] = [];
  let tags = 0;
  for (const [i, invalidation] of batch.invalidations.entries()) {
    invalidations.push(invalidation);
    tags += invalidation.tags.length;
    const next = batch.invalidations[i + 1];
    // Those of one position stay together: a part ends where the next begins.
    if (tags < MOST_TAGS || !next || next.lsn === invalidation.lsn) continue;
    parts.push({ cluster: batch.cluster, from, upto: invalidation.lsn, invalidations });
    from = invalidation.lsn;
    invalidations = [];
    tags = 0;
  }
  parts.push({ cluster: batch.cluster, from, upto: batch.upto, invalidations });
  return parts;
}

function zip(names: readonly string[], lsns: readonly string[]): CheckedTo {
  return Object.fromEntries(names.map((name, i) => [name, parseLsnText(lsns[i]!)]));
}
