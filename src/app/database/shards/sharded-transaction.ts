/**
 * A transaction over shards: a branch on each that it has touched.
 *
 * Holds true here:
 * - BEGIN goes to a shard just before the first statement there, with the same modes, and after it the journal: so
 *   every branch has the savepoints and settings of the whole.
 * - An error on one shard is one of the whole: until ROLLBACK, or ROLLBACK TO, nothing runs on any (25P02, as
 *   PostgreSQL has it). A connection that broke takes the transaction with it.
 * - All of it runs by one layout of the shards. When that changes under it, it is broken: what it has done, and what it
 *   would do now, may be about the same rows in two places.
 * - With branches on several shards a wait for a lock has a limit: two transactions may wait for each other over two
 *   servers, and neither of those sees it (`ShardDeadlock`).
 */
import type pg from 'pg';
import { hasCode } from '../../../errors.ts';
import { isBroken, wasNotSent } from '../breakage.ts';
import { untilAborted } from '../cancel-request.ts';
import { TransactionBroken } from '../errors.ts';
import { currentWatch } from '../read-watch.ts';
import { ShardDeadlock } from './errors.ts';
import { Journal } from './journal.ts';
import type { LaneOptions, LaneStatement, Lanes } from './lanes.ts';
import { LockWatch } from './lock-watch.ts';
import type { Shard } from './shard-set.ts';
import { Branch } from './two-phase/branch.ts';
import type { Coordinator } from './two-phase/coordinator.ts';
import type { UniqueKeeper } from './unique/keeper.ts';

/** query_canceled */
const CANCELLED = '57014';

/** Most waits for a lock are over in milliseconds; a user should not wait longer for a retry. */
export const DEADLOCK_TIMEOUT_MS = 1_000;

export interface TransactionSource {
  readonly coordinator: Coordinator;
  readonly count: number;
  shard(index: number): Shard;
  /** Differs when the shards of the map are others, or own other rows. */
  readonly layout?: string;
  /** A connection to the shard's primary. @returns with how to give it back; with an error it is to be closed */
  connect(index: number): Promise<[pg.PoolClient, (error: Error | undefined) => void]>;
  /** In milliseconds. */
  readonly deadlockTimeoutMs: number;
  /** Of the columns that are unique across shards; undefined: there are none. */
  unique?(): UniqueKeeper | undefined;
}

export class ShardedTransaction implements Lanes {
  readonly inTransaction = true;
  readonly journal = new Journal();
  readonly #source: TransactionSource;
  readonly #begin: string;
  readonly #branches = new Map<number, Promise<Branch>>();
  /** Of each branch's last statement. */
  readonly #watches = new WeakMap<Branch, LockWatch>();
  readonly #open = new Map<number, Branch>();
  /** By which its branches were begun. */
  #layout: string | undefined;
  #changesCatalog = false;
  #failed = false;
  #broken: TransactionBroken | undefined;
  /** What is still to be written, as late as it can be: all of it since the last savepoint. */
  #deferred: (() => Promise<void>)[] = [];
  readonly #afterwards: (() => void)[] = [];

  /** @param begin the statement that began it */
  constructor(source: TransactionSource, begin = 'begin') {
    this.#source = source;
    this.#begin = begin;
  }

  get count(): number {
    return this.#source.count;
  }

  /** A statement of it has failed. */
  get hasFailed(): boolean {
    return this.#failed;
  }

  /** It is gone with a connection: the error says so until it is rolled back. */
  get broken(): TransactionBroken | undefined {
    return this.#broken;
  }

  /** Shards that it has touched. */
  get touched(): readonly number[] {
    return [...this.#branches.keys()];
  }

  /** Its names may mean something else after it. */
  noteCatalogChange(): void {
    this.#changesCatalog = true;
  }

  get changesCatalog(): boolean {
    return this.#changesCatalog;
  }

  /** It fails, as by an error of a statement. */
  fail(): void {
    this.#failed = true;
  }

  async query(
    index: number,
    statement: LaneStatement,
    { wantsWrite, key, signal }: LaneOptions,
  ): Promise<pg.QueryResult<never>> {
    currentWatch()?.spoil('reads in a transaction over shards');
    const branch = await this.branch(index);
    if (wantsWrite) branch.wrote = true;
    return this.#source
      .shard(index)
      .observed(key, () =>
        this.#run(branch, () => untilAborted(signal, branch.client, () => branch.send(statement))),
      ) as Promise<pg.QueryResult<never>>;
  }

  /** Runs something of its own on a shard's connection, as one statement of the transaction. */
  async on<T>(
    index: number,
    wantsWrite: boolean,
    run: (client: pg.PoolClient) => Promise<T>,
  ): Promise<T> {
    const branch = await this.branch(index);
    if (wantsWrite) branch.wrote = true;
    return this.#source
      .shard(index)
      .observed(undefined, () => this.#run(branch, () => run(branch.client)));
  }

  atomically<T>(run: (lanes: Lanes) => Promise<T>): Promise<T> {
    return run(this);
  }

  /** The branch on a shard, begun unless it is there. @throws what connecting throws; TransactionBroken */
  async branch(index: number): Promise<Branch> {
    if (this.#branches.size === 0) this.#layout = this.#source.layout;
    else if (this.#layout !== this.#source.layout) {
      this.#failed = true;
      this.#broken ??= new TransactionBroken(new Error('the shards have changed since it began'));
      throw this.#broken;
    }
    let opening = this.#branches.get(index);
    if (!opening) {
      opening = this.#beginOn(index);
      this.#branches.set(index, opening);
      // One that could not be begun may be tried again, after ROLLBACK TO.
      opening.catch(() => this.#branches.delete(index));
    }
    try {
      return await opening;
    } catch (error) {
      this.#failed = true;
      throw error;
    }
  }

  /** On all branches that there are, and by the journal on all to come. */
  async everywhere(text: string, values?: unknown[]): Promise<pg.QueryResult[]> {
    const branches = [...this.#open.values()];
    return Promise.all(branches.map(branch => this.#run(branch, () => branch.query(text, values))));
  }

  /** Shards that it may have written to, or locked something on. */
  get writtenTo(): readonly number[] {
    return [...this.#open].flatMap(([index, { wrote }]) => (wrote ? [index] : []));
  }

  /** @param text as it is written. Default: of a name that needs no quotes */
  async savepoint(name: string, text = `savepoint ${name}`): Promise<void> {
    await this.#writeDeferred();
    await this.everywhere(text);
    this.journal.savepoint(name, text);
  }

  /**
   * Writes something just before COMMIT, when it is known which shards were written to, or before the next savepoint. It is
   * forgotten by a rollback. Its error is the COMMIT's, and nothing is kept.
   */
  beforeCommit(write: () => Promise<void>): void {
    this.#deferred.push(write);
  }

  /** Called when it is committed. */
  afterCommit(call: () => void): void {
    this.#afterwards.push(call);
  }

  async #writeDeferred(): Promise<void> {
    for (let next = this.#deferred.shift(); next; next = this.#deferred.shift()) await next();
  }

  /** RELEASE of a savepoint that is there. */
  async release(name: string, text = `release savepoint ${name}`): Promise<void> {
    await this.everywhere(text);
    this.journal.release(name);
  }

  /** ROLLBACK TO a savepoint that is there. */
  async rollBackTo(name: string, text = `rollback to savepoint ${name}`): Promise<void> {
    const branches = [...this.#open.values()];
    try {
      await Promise.all(branches.map(branch => branch.query(text)));
    } catch (error) {
      throw this.#note(error);
    }
    this.journal.rollBackTo(name);
    this.#deferred = [];
    this.#failed = false;
  }

  /** @throws as `Coordinator.commit`. After it nothing of it is left, however it went */
  async commit(): Promise<void> {
    try {
      if (this.#broken) throw this.#broken;
      await this.#writeDeferred();
      // What was written by other ways than a statement that names the table: a cascade, a function.
      await this.#source.unique?.()?.settle(this);
      await this.#source.coordinator.commit(await this.#settled());
    } catch (error) {
      await this.#source.coordinator.rollBack(await this.#settled());
      throw error;
    } finally {
      for (const [index, branch] of this.#open) {
        if (branch.wrote) this.#source.shard(index).noteWrite(this.#changesCatalog);
        branch.giveBack();
      }
    }
    // It is kept: whatever becomes of these is no error of it.
    for (const call of this.#afterwards) call();
  }

  async rollBack(): Promise<void> {
    const branches = await this.#settled();
    await this.#source.coordinator.rollBack(branches);
    for (const branch of branches) branch.giveBack();
  }

  /** Closes its connections, at once. */
  breakOff(error: Error): void {
    for (const branch of this.#open.values()) branch.breakOff(error);
    for (const opening of this.#branches.values()) {
      opening.then(
        branch => branch.breakOff(error),
        () => {},
      );
    }
  }

  async #settled(): Promise<Branch[]> {
    await Promise.allSettled(this.#branches.values());
    return [...this.#open.values()];
  }

  async #beginOn(index: number): Promise<Branch> {
    const shard = this.#source.shard(index);
    const [client, giveBack] = await this.#source.connect(index);
    const branch = new Branch(shard, client, giveBack);
    try {
      await branch.query(this.#begin);
      for (const { text, values } of this.journal.entries) await branch.query(text, values);
    } catch (error) {
      if (!branch.isBroken) await branch.rollBack();
      branch.giveBack();
      throw this.#note(error);
    }
    this.#open.set(index, branch);
    return branch;
  }

  async #run<T>(branch: Branch, send: () => Promise<T>): Promise<T> {
    if (this.#broken) throw this.#broken;
    const watch = new LockWatch(branch, () => this.#open.size > 1, this.#source.deadlockTimeoutMs);
    const before = this.#watches.get(branch);
    this.#watches.set(branch, watch);
    try {
      return await send();
    } catch (error) {
      watch.stop();
      if (!hasCode(error, CANCELLED)) throw this.#note(error);
      // A cancellation that was on its way when its statement ended hits the next one that waits.
      const waitedMs = (await watch.cancelledAfterMs()) ?? (await before?.cancelledAfterMs());
      throw this.#note(
        waitedMs === undefined ? error : new ShardDeadlock(branch.shard.id, waitedMs, error),
      );
    } finally {
      watch.stop();
    }
  }

  #note(error: unknown): unknown {
    this.#failed = true;
    if (!isBroken(error) && !wasNotSent(error)) return error;
    this.#broken ??= new TransactionBroken(error);
    return this.#broken;
  }
}
