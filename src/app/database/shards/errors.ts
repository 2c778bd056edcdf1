/** What the application gets to know of its pool's shards. */
import { BanyanError } from '../../../errors.ts';

/** A statement on the session, or on the transaction, that has no meaning over several shards. Nothing was sent. */
export class ShardedSessionRefused extends BanyanError {
  /** As PostgreSQL's own for what it does not do: feature_not_supported. */
  readonly sqlState = '0A000';

  /** @param what completes "The statement …" */
  constructor(what: string, remedy: string) {
    super('SHARDED_SESSION_REFUSED', {
      what: `The statement ${what}`,
      where: 'a database of several shards',
      remedy,
    });
  }

  /** Of a cursor, a stream, a copy: what sends itself over one connection. */
  static ofSubmittable(): ShardedSessionRefused {
    return new ShardedSessionRefused(
      'is a cursor, a stream or a copy, and does not belong to one shard',
      'Nothing was sent. Give the shard key in its WHERE clause, or use pool.query, which merges',
    );
  }
}

/**
 * A transaction waited for a lock for so long, with locks on another shard, that two transactions are taken to wait
 * for each other: no server sees the whole circle. It has been rolled back.
 */
export class ShardDeadlock extends BanyanError {
  /** As PostgreSQL's own, which `pool.transaction` runs again after. */
  override readonly code = '40P01';
  readonly sqlState = '40P01';

  constructor(shard: string, waitedMs: number, cause: unknown) {
    super('40P01', {
      what: `A transaction over several shards waited ${waitedMs} ms for a lock, and was taken for one half of a deadlock`,
      where: `shard ${shard}`,
      remedy:
        'Nothing of it was kept: run the whole of it again, which `pool.transaction` does by itself. Where many transactions meet, change rows in the same order everywhere',
      cause,
    });
  }
}

/** What a transaction committed on a shard is not to be seen there yet, since the shard is away. */
export class ShardUnfinished extends BanyanError {
  constructor(shard: string) {
    super('SHARD_UNFINISHED', {
      what: 'The shard is away, and has not taken over yet what a transaction has committed there',
      where: `shard ${shard}`,
      remedy:
        'Nothing of this statement was executed, so it may be repeated. The shard takes it over by itself when it is back; `banyan status` tells what is the matter',
    });
  }
}

/** A shard takes no prepared transaction: its server is not configured for any, or for so many. */
export class TwoPhaseUnavailable extends BanyanError {
  constructor(cause: unknown) {
    super('TWO_PHASE_UNAVAILABLE', {
      what: `A transaction that wrote to several shards could not be committed: ${(cause as Error).message}`,
      where: 'a shard of the database',
      remedy:
        'Nothing of it was kept. Set max_prepared_transactions to as many as max_connections on all members of all shards, which takes a restart; Banyan does so for those that it runs',
      cause,
    });
  }
}
