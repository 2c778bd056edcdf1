/**
 * `pool.transaction(fn)`: a transaction that is run again when that is right, and only then.
 *
 * Holds true here:
 * - It is run again only when it is certain that nothing of it was kept: the server refused it (a conflict with
 *   another transaction), its connection broke before COMMIT was sent, or COMMIT was sent and
 *   `outcome.ts` has proven that it was not carried out.
 * - It resolves only when it was committed: the server said so, or it is proven. When neither can be known
 *   it rejects with OutcomeUnknown.
 * - Once COMMIT was sent it is not cancelled: whoever cancels a COMMIT that waits for a synchronous standby
 *   makes a commit of it that the standby may not have.
 * - All attempts together have one limit of time, and a limit of number.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { hasCode } from '../../errors.ts';
import { OutcomeUnknown, TransactionBroken } from './errors.ts';
import { isAway } from './holding.ts';
import { lend } from './lent-client.ts';
import {
  BEGUN,
  type Begun,
  type CommitMark,
  markCommit,
  OtherTransaction,
  resolveCommit,
} from './outcome.ts';
import { Limit } from './time-limit.ts';
import {
  InvalidTransactionOption,
  NestedTransaction,
  QueriesStillRunning,
  StatementFailed,
  TransactionEndedWithin,
} from './transaction-errors.ts';

export interface TransactionOptions {
  /** Default: `read committed`, as PostgreSQL's. The others make conflicts, after which `fn` runs again. */
  isolation?: 'read committed' | 'repeatable read' | 'serializable';
  /** It writes nothing, so a replica may serve it. Default: false. */
  readOnly?: boolean;
  /**
   * With `serializable` and `readOnly`: waits for a moment in which no conflict can come up, so that the
   * transaction never has to be repeated. Default: false.
   */
  deferrable?: boolean;
  /** How often it may be run again. More for rows that many change at once. Default: 5. */
  retries?: number;
  /**
   * How long all attempts may take together, in milliseconds, with the wait for a connection and the
   * question what became of a COMMIT. A statement that is running then may go on in the server until it
   * ends, and is rolled back. Default: 10000.
   */
  timeoutMs?: number;
  /** Ends it: it is rolled back and rejects with the signal's reason, unless COMMIT was sent already. */
  signal?: AbortSignal;
}

/** Most conflicts are over after one; who collides for a sixth time has a hot row, and should know. */
const RETRIES = 5;
const TIMEOUT_MS = 10_000;

const BACKOFF_MS = 10;
const BACKOFF_LIMIT_MS = 500;

const ISOLATIONS = ['read committed', 'repeatable read', 'serializable'];

/** serialization_failure, deadlock_detected: the server rolled it back for another's sake. */
const CONFLICT = ['40001', '40P01'];
/**
 * read_only_sql_transaction, and feature_not_supported for BEGIN READ WRITE: what was the primary is a
 * standby now.
 */
const READ_ONLY = '25006';
const NOT_SUPPORTED = '0A000';
/** in_failed_sql_transaction */
const FAILED = '25P02';

/**
 * A client over several shards has this: its COMMIT itself finds out what became of it, so nothing is asked of the
 * server beside it, and it counts the `transactions` that were begun on it.
 */
export const ENDS_ITSELF = Symbol('ends its transactions itself');

const endsItself = (client: object): client is { transactions: number } => ENDS_ITSELF in client;

/** Errors wrapped by libraries are looked into, this deep. */
const CAUSES = 5;

/** Nothing of this attempt was kept, and another may succeed. */
class RunAgain {
  readonly reason: unknown;

  constructor(reason: unknown) {
    this.reason = reason;
  }
}

/** The transactions in which the code that runs now is. */
const running = new AsyncLocalStorage<{ pool: pg.Pool; client: pg.PoolClient; isOver: boolean }>();

/** @internal The client of the `pool.transaction` in whose function the code that runs now is. */
export function transactionOf(pool: pg.Pool): pg.PoolClient | undefined {
  const around = running.getStore();
  return around?.pool === pool && !around.isOver ? around.client : undefined;
}

/**
 * Runs `fn` in a transaction: commits when it returns, rolls back when it throws, and then throws the same.
 *
 * **`fn` may run several times**: after a conflict, after a broken connection, after a failover. Of what it
 * does in the database exactly one run is kept; whatever else it does (mail, other services, variables
 * outside) it should leave until after. (What leaves no trace in this database's log, a NOTIFY alone or
 * a write to a foreign table, may be done twice.)
 *
 * @param fn gets a client that is its own until it returns or throws. It neither ends the transaction itself
 *   nor releases the client, and waits for all its queries
 * @returns what `fn` returned in the run that was committed
 * @throws OutcomeUnknown when COMMIT was sent, its answer lost, and what became of it cannot be known
 * @throws TransactionBroken when the connection broke again in the last attempt
 * @throws TransactionTimeout, and what `fn` and the database throw. After any error but OutcomeUnknown and
 *   TransactionEndedWithin nothing was kept
 */
export async function transaction<T>(
  pool: pg.Pool,
  fn: (client: pg.PoolClient) => Promise<T>,
  options: TransactionOptions = {},
): Promise<T> {
  const { retries = RETRIES, timeoutMs = TIMEOUT_MS } = options;
  check(options, retries, timeoutMs);
  const around = running.getStore();
  if (around?.pool === pool && !around.isOver) throw new NestedTransaction();
  using limit = new Limit(timeoutMs, options.signal);
  for (let attempt = 0; ; attempt++) {
    try {
      return await new Attempt(pool, options, limit).run(fn);
    } catch (error) {
      if (!(error instanceof RunAgain)) throw error;
      if (attempt >= retries) throw error.reason;
      limit.lastReason = error.reason;
    }
    const most = Math.min(BACKOFF_LIMIT_MS, BACKOFF_MS * 2 ** attempt);
    await limit.before(delay(Math.random() * most));
  }
}

function check(options: TransactionOptions, retries: number, timeoutMs: number): void {
  const { isolation } = options;
  if (isolation !== undefined && !ISOLATIONS.includes(isolation)) {
    throw new InvalidTransactionOption('isolation', isolation, `one of ${ISOLATIONS.join(', ')}`);
  }
  if (!Number.isInteger(retries) || retries < 0) {
    throw new InvalidTransactionOption('retries', retries, 'a whole number from 0');
  }
  if (!(timeoutMs > 0 && timeoutMs <= 2 ** 31 - 1)) {
    throw new InvalidTransactionOption('timeoutMs', timeoutMs, 'a number of milliseconds above 0');
  }
}

const ignore = () => {};

/** One run of the function, on one connection. */
class Attempt {
  readonly #pool: pg.Pool;
  readonly #options: TransactionOptions;
  readonly #limit: Limit;
  /** The connection is of no more use to anyone. */
  #isBroken = false;
  #isGivenBack = false;

  constructor(pool: pg.Pool, options: TransactionOptions, limit: Limit) {
    this.#pool = pool;
    this.#options = options;
    this.#limit = limit;
  }

  /** @throws RunAgain when nothing was kept and another attempt may succeed; else as `transaction` does */
  async run<T>(fn: (client: pg.PoolClient) => Promise<T>): Promise<T> {
    const client = await this.#connect();
    client.on('error', ignore);
    try {
      return await this.#runOn(client, fn);
    } finally {
      this.#giveBack(client);
    }
  }

  #giveBack(client: pg.PoolClient): void {
    if (this.#isGivenBack) return;
    this.#isGivenBack = true;
    if (!this.#isBroken) client.removeListener('error', ignore);
    client.release(this.#isBroken);
  }

  async #connect(): Promise<pg.PoolClient> {
    const connecting = this.#pool.connect();
    try {
      return await this.#limit.before(connecting);
    } catch (error) {
      // It may still come.
      connecting.then(client => client.release()).catch(ignore);
      throw error;
    }
  }

  async #runOn<T>(client: pg.PoolClient, fn: (client: pg.PoolClient) => Promise<T>): Promise<T> {
    let begun: string | undefined;
    let value: T;
    try {
      begun = await this.#limit.before(this.#begin(client));
    } catch (error) {
      throw await this.#rolledBack(client, error, [READ_ONLY, NOT_SUPPORTED]);
    }
    try {
      value = await this.#limit.before(this.#call(client, fn));
    } catch (error) {
      throw await this.#rolledBack(client, error);
    }
    let mark: CommitMark | undefined;
    try {
      mark = await this.#limit.before(this.#mark(client, begun));
    } catch (error) {
      throw await this.#rolledBack(client, explainMark(error));
    }
    await this.#commit(client, mark);
    return value;
  }

  /** @returns when it began, by the server; undefined for one that writes nothing */
  async #begin(client: pg.PoolClient): Promise<string | undefined> {
    const { isolation = 'read committed', readOnly = false, deferrable = false } = this.#options;
    const begin = `begin isolation level ${isolation} ${readOnly ? 'read only' : 'read write'}${deferrable ? ' deferrable' : ''}`;
    if (readOnly || endsItself(client)) {
      await client.query(begin);
      return endsItself(client) ? String(client.transactions) : undefined;
    }
    // Several statements have several results, which pg's types do not know of.
    const results = (await client.query(
      `${begin}; ${BEGUN}`,
    )) as unknown as pg.QueryResult<Begun>[];
    return results.at(-1)?.rows[0]?.begun;
  }

  /** Before COMMIT, whether it is still the same transaction, and what tells later what became of it. */
  async #mark(client: pg.PoolClient, begun: string | undefined): Promise<CommitMark | undefined> {
    if (endsItself(client)) {
      if (String(client.transactions) !== begun) throw new OtherTransaction();
      return undefined;
    }
    return this.#options.readOnly ? undefined : markCommit(client, begun);
  }

  async #call<T>(client: pg.PoolClient, fn: (client: pg.PoolClient) => Promise<T>): Promise<T> {
    const loan = lend(client);
    const inside = { pool: this.#pool, client: loan.client, isOver: false };
    try {
      const value = await running.run(inside, () => fn(loan.client));
      if (loan.pending > 0) throw new QueriesStillRunning(loan.pending);
      if (client.getTransactionStatus() === 'I') throw new TransactionEndedWithin();
      return value;
    } finally {
      inside.isOver = true;
      loan.takeBack();
    }
  }

  /**
   * Rolls back after an error before COMMIT.
   * @param atStandby codes with which a standby says that it is one
   * @returns what to throw for it
   */
  async #rolledBack(
    client: pg.PoolClient,
    error: unknown,
    atStandby = [READ_ONLY],
  ): Promise<unknown> {
    this.#isBroken = !(await answersRollback(client, work => this.#limit.before(work)));
    if (this.#limit.isOver) return error;
    // Where there are replicas the client outlives its connection, and the error alone tells.
    if (causes(error).some(isBrokenBefore)) return new RunAgain(error);
    if (this.#isBroken) {
      return causes(error).some(isBreak) ? new RunAgain(new TransactionBroken(error)) : error;
    }
    if (hasCause(error, CONFLICT) || causes(error).some(isByOldMap)) return new RunAgain(error);
    if (!this.#options.readOnly && hasCause(error, atStandby)) {
      this.#isBroken = true;
      return new RunAgain(error);
    }
    return error;
  }

  async #commit(client: pg.PoolClient, mark: CommitMark | undefined): Promise<void> {
    let command: string;
    try {
      ({ command } = await this.#limit.inTime(client.query('commit')));
    } catch (error) {
      // An error that the server sent is the answer to COMMIT only if it goes on answering after it.
      const isAnswer =
        error instanceof pg.DatabaseError &&
        (await answersRollback(client, work => this.#limit.inTime(work)));
      if (isAnswer) throw hasCause(error, CONFLICT) ? new RunAgain(error) : error;
      this.#isBroken = true;
      if (isBrokenBefore(error)) throw new RunAgain(error);
      if (endsItself(client)) throw hasCause(error, CONFLICT) ? new RunAgain(error) : error;
      // Its place in the pool may be needed to ask.
      this.#giveBack(client);
      return this.#resolve(mark, error);
    }
    // What COMMIT answers when there was nothing left to commit.
    if (command !== 'COMMIT') throw new StatementFailed();
  }

  /** @throws RunAgain, OutcomeUnknown */
  async #resolve(mark: CommitMark | undefined, error: unknown): Promise<void> {
    const reason = original(error);
    if (!mark) throw new RunAgain(new TransactionBroken(reason));
    const outcome = await resolveCommit(mark, () => this.#pool.connect(), {
      timeoutMs: this.#limit.leftMs,
    });
    if (outcome === 'aborted') throw new RunAgain(new TransactionBroken(reason));
    if (outcome === 'unknown') throw new OutcomeUnknown('COMMIT', reason);
  }
}

/** False when the connection is broken, or does not answer in time. */
async function answersRollback(
  client: pg.PoolClient,
  within: <T>(work: Promise<T>) => Promise<T>,
): Promise<boolean> {
  try {
    await within(client.query('rollback'));
    return true;
  } catch {
    return false;
  }
}

function explainMark(error: unknown): unknown {
  if (error instanceof OtherTransaction) return new TransactionEndedWithin();
  return hasCode(error, FAILED) ? new StatementFailed(error) : error;
}

/** The error itself and what it wraps. */
function causes(error: unknown): unknown[] {
  const found: unknown[] = [];
  for (let next = error; next !== undefined && found.length < CAUSES; ) {
    found.push(next);
    next = (next as { cause?: unknown } | null)?.cause;
  }
  return found;
}

const hasCause = (error: unknown, codes: string[]): boolean =>
  causes(error).some(cause => hasCode(cause, ...codes));

/** The pool's own word that the connection broke before COMMIT was sent. */
const isBrokenBefore = (error: unknown): boolean =>
  error instanceof TransactionBroken && error.safeToRetry;

/** A shard has refused a row that went by an old map, and there is a newer one (`RowBelongsElsewhere`). */
const isByOldMap = (error: unknown): boolean =>
  (error as { isMapNew?: unknown } | null)?.isMapNew === true;

/** An error of a connection that broke, or had broken before. */
const isBreak = (error: unknown): boolean =>
  isAway(error) || /not queryable/.test((error as Error | undefined)?.message ?? '');

/** The connection's own error. */
const original = (error: unknown): unknown =>
  error instanceof OutcomeUnknown || error instanceof TransactionBroken ? error.cause : error;
