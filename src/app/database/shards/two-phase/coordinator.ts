/**
 * Commits a transaction that ran on several shards: on all of them, or on none.
 *
 * Holds true here:
 * - Where one shard wrote, it is committed in one phase, by the way of every transaction (`commit.ts`).
 * - Else all who wrote but one are prepared, while that one, the *decider*, writes the decision; then it commits, and
 *   with that the transaction **is** committed; then the others are told. Three round trips, each in parallel.
 * - What fails before the decision is rolled back everywhere, and the error says that it may be run again. When the
 *   answer to the decision is lost it is looked up (`decisions.ts`), never guessed.
 * - After the decision nothing can be taken back, and nothing fails: a shard that is away is told when it is back.
 *   The answer waits for that, for as long as any statement would be held; after it, it is success, and statements of
 *   this process to that shard wait on (`unfinished`).
 */
import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { isBroken, wasNotSent } from '../../breakage.ts';
import { commit as commitOne } from '../../commit.ts';
import { OutcomeUnknown, TransactionBroken } from '../../errors.ts';
import { TwoPhaseUnavailable } from '../errors.ts';
import type { Branch } from './branch.ts';
import { AlreadyAborted, type Decision, DURABLE, recordDecision } from './decisions.ts';
import { decideUntilKnown, endBranch, Forgetting, lookUp } from './finish.ts';
import { branchName, encodeName, TransactionIds } from './names.ts';

export interface CoordinatorOptions {
  readonly deployment: string;
  /** A stable name of this process: the unit's. */
  readonly name: string;
  /**
   * How long to wait for a shard that does not answer: before the decision, until all is rolled back; after it, until
   * it is left to the recoverer. In milliseconds. Default: 10000 and 28000, by which time a primary has been replaced.
   */
  readonly prepareTimeoutMs?: number;
  readonly finishTimeoutMs?: number;
  /** Something was left that a recoverer has to end. */
  readonly onLeft?: () => void;
}

const DEFAULTS = { prepareTimeoutMs: 10_000, finishTimeoutMs: 28_000, onLeft: () => {} };

export class Coordinator {
  readonly #ids: TransactionIds;
  readonly #options: Required<CoordinatorOptions>;
  readonly #forgetting: Forgetting;
  /** By shard: what is committed there as soon as it is back. */
  readonly #unfinished = new Map<string, Set<Promise<unknown>>>();
  readonly #aborting = new Map<string, Set<Promise<unknown>>>();
  readonly #closing = new AbortController();

  constructor(options: CoordinatorOptions) {
    this.#options = { ...DEFAULTS, ...options };
    this.#forgetting = new Forgetting(options.deployment);
    this.#ids = new TransactionIds(options.deployment, options.name);
  }

  /**
   * Resolves when all that this process committed on a shard is to be seen there; undefined when that is so already.
   */
  unfinished(shard: string): Promise<unknown> | undefined {
    const waiting = this.#unfinished.get(shard);
    return waiting && Promise.all(waiting);
  }

  /**
   * Commits. All branches are idle after it, or given back.
   * @throws TransactionBroken: nothing was kept, run it again. OutcomeUnknown. What a shard says against it (a deferred
   *   constraint, a conflict): nothing was kept
   */
  async commit(branches: readonly Branch[]): Promise<void> {
    const writers = branches.filter(({ wrote }) => wrote);
    const readers = branches.filter(({ wrote }) => !wrote);
    const decider = this.#choose(writers);
    if (!decider) await this.#phaseOne(readers.map(endReader), branches);
    else if (writers.length === 1) await this.#commitOne(decider, readers);
    else await this.#commitAll(decider, writers, readers);
  }

  /** Rolls all back. Does not throw. */
  async rollBack(branches: readonly Branch[]): Promise<void> {
    await Promise.all(branches.map(branch => branch.rollBack(this.#options.prepareTimeoutMs)));
  }

  /** Ends the waiting: what is left is the recoverer's. */
  async close(): Promise<void> {
    this.#closing.abort();
    const left = [...this.#unfinished.values(), ...this.#aborting.values()];
    await Promise.allSettled(left.flatMap(set => [...set]));
    await this.#forgetting.close();
  }

  /** Decisions are spread over the shards, except where one of them cannot be prepared. */
  #choose(writers: readonly Branch[]): Branch | undefined {
    return (
      writers.find(({ cannotPrepare }) => cannotPrepare) ??
      writers[Math.floor(Math.random() * writers.length)]
    );
  }

  async #commitOne(writer: Branch, readers: readonly Branch[]): Promise<void> {
    await this.#phaseOne(readers.map(endReader), [writer, ...readers]);
    try {
      const { isConnectionGone } = await commitOne(
        writer.client,
        true,
        async () => {
          const result = await writer.query('commit');
          if (result.command !== 'COMMIT') throw hasFailed();
          return result;
        },
        async () => lookUp(writer.shard),
      );
      if (isConnectionGone) writer.breakOff(new Error('the connection broke'));
    } catch (error) {
      if (error instanceof TransactionBroken || error instanceof OutcomeUnknown) {
        writer.breakOff(error);
      } else await writer.rollBack(this.#options.prepareTimeoutMs);
      throw error;
    }
  }

  async #commitAll(
    decider: Branch,
    writers: readonly Branch[],
    readers: readonly Branch[],
  ): Promise<void> {
    const id = this.#ids.next();
    const prepared = writers
      .filter(branch => branch !== decider)
      .map(branch => new Prepared(branch, branchName(id, decider.shard.id, branch.shard.id)));
    const limitMs = this.#options.prepareTimeoutMs;
    const record = recordDecision(
      (text, values) => decider.query(text, values, limitMs),
      id,
      prepared.map(({ branch }) => encodeName(branch.shard.id)),
    );
    const steps = [record, ...prepared.map(one => one.prepare(limitMs)), ...readers.map(endReader)];
    let reason: unknown;
    try {
      await this.#phaseOne(steps, [decider, ...readers]);
      reason = await this.#decide(decider, id);
    } catch (error) {
      if (error instanceof OutcomeUnknown) throw error;
      reason = error;
    }
    if (reason) {
      await Promise.all(prepared.map(one => this.#abort(one)));
      throw reason;
    }
    const areDone = await Promise.all(prepared.map(one => this.#finish(one)));
    const shards = prepared.map(({ branch }) => branch.shard);
    if (areDone.every(Boolean)) this.#forgetting.add({ id, decider: decider.shard, shards });
    else this.#options.onLeft();
  }

  /** Waits for all, also after one has failed: what each has become is known then. @throws the first failure */
  async #phaseOne(steps: Promise<unknown>[], toRollBack: readonly Branch[]): Promise<void> {
    const results = await Promise.allSettled(steps);
    const failure = results.find(result => result.status === 'rejected');
    if (!failure) return;
    await this.rollBack(toRollBack);
    throw explain(failure.reason);
  }

  /** @returns why it is not committed; undefined when it is. @throws OutcomeUnknown */
  async #decide(decider: Branch, id: string): Promise<unknown> {
    const { prepareTimeoutMs, finishTimeoutMs } = this.#options;
    let error: unknown = hasFailed();
    try {
      const { command } = await decider.query('commit', undefined, finishTimeoutMs);
      if (command === 'COMMIT') return undefined;
    } catch (failure) {
      error = failure;
    }
    // An error is the answer to COMMIT only if the server goes on answering after it.
    await decider.rollBack(prepareTimeoutMs);
    if (!decider.isBroken) return error;
    const { signal } = this.#closing;
    const decision = await decideUntilKnown(decider.shard, id, signal, finishTimeoutMs);
    if (decision === 'committed') return undefined;
    if (decision === 'aborted') return new TransactionBroken(error);
    this.#options.onLeft();
    throw new OutcomeUnknown('COMMIT', error);
  }

  /** Ends a branch of what will never be committed. */
  async #abort({ branch, name, state }: Prepared): Promise<void> {
    const { prepareTimeoutMs, finishTimeoutMs } = this.#options;
    if (state === 'refused') return branch.rollBack(prepareTimeoutMs);
    if (await tell(branch, name, 'aborted', prepareTimeoutMs)) return;
    // Whether it is prepared nobody knows; its locks would be in the way of whoever tries again.
    const { signal } = this.#closing;
    const end = endBranch(branch.shard, name, 'aborted', signal, finishTimeoutMs);
    void this.#track(this.#aborting, branch.shard.id, end).then(() => this.#options.onLeft());
  }

  /** @returns whether it is done */
  async #finish({ branch, name }: Prepared): Promise<boolean> {
    const { prepareTimeoutMs, finishTimeoutMs } = this.#options;
    if (await tell(branch, name, 'committed', prepareTimeoutMs)) return true;
    const end = endBranch(branch.shard, name, 'committed', this.#closing.signal);
    const patience = new AbortController();
    const late = delay(finishTimeoutMs, false, { signal: patience.signal }).catch(() => false);
    const isDone = await Promise.race([this.#track(this.#unfinished, branch.shard.id, end), late]);
    patience.abort();
    return isDone;
  }

  #track<T>(all: Map<string, Set<Promise<unknown>>>, shard: string, work: Promise<T>): Promise<T> {
    const waiting = all.get(shard) ?? new Set();
    all.set(shard, waiting);
    const done = work.finally(() => {
      waiting.delete(done);
      if (waiting.size === 0) all.delete(shard);
    });
    waiting.add(done);
    return done;
  }
}

/** A branch on its way to being prepared. */
class Prepared {
  readonly branch: Branch;
  readonly name: string;
  /** `unknown`: its connection broke before the answer came. `refused`: it is rolled back. */
  state: 'prepared' | 'refused' | 'unknown' = 'unknown';

  constructor(branch: Branch, name: string) {
    this.branch = branch;
    this.name = name;
  }

  async prepare(timeoutMs: number): Promise<void> {
    try {
      const results = (await this.branch.query(
        `select ${DURABLE}; prepare transaction '${this.name}'`,
        undefined,
        timeoutMs,
      )) as unknown as pg.QueryResult[];
      // What it answers to a transaction that has failed.
      if (results.at(-1)?.command === 'ROLLBACK') throw hasFailed();
      this.state = 'prepared';
    } catch (error) {
      this.state = this.branch.isBroken ? 'unknown' : 'refused';
      throw error;
    }
  }
}

/** Tells a branch over its own connection. @returns false when it cannot be told in this way */
async function tell(
  branch: Branch,
  name: string,
  decision: Decision,
  timeoutMs: number,
): Promise<boolean> {
  if (branch.isBroken) return false;
  const verb = decision === 'committed' ? 'commit' : 'rollback';
  try {
    await branch.query(`${verb} prepared '${name}'`, undefined, timeoutMs);
    return true;
  } catch (error) {
    branch.breakOff(error as Error);
    return false;
  }
}

/** One that wrote nothing. When it is serializable it may say that what was read is not so. */
async function endReader(branch: Branch): Promise<void> {
  await branch.query('commit');
}

/** What a failure before the decision says to the application. */
function explain(error: unknown): unknown {
  if (/prepared transactions (are disabled|reached)/.test((error as Error).message ?? '')) {
    return new TwoPhaseUnavailable(error);
  }
  const isLost = isBroken(error) || wasNotSent(error) || error instanceof AlreadyAborted;
  return isLost ? new TransactionBroken(error) : error;
}

const hasFailed = () => new TransactionBroken(new Error('a statement of it had failed'));
