/**
 * A branch: the part of a transaction that runs on one shard, and the connection that it runs on.
 *
 * Holds true here: a connection that broke, or did not answer in time, is given back at once, closed: its place in
 * the pool may be what the others wait for.
 */
import type pg from 'pg';
import { isBroken, wasNotSent } from '../../breakage.ts';
import { breakConnection } from '../../pool-internals.ts';

/** A shard, as those see it who have to reach its primary, whichever that is at the moment. */
export interface ShardPrimary {
  readonly id: string;
  /**
   * A connection of its own to the primary, beside the pool's, which may all be in use. To be ended by the caller.
   * @throws at once when there is no primary at the moment
   */
  open(): Promise<pg.Client>;
}

/** It was not answered within its time. */
export class BranchTimeout extends Error {
  /** As of a connection that broke: nobody knows what became of it. */
  readonly code = 'ETIMEDOUT';
}

export class Branch {
  readonly shard: ShardPrimary;
  readonly client: pg.PoolClient;
  readonly #giveBack: (error: Error | undefined) => void;
  #isGivenBack = false;
  #isBroken = false;
  /** It may have written, or locked, something. */
  wrote = false;
  /** It used what PostgreSQL does not prepare: NOTIFY, a temporary table, a cursor that is held. */
  cannotPrepare = false;

  /** @param giveBack called once, when nothing is to be sent any more; with an error it is to be closed */
  constructor(
    shard: ShardPrimary,
    client: pg.PoolClient,
    giveBack: (error: Error | undefined) => void,
  ) {
    this.shard = shard;
    this.client = client;
    this.#giveBack = giveBack;
  }

  /** Its connection is gone, and whatever was not committed or prepared with it. */
  get isBroken(): boolean {
    return this.#isBroken;
  }

  /**
   * @param timeoutMs after this the connection is closed. Default: no limit
   * @throws what pg throws; BranchTimeout
   */
  query(text: string, values?: unknown[], timeoutMs?: number): Promise<pg.QueryResult> {
    return this.send({ text, ...(values ? { values } : {}) }, timeoutMs);
  }

  /** The same, with all that pg knows of a query. */
  async send(config: pg.QueryConfig, timeoutMs?: number): Promise<pg.QueryResult> {
    let timer: NodeJS.Timeout | undefined;
    // pg writes into what it is given.
    const answer = this.client.query({ ...config });
    try {
      if (timeoutMs === undefined) return await answer;
      const late = new Promise<never>((_, reject) => {
        timer = setTimeout(
          () =>
            reject(new BranchTimeout(`no answer from shard ${this.shard.id} in ${timeoutMs} ms`)),
          timeoutMs,
        );
      });
      return await Promise.race([answer, late]);
    } catch (error) {
      if (isBroken(error) || wasNotSent(error)) {
        answer.catch(() => {});
        this.breakOff(error as Error);
      }
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Ends what it did, if that is still possible; after this it is idle, or given back. */
  async rollBack(timeoutMs?: number): Promise<void> {
    if (this.#isBroken) return;
    await this.query('rollback', undefined, timeoutMs).catch(error => this.breakOff(error));
  }

  /** Closes its connection without a word. */
  breakOff(error: Error): void {
    if (this.#isBroken) return;
    this.#isBroken = true;
    breakConnection(this.client);
    this.giveBack(error);
  }

  giveBack(error?: Error): void {
    if (this.#isGivenBack) return;
    this.#isGivenBack = true;
    this.#giveBack(error);
  }
}
