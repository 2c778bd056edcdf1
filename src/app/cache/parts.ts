/** What a cache is made of, and the words of its inside: a call, and what comes of a load. */
import type { CheckedTo } from './entry-format.ts';
import type { InvalidationFeed } from './feed.ts';
import type { LocalEntries } from './local-entries.ts';
import type { InvalidationMemory } from './memory.ts';
import type { GetOptions } from './options.ts';
import type { Positions } from './position.ts';
import type { DatabaseReads } from './reads/database-reads.ts';
import type { SessionNeeds } from './session-needs.ts';
import type { SharedEntries } from './shared-entries.ts';

export type Loader<T> = () => T | Promise<T>;

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
export interface Ask {
  /** With its namespace. */
  readonly key: string;
  readonly loader: Loader<unknown>;
  readonly options: GetOptions;
  readonly namespace: string;
}

export interface Outcome {
  readonly value: unknown;
  /** Undefined: it is not known what it depends on. */
  readonly positions: Positions | undefined;
  /** Nothing had changed when it was there. */
  readonly holds: boolean;
  /** It shows what had been acknowledged before it began, whoever asks. */
  readonly isOfPrimaries: boolean;
}

/**
 * Whether it shows all that had been told. A snapshot of a primary does not say so by its LSN: what ended before that
 * may have become visible after it was taken.
 * @param told undefined: nothing is known to have been
 */
export function shows({ positions }: Outcome, told: CheckedTo | undefined): boolean {
  if (!positions || !told) return false;
  return Object.entries(told).every(([cluster, lsn]) => {
    const position = positions[cluster];
    return position?.kind === 'replayed' && position.lsn >= lsn;
  });
}
