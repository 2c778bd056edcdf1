/**
 * What `pool.connect()` gives over several shards: to the application a `pg.PoolClient`.
 *
 * Holds true here:
 * - BEGIN is not sent: a transaction is begun on a shard by its first statement there (`sharded-transaction.ts`).
 *   COMMIT is one phase or two, as many shards as were written to.
 * - What is set for the session (SET) holds on every connection that the client uses from then on; these are its own
 *   until its release, and closed then. LISTEN, advisory locks and temporary tables are of the first shard.
 * - The order is that of the calls, over all shards.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import pg from 'pg';
import { breakConnection } from '../pool-internals.ts';
import { QueuedClient } from '../queued-client.ts';
import type { StatementFacts, TransactionEffect } from '../route/facts.ts';
import type { QueryConfig } from '../statement.ts';
import { type Submittable, textOf, whenIdle } from '../submittable.ts';
import { ENDS_ITSELF } from '../transaction.ts';
import { ShardedSessionRefused } from './errors.ts';
import { AutocommitLanes } from './lane-sources.ts';
import type { MapWatch } from './map-watch.ts';
import type { ShardPlanner } from './planner.ts';
import { SessionConnections } from './session-connections.ts';
import { sessionWord } from './session-words.ts';
import type { ShardSet } from './shard-set.ts';
import { ShardedTransaction, type TransactionSource } from './sharded-transaction.ts';
import type { StatementReader } from './statement-reader.ts';
import { ShardService } from './submitted/service.ts';
import { failing, serve } from './submitted/virtual-server.ts';
import type { Coordinator } from './two-phase/coordinator.ts';
import type { UniqueKeeper } from './unique/keeper.ts';

/** What the clients of a pool have in common. */
export interface ShardedContext {
  readonly shards: ShardSet;
  readonly planner: ShardPlanner;
  readonly reader: StatementReader;
  readonly coordinator: Coordinator;
  readonly map: MapWatch;
  readonly deadlockTimeoutMs: number;
  /** Of the columns that are unique across shards; undefined: there are none. */
  readonly unique: () => UniqueKeeper | undefined;
  /** What has to be there before a statement can be read; undefined when it is. */
  readonly ready: () => Promise<void> | undefined;
  /** The schema was changed by this process. */
  readonly changed: () => void;
}

type Results = pg.QueryResult | pg.QueryResult[];

const TRANSACTION = Symbol('the transaction over shards');

/** @internal The transaction over shards in which a client is; undefined outside of one, and of a client of one database. */
export function shardedTransactionOf(client: object): ShardedTransaction | undefined {
  return (client as { [TRANSACTION]?: ShardedTransaction })[TRANSACTION];
}

export class ShardedClient extends QueuedClient {
  readonly #context: ShardedContext;
  readonly #session: SessionConnections;
  readonly #source: TransactionSource;
  readonly #lanes: AutocommitLanes;
  #transaction: ShardedTransaction | undefined;
  /** The statement that began the transaction. */
  #begin = '';
  /** Ends what sends itself, when the client is closed under it. */
  readonly #closing = new AbortController();
  /** To `pool.transaction`: its COMMIT says what became of it, and transactions are counted. */
  readonly [ENDS_ITSELF] = true;
  transactions = 0;

  constructor(context: ShardedContext, options: pg.PoolConfig) {
    super(options);
    this.#context = context;
    const { shards, coordinator, deadlockTimeoutMs } = context;
    this.#session = new SessionConnections(shards, event => {
      const [name, ...args] = event;
      if (this.listenerCount(name) > 0) this.emit(name, ...args);
    });
    this.#source = {
      coordinator,
      deadlockTimeoutMs,
      unique: context.unique,
      get count() {
        return shards.count;
      },
      get layout() {
        return shards.layout;
      },
      shard: index => shards.at(index),
      connect: async index => {
        await shards.seen(shards.at(index), coordinator);
        return this.#session.connect(index);
      },
    };
    this.#lanes = new AutocommitLanes({
      shards,
      coordinator,
      source: this.#source,
      kept: index => this.#session.kept(index),
    });
  }

  /** `I` outside of a transaction, `T` within one, `E` within one that has failed. */
  getTransactionStatus(): 'I' | 'T' | 'E' {
    if (!this.#transaction) return 'I';
    return this.#transaction.hasFailed ? 'E' : 'T';
  }

  /** @internal */
  get [TRANSACTION](): ShardedTransaction | undefined {
    return this.#transaction;
  }

  /** Of the process that has the session's part, on the first shard; null while there is none. */
  get processID(): number | null {
    return (this.connection as { processID?: number } | undefined)?.processID ?? null;
  }

  protected override get connection(): pg.ClientBase | undefined {
    return this.#session.home;
  }

  protected override take(
    config: QueryConfig,
    values: unknown[] | undefined,
  ): () => Promise<unknown> {
    // Its turn may come in the course of another request.
    const inContext = AsyncLocalStorage.snapshot();
    const whole: pg.QueryConfig = typeof config === 'string' ? { text: config } : { ...config };
    if (values) whole.values = values;
    return () => inContext(() => this.#run(whole));
  }

  protected override takeSubmittable(query: Submittable): () => Promise<void> {
    const inContext = AsyncLocalStorage.snapshot();
    return () => inContext(() => this.#submit(query));
  }

  protected override giveBack(error: Error | boolean | undefined): void {
    const transaction = this.#transaction;
    this.#transaction = undefined;
    if (error) {
      this.#closing.abort(error === true ? new Error('the client was released') : error);
      transaction?.breakOff(error === true ? new Error('the client was released') : error);
      this.#session.close();
    } else if (transaction) void transaction.rollBack().then(() => this.#session.close());
    else this.#session.close();
  }

  async #run(config: pg.QueryConfig): Promise<Results> {
    const { reader, ready } = this.#context;
    for (let wait = ready(); wait; wait = ready()) await wait;
    const { text, values } = config;
    const facts = reader.facts(text);
    try {
      const word = sessionWord(text, facts, values);
      if (word.kind === 'several') return await this.#several(text, facts);
      if (word.kind === 'transaction') return await this.#effect(text, word.effect);
      const transaction = this.#transaction;
      if (transaction?.broken) throw transaction.broken;
      if (transaction?.hasFailed) throw inFailedTransaction();
      if (word.kind === 'local-setting') return await this.#setLocally(text, values);
      if (word.kind === 'setting') return await this.#set(text, values);
      if (word.kind === 'home-session') return await this.#atHome(config, facts);
      return await this.#execute(config, facts);
    } catch (error) {
      // As any error of PostgreSQL does, also one that was found before anything was sent.
      this.#transaction?.fail();
      throw error;
    }
  }

  async #execute(config: pg.QueryConfig, facts: StatementFacts): Promise<Results> {
    const { planner, changed, map } = this.#context;
    const transaction = this.#transaction;
    const { epoch } = map;
    const result = await (transaction
      ? planner.execute(config, transaction).catch(async error => {
          // So that the error tells whether running all of it again is of use.
          await map.explains(error, epoch);
          throw error;
        })
      : map.follow(() => planner.execute(config, this.#lanes.of(config))));
    if (facts.changesCatalog) {
      if (transaction) transaction.noteCatalogChange();
      else changed();
    }
    // A session on the first shard may have temporary tables there.
    const mayNotPrepare = this.#session.home !== undefined || hasUnpreparable(facts);
    if (transaction?.touched.includes(0) && mayNotPrepare) {
      (await transaction.branch(0)).cannotPrepare = true;
    }
    return result;
  }

  async #effect(text: string, effect: TransactionEffect): Promise<pg.QueryResult> {
    const transaction = this.#transaction;
    switch (effect.kind) {
      case 'begin':
        if (!transaction) this.#open(text);
        else if (transaction.hasFailed) throw inFailedTransaction();
        return answer('BEGIN');
      case 'commit':
      case 'rollback':
        if (effect.chain && !transaction) break;
        return this.#end(effect.kind === 'commit', effect.chain);
      case 'modes':
        // Before the first statement it is the branches' first, and after it an error of theirs.
        if (transaction?.hasFailed) throw transaction.broken ?? inFailedTransaction();
        await transaction?.everywhere(text);
        transaction?.journal.setting(text);
        return answer('SET');
      case 'savepoint':
        if (!transaction) break;
        if (transaction.hasFailed) throw transaction.broken ?? inFailedTransaction();
        await transaction.savepoint(effect.name, text);
        return answer('SAVEPOINT');
      case 'release':
        if (transaction?.hasFailed) throw transaction.broken ?? inFailedTransaction();
        if (!transaction?.journal.has(effect.name)) break;
        await transaction.release(effect.name, text);
        return answer('RELEASE');
      case 'rollback to':
        if (!transaction?.journal.has(effect.name)) break;
        if (transaction.broken) throw transaction.broken;
        await transaction.rollBackTo(effect.name, text);
        return answer('ROLLBACK');
    }
    // What is wrong about it PostgreSQL says best.
    const lanes = transaction ?? this.#lanes;
    return lanes.query(0, { text }, { wantsWrite: false });
  }

  #open(begin: string): void {
    this.#begin = begin;
    this.transactions++;
    this.#transaction = new ShardedTransaction(this.#source, begin);
  }

  async #end(commits: boolean, chains: boolean): Promise<pg.QueryResult> {
    const transaction = this.#transaction;
    if (!transaction) return answer(commits ? 'COMMIT' : 'ROLLBACK');
    this.#transaction = undefined;
    const { broken } = transaction;
    let command = 'ROLLBACK';
    if (commits && !transaction.hasFailed) {
      await transaction.commit();
      if (transaction.changesCatalog) this.#context.changed();
      command = 'COMMIT';
    } else await transaction.rollBack();
    if (commits && broken) throw broken;
    if (chains) this.#open(this.#begin);
    return answer(command);
  }

  /** For the transaction: on all branches, and on the first shard at least, which says whether it is valid. */
  async #setLocally(text: string, values: unknown[] | undefined): Promise<pg.QueryResult> {
    const transaction = this.#transaction;
    if (!transaction)
      return this.#lanes.query(0, { text, ...withValues(values) }, { wantsWrite: false });
    await transaction.branch(0);
    const [result] = await transaction.everywhere(text, values);
    transaction.journal.setting(text, values);
    return result!;
  }

  async #set(text: string, values: unknown[] | undefined): Promise<pg.QueryResult> {
    const transaction = this.#transaction;
    if (transaction && transaction.touched.length > 0) {
      throw new ShardedSessionRefused(
        'sets something for its session within a transaction that has begun its work',
        'The transaction has failed. Use SET LOCAL, or set it before BEGIN',
      );
    }
    return this.#session.set(text, values);
  }

  /** Over a connection to the first shard that stays the client's. */
  async #atHome(config: pg.QueryConfig, facts: StatementFacts): Promise<Results> {
    const transaction = this.#transaction;
    if (transaction && !this.#session.home && transaction.touched.includes(0)) {
      throw new ShardedSessionRefused(
        `${facts.pinnedBy ?? 'needs a session'}, and its transaction has begun on the first shard`,
        'The transaction has failed. Do this before BEGIN, or as the first statement of the transaction',
      );
    }
    const home = await this.#session.keepHome();
    if (!transaction) {
      const result = await home.query({ ...config });
      this.#context.shards.home.noteWrite(false);
      return result;
    }
    const branch = await transaction.branch(0);
    branch.wrote = true;
    branch.cannotPrepare = true;
    const { text, values, types, name } = config;
    const statement = {
      text,
      ...withValues(values),
      ...(types ? { types } : {}),
      ...(name ? { name } : {}),
    };
    return transaction.query(0, statement, { wantsWrite: true });
  }

  /** Each after the other, as one whole: a text of several statements is one transaction, unless it says otherwise. */
  async #several(text: string, facts: StatementFacts): Promise<pg.QueryResult[]> {
    const parts = this.#context.reader.split(text) ?? [];
    const isOwn = !this.#transaction && facts.transaction.length === 0;
    if (isOwn) this.#open('begin');
    const results: pg.QueryResult[] = [];
    try {
      for (const part of parts) {
        const result = await this.#run({ text: part });
        results.push(...(Array.isArray(result) ? result : [result]));
      }
      if (isOwn) await this.#end(true, false);
      return results;
    } catch (error) {
      if (isOwn) await this.#end(false, false);
      throw error;
    }
  }

  async #submit(query: Submittable): Promise<void> {
    const { planner, ready, map } = this.#context;
    const { signal } = this.#closing;
    try {
      for (let wait = ready(); wait; wait = ready()) await wait;
      const transaction = this.#transaction;
      if (transaction?.hasFailed) throw transaction.broken ?? inFailedTransaction();
      const index = planner.onlyShard(textOf(query) ?? '', valuesOf(query));
      if (index !== undefined) return await this.#submitTo(index, query);
      await serve(
        query,
        new ShardService({ planner, transaction, source: this.#source, map }),
        signal,
      );
    } catch (error) {
      this.#transaction?.fail();
      // As from a server: who made the object may not listen yet.
      await serve(query, failing(error, this.getTransactionStatus()), signal);
    }
  }

  /** Over a connection to its shard. */
  async #submitTo(index: number, query: Submittable): Promise<void> {
    const { reader, shards } = this.#context;
    const transaction = this.#transaction;
    const writes = reader.facts(textOf(query) ?? '').access !== 'read';
    const branch = await transaction?.branch(index);
    if (branch) branch.wrote ||= writes;
    const [client, giveBack] = branch
      ? [branch.client, () => {}]
      : await this.#source.connect(index);
    const idle = whenIdle(client);
    const onClose = () => breakConnection(client);
    this.#closing.signal.addEventListener('abort', onClose, { once: true });
    client.query(query as unknown as pg.Submittable);
    await idle;
    this.#closing.signal.removeEventListener('abort', onClose);
    if (client.getTransactionStatus() === 'E') transaction?.fail();
    if (transaction) return;
    if (writes) shards.at(index).noteWrite(false);
    giveBack(this.#closing.signal.aborted ? new Error('the client was released') : undefined);
  }
}

const withValues = (values: unknown[] | undefined) => (values ? { values } : {});

/** The parameters of what sends itself, where it shows them. */
export function valuesOf(query: Submittable): unknown[] | undefined {
  const { values, cursor } = query as { values?: unknown[]; cursor?: { values?: unknown[] } };
  return values ?? cursor?.values;
}

/** What PostgreSQL does not prepare for a commit in two phases. */
function hasUnpreparable({ reasons, pins }: StatementFacts): boolean {
  return (
    reasons.some(({ kind }) => kind === 'notification' || kind === 'temporary') ||
    pins === 'session'
  );
}

/** What a command gives that was not sent. */
function answer(command: string): pg.QueryResult {
  return Object.assign(new pg.Result('', pg.types), { command }) as unknown as pg.QueryResult;
}

/** As PostgreSQL says it. */
function inFailedTransaction(): Error {
  const text = 'current transaction is aborted, commands ignored until end of transaction block';
  return Object.assign(new pg.DatabaseError(text, text.length, 'error'), {
    severity: 'ERROR',
    code: '25P02',
  });
}
