/**
 * Watches one loader: what it read, from where, and what each of the clusters had to be at before.
 *
 * Holds true here:
 * - Of each cluster that it reads from there is one position, and it is of before the first read there.
 * - Of each that it does not read from the position is where the feed was when the load began.
 * - What is not certain spoils it: the result is given to who asked, and not kept.
 */

import { parseSnapshot } from '../../changes/snapshot.ts';
import type { ReadWatch, Watched } from '../../database/read-watch.ts';
import type { CheckedTo, EntryInfo } from '../entry-format.ts';
import type { InvalidationMemory } from '../memory.ts';
import { capped, type Position, type Positions, weaker } from '../position.ts';
import type { DatabaseReads } from './database-reads.ts';

/** What a load turned out to depend on, or why that is not known. */
export type Dependencies =
  | { readonly kind: 'known'; readonly positions: Positions; readonly tags: readonly string[] }
  | { readonly kind: 'spoilt'; readonly why: string };

export class LoadWatch implements ReadWatch {
  readonly #reads: DatabaseReads;
  readonly #memory: InvalidationMemory;
  readonly #begun: CheckedTo | undefined;
  readonly #positions = new Map<string, Position>();
  /** Asked for, and not there yet. */
  readonly #asking = new Map<string, Promise<void>>();
  /** `host:port` that the snapshot is of. */
  readonly #addresses = new Map<string, string>();
  readonly #caps = new Map<string, bigint>();
  readonly #tags = new Set<string>();
  #spoilt: string | undefined;
  /** Something that it read may be older than the load. */
  #mayBeOlder = false;

  constructor(reads: DatabaseReads, memory: InvalidationMemory) {
    this.#reads = reads;
    this.#memory = memory;
    this.#begun = memory.upto();
  }

  atPrimary(pool: Watched, address?: string): Promise<void> | undefined {
    const cluster = this.#clusterOf(pool);
    if (cluster === undefined) return undefined;
    if (this.#memory.epochOf(cluster) === undefined) {
      // Nothing will be kept, so nothing is asked.
      this.#unkept(`reads from ${cluster}, of whose changes nobody tells at the moment`);
      return undefined;
    }
    const known = this.#positions.get(cluster);
    if (known?.kind === 'replayed') {
      this.spoil('reads from a replica, and then from the primary');
      return undefined;
    }
    if (known) {
      this.#compare(cluster, address);
      return undefined;
    }
    let asking = this.#asking.get(cluster);
    if (!asking) {
      asking = this.#ask(cluster, pool);
      this.#asking.set(cluster, asking);
    }
    return asking.then(() => this.#compare(cluster, address));
  }

  atStandby(pool: Watched, lsn: bigint | undefined): void {
    const cluster = this.#clusterOf(pool);
    if (cluster === undefined) return;
    this.#mayBeOlder = true;
    if (lsn === undefined) {
      this.spoil('reads from a replica of which it is not known how far it is');
      return;
    }
    this.#add(cluster, { kind: 'replayed', lsn });
  }

  staysOnPrimary(pool: Watched): boolean {
    const cluster = this.#reads.clusterOf(pool);
    if (cluster === undefined) return false;
    return this.#positions.get(cluster)?.kind === 'snapshot' || this.#asking.has(cluster);
  }

  answered(
    pool: Watched,
    text: string,
    values: readonly unknown[] | undefined,
    result: unknown,
  ): void {
    const cluster = this.#clusterOf(pool);
    if (cluster === undefined || this.#spoilt !== undefined) return;
    const coverages = this.#memory.coveragesOf(cluster);
    if (!coverages) {
      this.#unkept(`reads from ${cluster}, of whose changes nobody tells at the moment`);
      return;
    }
    const tags = this.#reads.tagsOf(text, values ?? [], result, coverages);
    if (tags.kind === 'refused') this.spoil(tags.why);
    else for (const tag of tags.tags) this.#tags.add(tag);
  }

  /** Something that is cached itself was part of it. @param upto how far it is known to hold */
  addEntry({ tags }: Pick<EntryInfo, 'tags'>, upto: CheckedTo | undefined): void {
    if (!upto) {
      this.spoil('uses an entry while it is not known what changes');
      return;
    }
    for (const tag of tags) this.#tags.add(tag);
    for (const [cluster, lsn] of Object.entries(upto)) {
      const before = this.#caps.get(cluster);
      if (before === undefined || lsn < before) this.#caps.set(cluster, lsn);
    }
  }

  spoil(why: string): void {
    this.#unkept(why);
    this.#mayBeOlder = true;
  }

  /** What it gives cannot be kept, and is as new as any other result. */
  #unkept(why: string): void {
    this.#spoilt ??= why;
  }

  /** All that it read was on primaries at the time: it shows what had been acknowledged before the load began. */
  get isOfPrimaries(): boolean {
    return !this.#mayBeOlder && this.#caps.size === 0;
  }

  /** When the loader has returned. @param explicit tags that the application gave */
  dependencies(explicit: readonly string[]): Dependencies {
    if (this.#spoilt !== undefined) return { kind: 'spoilt', why: this.#spoilt };
    const begun = this.#begun;
    if (!begun) return { kind: 'spoilt', why: 'began while it was not known what changes' };
    const positions: Record<string, Position> = {};
    for (const cluster of this.#memory.clusters) {
      const lsn = begun[cluster];
      const read = this.#positions.get(cluster);
      if (!read && lsn === undefined) {
        return { kind: 'spoilt', why: `began before ${cluster} was known` };
      }
      const position: Position = read ?? { kind: 'replayed', lsn: lsn! };
      const cap = this.#caps.get(cluster);
      positions[cluster] = cap === undefined ? position : capped(position, cap);
    }
    for (const cluster of this.#positions.keys()) {
      if (!positions[cluster]) {
        return { kind: 'spoilt', why: `reads from ${cluster}, of whose changes nobody tells` };
      }
    }
    return { kind: 'known', positions, tags: [...new Set([...this.#tags, ...explicit])] };
  }

  async #ask(cluster: string, pool: Watched): Promise<void> {
    const epoch = this.#memory.epochOf(cluster);
    try {
      const { before, snapshot, lsn, address } = await this.#reads.moment(pool);
      const position: Position = {
        kind: 'snapshot',
        snapshot: parseSnapshot(snapshot),
        lsn,
        before,
      };
      this.#addresses.set(cluster, address);
      if (epoch !== undefined) this.#memory.noteSnapshot(cluster, position, epoch);
      this.#add(cluster, position);
    } catch (error) {
      this.spoil(`could not ask ${cluster} for its snapshot: ${(error as Error).message}`);
    }
  }

  /** A snapshot says nothing of another server: after a failover ids may be given again. */
  #compare(cluster: string, address: string | undefined): void {
    const asked = this.#addresses.get(cluster);
    if (address !== undefined && asked !== undefined && address !== asked) {
      this.spoil(`reads from ${address}, after its snapshot was asked of ${asked}`);
    }
  }

  #add(cluster: string, position: Position): void {
    const before = this.#positions.get(cluster);
    const both = before ? weaker(before, position) : position;
    if (both) this.#positions.set(cluster, both);
    else this.spoil('reads from the primary and from a replica');
  }

  #clusterOf(pool: Watched): string | undefined {
    const cluster = this.#reads.clusterOf(pool);
    if (cluster === undefined) this.spoil('reads from a database that is not the cache’s');
    return cluster;
  }
}
