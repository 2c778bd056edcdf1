/**
 * What `pool.connect()` gives where there are replicas: to the application a `pg.PoolClient`, underneath a
 * connection only for as long as one is needed.
 *
 * Holds true here:
 * - A connection is taken at the first query. While nothing keeps the client on it, each statement is routed on
 *   its own, as by `pool.query`.
 * - *Pinned*: a transaction keeps it until its end, by what the server says of its state; a statement that
 *   changed its session, or ran code that nobody has read, until the release.
 * - Statements run one after the other, in the order in which they came, also when nobody waits for them.
 * - A transaction that broke stays broken until it is rolled back: nothing that was meant to be part of it runs
 *   by itself.
 */
import type pg from 'pg';
import { hasCode } from '../../errors.ts';
import { isBroken, READ_ONLY, wasNotSent } from './breakage.ts';
import { processIdAt } from './cancel.ts';
import { ClientFace } from './client-face.ts';
import { commit } from './commit.ts';
import { stalenessOf } from './consistency/staleness.ts';
import { NeedsPrimary, OutcomeUnknown, TransactionBroken } from './errors.ts';
import type { MemberState } from './members/member.ts';
import type { ReasonKind } from './route/facts.ts';
import type { Router } from './router.ts';
import {
  addressOf,
  type Done,
  isInTransaction,
  type QueryConfig,
  type Statement,
} from './statement.ts';
import { afterAnswer, isSubmittable, type Submittable, textOf } from './submittable.ts';

/** A connection that the client is kept on. */
interface Held {
  readonly client: pg.PoolClient;
  /** Undefined: it is one to the primary. */
  readonly member: MemberState | undefined;
  /** What the application may listen for on its client. */
  readonly forwarding: [event: string, listener: (...args: unknown[]) => void][];
}

type Job =
  | { readonly kind: 'statement'; readonly statement: Statement }
  | { readonly kind: 'submittable'; readonly query: Submittable; readonly rest: unknown[] };

/** Events of the connection that are passed on. */
const FORWARDED = ['notice', 'notification', 'end'];

/** What works in a read-only transaction on the primary, and not, or otherwise, on a standby (route/README.md). */
const PRIMARY_ONLY: ReadonlySet<ReasonKind> = new Set<ReasonKind>([
  'unlogged',
  'temporary',
  'transaction-id',
  'notification',
  'advisory-lock',
  'server-state',
]);

export class RoutedClient extends ClientFace {
  readonly #router: Router;
  readonly #jobs: Job[] = [];
  #isBusy = false;
  #held: Held | undefined;
  /** Until the release, not until the end of a transaction. */
  #isSessionPinned = false;
  /** Its text, while nothing has run in the transaction that it began. */
  #freshBegin: Statement | undefined;
  /** What the transaction that is open has done. */
  #wrote = false;
  #changedCatalog = false;
  #broken: TransactionBroken | undefined;
  #release: { error: Error | boolean | undefined } | undefined;

  constructor(router: Router, options: pg.PoolConfig) {
    super(options);
    this.#router = router;
    // pg's own clients in a pool do not end the process when they break in the application's hands.
    this.on('error', () => {});
  }

  get processID(): number | null {
    const { client, member } = this.#held ?? {};
    const id = (client as unknown as { processID?: number } | undefined)?.processID;
    return id === undefined ? null : processIdAt(member, id);
  }

  get secretKey(): number | null {
    return (this.#held?.client as unknown as { secretKey?: number } | undefined)?.secretKey ?? null;
  }

  get host(): string | undefined {
    return (
      (this.#held?.client as unknown as { host?: string } | undefined)?.host ?? this.options.host
    );
  }

  get port(): number | undefined {
    return (
      (this.#held?.client as unknown as { port?: number } | undefined)?.port ?? this.options.port
    );
  }

  getTransactionStatus(): 'I' | 'T' | 'E' | null {
    if (this.#broken) return 'E';
    const { client } = this.#held ?? {};
    return client ? client.getTransactionStatus() : 'I';
  }

  /** Ends the session, as of any client of a pool: its place in the pool is free then. */
  end(callback?: () => void): Promise<void> | undefined {
    if (!this.#release) this.release(true);
    if (!callback) return Promise.resolve();
    process.nextTick(callback);
    return undefined;
  }

  release = (error?: Error | boolean): void => {
    if (this.#release) {
      throw new Error('Release called on client which has already been released to the pool.');
    }
    this.#release = { error };
    this.#pump();
  };

  query(config: QueryConfig | Submittable, values?: unknown, callback?: unknown): unknown {
    if (isSubmittable(config)) {
      this.#jobs.push({ kind: 'submittable', query: config, rest: [values, callback] });
      this.#pump();
      return config;
    }
    if (config === null || config === undefined) {
      throw new TypeError('Client was passed a null or undefined query');
    }
    const listener = [callback, values, (config as { callback?: unknown }).callback].find(
      each => typeof each === 'function',
    ) as Done | undefined;
    const parameters = typeof values === 'function' ? undefined : (values as unknown[] | undefined);
    if (listener) {
      this.#enqueue(config, parameters, listener);
      return undefined;
    }
    return new Promise((resolve, reject) =>
      this.#enqueue(config, parameters, (error, result) =>
        error ? reject(error) : resolve(result),
      ),
    );
  }

  #enqueue(config: QueryConfig, values: unknown[] | undefined, done: Done): void {
    if (this.#release) {
      process.nextTick(done, new Error('Client was closed and is not queryable'));
      return;
    }
    let staleness: number | undefined;
    try {
      staleness = stalenessOf(config, this.#router.staleness);
    } catch (error) {
      process.nextTick(done, error as Error);
      return;
    }
    const typed =
      this.types && !(config as { types?: unknown }).types
        ? { ...(typeof config === 'string' ? { text: config } : config), types: this.types }
        : config;
    this.#jobs.push({
      kind: 'statement',
      statement: this.#router.statement(typed, values, done, staleness),
    });
    this.#pump();
  }

  #pump(): void {
    if (this.#isBusy) return;
    const job = this.#jobs.shift();
    if (!job) {
      if (this.#release) this.#letGo(this.#release.error);
      return;
    }
    this.#isBusy = true;
    const next = () => {
      this.#isBusy = false;
      this.#pump();
    };
    if (job.kind === 'submittable') this.#submit(job.query, job.rest, next);
    else this.#run(job.statement, next);
  }

  #run(statement: Statement, next: () => void): void {
    const finish: Done = (error, result) => {
      // The next may be sent by the callback itself, and has to come after what waits already.
      statement.done(error, result);
      next();
    };
    if (this.#broken) {
      this.#afterBroken(statement, finish);
      return;
    }
    if (this.#held) {
      void this.#runHeld(this.#held, statement, finish);
      return;
    }
    this.#router.run({
      ...statement,
      done: finish,
      keeps: (client, member) => {
        if (!this.#keepsAfter(statement, client)) return false;
        this.#hold(client, member);
        this.#isSessionPinned = this.#pinsSession(statement);
        const isInside = isInTransaction(client);
        this.#freshBegin = isInside && statement.facts?.statements === 1 ? statement : undefined;
        this.#note(statement);
        if (!isInside) this.#settle(statement);
        return true;
      },
    });
  }

  #keepsAfter(statement: Statement, client: pg.PoolClient): boolean {
    return this.#pinsSession(statement) || isInTransaction(client);
  }

  #pinsSession({ facts }: Statement): boolean {
    return !facts || facts.pins === 'session' || facts.opaque;
  }

  /** Runs a statement on the connection that the client is kept on. */
  async #runHeld(held: Held, statement: Statement, finish: Done): Promise<void> {
    const { client, member } = held;
    const wasInside = isInTransaction(client);
    if (member && wasInside && this.#needsPrimary(statement)) {
      return this.#beginOnPrimary(statement, finish);
    }
    if (!this.#endsTransaction(statement)) this.#freshBegin = undefined;
    const send = () => sendHeld(client, statement);
    try {
      const isCommit = wasInside && !member && this.#commits(statement);
      if (isCommit) return finish(undefined, await this.#commit(client, statement, send));
      const result = await send();
      this.#note(statement);
      if (this.#pinsSession(statement)) this.#isSessionPinned = true;
      if (!isInTransaction(client)) this.#settle(statement);
      finish(undefined, result);
    } catch (error) {
      finish(await this.#afterError(held, statement, error as Error, wasInside));
    }
  }

  /** @throws as `commit` does */
  async #commit(
    client: pg.PoolClient,
    statement: Statement,
    send: () => Promise<unknown>,
  ): Promise<unknown> {
    const asker = () => this.#router.statement('', undefined, () => {});
    const { result, isConnectionGone } = await commit(
      client,
      statement.facts?.statements === 1,
      send,
      async () => (await this.#router.connectFor(asker(), false)).client,
    );
    this.#note(statement);
    if (isConnectionGone) {
      this.#router.noteWrite(statement.scope, this.#changedCatalog);
      this.#drop(new Error('Connection terminated'));
    } else if (!isInTransaction(client)) this.#settle(statement);
    return result;
  }

  /** @returns the error that the application gets */
  async #afterError(
    held: Held,
    statement: Statement,
    error: Error,
    wasInside: boolean,
  ): Promise<Error> {
    const { client, member } = held;
    if (error instanceof TransactionBroken || error instanceof OutcomeUnknown) {
      this.#drop(error);
      return error;
    }
    if (isBroken(error) || wasNotSent(error)) {
      if (!member) this.#router.monitor.suspect();
      const { facts } = statement;
      const isHarmless = wasNotSent(error) || facts?.access === 'read' || facts?.repeatable;
      this.#drop(error);
      if (wasInside) {
        this.#broken = new TransactionBroken(error);
        return this.#broken;
      }
      return isHarmless ? error : new OutcomeUnknown('a write', error);
    }
    if (
      !member &&
      hasCode(error, READ_ONLY) &&
      !(await this.#router.isPrimary(addressOf(client)))
    ) {
      // The primary is one no more: nothing of the transaction will be kept.
      this.#drop(error);
      if (wasInside) this.#broken = new TransactionBroken(error);
      return this.#broken ?? error;
    }
    if (!isInTransaction(client)) this.#settle(statement);
    return error;
  }

  /** What was meant for the transaction that broke is refused until it is ended. */
  #afterBroken(statement: Statement, finish: Done): void {
    const broken = this.#broken!;
    const ends = statement.facts?.transaction.at(-1)?.kind;
    if (ends === 'rollback') {
      this.#broken = undefined;
      finish(undefined, { command: 'ROLLBACK', rowCount: null, oid: null, rows: [], fields: [] });
      return;
    }
    if (ends === 'commit') this.#broken = undefined;
    finish(new TransactionBroken(broken.cause, { safeToRetry: broken.safeToRetry }));
  }

  #needsPrimary({ facts }: Statement): boolean {
    return facts?.reasons.some(({ kind }) => PRIMARY_ONLY.has(kind)) ?? false;
  }

  /** A read-only transaction in which nothing has run yet may as well begin on the primary. */
  #beginOnPrimary(statement: Statement, finish: Done): void {
    const begin = this.#freshBegin;
    if (!begin) {
      finish(new NeedsPrimary(statement.facts?.reasons[0]?.text ?? ''));
      return;
    }
    this.#held!.client.query('rollback', () => {
      this.#settle(undefined);
      this.#run(
        {
          ...begin,
          onPrimary: true,
          done: error => {
            if (error) finish(error);
            else void this.#runHeld(this.#held!, statement, finish);
          },
        },
        () => {},
      );
    });
  }

  #endsTransaction({ facts }: Statement): boolean {
    return facts?.transaction.some(({ kind }) => kind === 'commit' || kind === 'rollback') ?? false;
  }

  #commits({ facts }: Statement): boolean {
    return facts?.transaction.some(({ kind }) => kind === 'commit' || kind === 'prepare') ?? false;
  }

  #note({ facts }: Statement): void {
    if (facts?.access === 'read') return;
    this.#wrote = true;
    this.#changedCatalog ||= facts?.changesCatalog ?? false;
  }

  /** No transaction is open: what was written counts from now on, and the connection is given back if it may. */
  #settle(statement: Statement | undefined): void {
    this.#freshBegin = undefined;
    if (this.#wrote && statement) this.#router.noteWrite(statement.scope, this.#changedCatalog);
    this.#wrote = false;
    this.#changedCatalog = false;
    if (!this.#isSessionPinned) this.#letHeldGo(undefined);
  }

  #submit(query: Submittable, rest: unknown[], next: () => void): void {
    const text = textOf(query);
    const statement = this.#router.statement(text ?? '', undefined, () => {});
    const isRead = text !== undefined && statement.facts?.access === 'read';
    const submitOn = ({ client }: Held) => {
      const was = isInTransaction(client);
      (client.query as (...args: unknown[]) => unknown)(query, ...rest);
      afterAnswer(client, error => {
        if (!isRead) this.#note(statement);
        if (error) {
          this.#drop(error);
          if (was) this.#broken = new TransactionBroken(error);
        } else if (!isInTransaction(client)) this.#settle(statement);
        next();
      });
    };
    if (this.#held) {
      submitOn(this.#held);
      return;
    }
    this.#router
      .connectFor(statement, isRead)
      .then(({ client, member }) => submitOn(this.#hold(client, member)))
      .catch(error => {
        // As pg does when its connection is gone before it has sent it.
        const { handleError } = query as {
          handleError?: (error: unknown, connection: unknown) => void;
        };
        handleError?.call(query, error, { sync: () => {} });
        next();
      });
  }

  #hold(client: pg.PoolClient, member: MemberState | undefined): Held {
    const forwarding: Held['forwarding'] = FORWARDED.map(event => {
      const listener = (...args: unknown[]) => this.emit(event, ...args);
      client.on(event as 'notice', listener);
      return [event, listener];
    });
    member?.begin();
    this.#held = { client, member, forwarding };
    return this.#held;
  }

  /** The connection is of no more use. */
  #drop(error: Error): void {
    this.#wrote = false;
    this.#changedCatalog = false;
    this.#freshBegin = undefined;
    this.#isSessionPinned = false;
    this.#letHeldGo(error);
  }

  #letGo(error: Error | boolean | undefined): void {
    const { client } = this.#held ?? {};
    // Whoever gets it next must not find himself in somebody else's transaction or session.
    const isDirty = client && (isInTransaction(client) || this.#isSessionPinned);
    this.#letHeldGo(error || isDirty || undefined);
  }

  #letHeldGo(error: Error | boolean | undefined): void {
    const held = this.#held;
    if (!held) return;
    this.#held = undefined;
    for (const [event, listener] of held.forwarding) {
      held.client.removeListener(event, listener);
    }
    held.member?.end(undefined);
    held.client.release(error);
  }
}

function sendHeld(client: pg.PoolClient, { config, values }: Statement): Promise<unknown> {
  const own = typeof config === 'string' ? config : (Object.create(config) as pg.QueryConfig);
  const { promise, resolve, reject } = Promise.withResolvers<unknown>();
  const onError = (error: Error) => reject(error);
  client.once('error', onError);
  client.query(own as string, values as unknown[], (error: Error | null, result: unknown) =>
    error ? reject(error) : resolve(result),
  );
  return promise.finally(() => client.removeListener('error', onError));
}
