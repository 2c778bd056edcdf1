/**
 * What the session that asks has to be shown: the position of its last write, in each cluster that it wrote to.
 *
 * Holds true here:
 * - Who has not written needs nothing, and nothing is asked for him.
 * - Who has, and whose position cannot be had in time, gets nothing from the cache.
 */
import type { BanyanPool } from '../database/banyan-pool.ts';
import { currentRequest } from '../database/consistency/scope.ts';
import type { CheckedTo } from './entry-format.ts';
import type { DatabaseReads } from './reads/database-reads.ts';

/** The primary takes a millisecond to say; longer, and the database is asked for everything. */
const TIMEOUT_MS = 500;
/** Beyond every position: nothing is known to show what the session has to see. */
export const NOWHERE = 2n ** 64n - 1n;

export class SessionNeeds {
  readonly #reads: DatabaseReads;
  readonly #isWrite = (text: string) => this.#reads.isWrite(text);
  #tracked: Pools | undefined;

  /** From now on it is noted who writes. */
  constructor(reads: DatabaseReads) {
    this.#reads = reads;
    this.#track(reads.poolsByCluster());
  }

  /** @returns by cluster; undefined: nothing; a promise only when something has to be asked */
  current(): CheckedTo | undefined | Promise<CheckedTo | undefined> {
    const pools = this.#reads.poolsByCluster();
    // A shard that has come since.
    if (pools !== this.#tracked) this.#track(pools);
    // Nearly all requests are of nobody who has written.
    if (currentRequest()?.isOfWriter === false) return undefined;
    let found: Record<string, bigint> | undefined;
    let asked: Promise<void>[] | undefined;
    for (const { id: cluster, pool } of pools) {
      let lsn = needOf(pool);
      if (lsn === undefined) continue;
      if (this.#reads.isUnfinished(cluster)) lsn = NOWHERE;
      found ??= {};
      if (typeof lsn === 'bigint') found[cluster] = lsn;
      else {
        const into = found;
        asked ??= [];
        asked.push(
          lsn.then(answer => {
            into[cluster] = answer;
          }),
        );
      }
    }
    if (!asked) return found;
    const all = found;
    return Promise.all(asked).then(() => all);
  }

  #track(pools: Pools): void {
    this.#tracked = pools;
    for (const { pool } of pools) pool.trackWrites(this.#isWrite);
  }
}

type Pools = ReturnType<DatabaseReads['poolsByCluster']>;

function needOf(pool: BanyanPool): bigint | Promise<bigint> | undefined {
  const { positions } = pool;
  const scope = positions?.scope();
  if (!positions || !scope || !(scope.hasWritten || scope.hasWrittenBefore)) return undefined;
  if (scope.token && !scope.isUnresolved) return scope.token.lsn;
  return positions.resolve(scope, TIMEOUT_MS).then(position => position?.lsn ?? NOWHERE);
}
