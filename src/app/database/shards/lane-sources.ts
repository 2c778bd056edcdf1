/**
 * Where the statements of a pool, or of a client outside of a transaction, go: each by itself, to the pool of its
 * shard; and what must be whole over several shards, in a transaction of its own.
 */
import type pg from 'pg';
import { hasCode } from '../../../errors.ts';
import { untilAborted } from '../cancel-request.ts';
import { stalenessOf } from '../consistency/staleness.ts';
import { TransactionBroken } from '../errors.ts';
import { currentWatch, unwatched } from '../read-watch.ts';
import type { LaneOptions, LaneStatement, Lanes } from './lanes.ts';
import type { ShardSet } from './shard-set.ts';
import { ShardedTransaction, type TransactionSource } from './sharded-transaction.ts';
import type { Coordinator } from './two-phase/coordinator.ts';
import { UNREAD } from './unique/tables.ts';

/** A statement whose connections break under it this often may be what breaks them. */
const MAX_ATTEMPTS = 4;

/** Over two shards (`ShardDeadlock`), or within one, which alone would not be in it. */
const DEADLOCK = '40P01';

export interface Autocommit {
  readonly shards: ShardSet;
  readonly source: TransactionSource;
  readonly coordinator: Coordinator;
  /** A connection that the client keeps for a shard; undefined: any of the pool. */
  kept?(index: number): Promise<pg.PoolClient> | undefined;
}

export class AutocommitLanes implements Lanes {
  readonly inTransaction = false;
  readonly #from: Autocommit;
  /** Milliseconds that answers may be old; undefined: as the pool has it. */
  readonly #staleness: number | undefined;

  constructor(from: Autocommit, staleness?: number) {
    this.#from = from;
    this.#staleness = staleness;
  }

  /** Those for a statement that says itself how old its answer may be. */
  of(config: unknown): AutocommitLanes {
    const staleness = stalenessOf(config, undefined);
    return staleness === undefined ? this : new AutocommitLanes(this.#from, staleness);
  }

  get count(): number {
    return this.#from.shards.count;
  }

  async query(
    index: number,
    statement: LaneStatement,
    options: LaneOptions,
  ): Promise<pg.QueryResult<never>> {
    const { shards, coordinator } = this.#from;
    const shard = shards.at(index);
    if (coordinator.unfinished(shard.id)) await shards.seen(shard, coordinator);
    const opening = this.#from.kept?.(index);
    const kept = opening && (await opening);
    try {
      const sent = {
        ...statement,
        ...(this.#staleness === undefined ? {} : { staleness: this.#staleness }),
      };
      if (kept) currentWatch()?.spoil('reads over a connection with a session of its own');
      const { signal } = options;
      const send = () => {
        if (kept) return untilAborted(signal, kept, () => kept.query(sent));
        return signal ? shard.pool.queryUntil(signal, sent) : shard.pool.query(sent);
      };
      const result = (await shard.observed(options.key, () =>
        options.isAside ? unwatched(send) : send(),
      )) as pg.QueryResult<never>;
      // The pool takes note of its own.
      if (kept && options.wantsWrite) shard.noteWrite(false);
      return result;
    } catch (error) {
      // It changed unique values without naming their table: nothing was kept, and in a transaction they are seen to.
      if (!hasCode(error, UNREAD)) throw error;
      return this.atomically(on => on.query(index, statement, options));
    }
  }

  /** Run again when nothing of it was kept, as any statement is that was not carried out. */
  async atomically<T>(run: (lanes: Lanes) => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      const transaction = new ShardedTransaction(this.#from.source);
      try {
        return await within(transaction, run);
      } catch (error) {
        const isBroken = error instanceof TransactionBroken && error.safeToRetry;
        if ((!isBroken && !hasCode(error, DEADLOCK)) || attempt >= MAX_ATTEMPTS) throw error;
      }
    }
  }
}

async function within<T>(
  transaction: ShardedTransaction,
  run: (lanes: Lanes) => Promise<T>,
): Promise<T> {
  let value: T;
  try {
    value = await run(transaction);
  } catch (error) {
    await transaction.rollBack();
    throw error;
  }
  await transaction.commit();
  return value;
}
