/**
 * The connection of one client that was checked out, where there are replicas: which one it is, and for how
 * long.
 *
 * Holds true here:
 * - While nothing keeps the client on a connection, each statement is routed on its own, as by `pool.query`.
 * - *Pinned*: a transaction keeps it until its end, by what the server says of its state; a statement that
 *   changed its session, or ran code that nobody has read, until the release.
 * - A transaction that has only begun may be begun anew elsewhere: nothing was carried out. After that it stays
 *   where it is.
 * - A transaction that broke stays broken until it is rolled back: nothing that was meant to be part of it runs
 *   by itself.
 */
import pg from 'pg';
import { hasCode } from '../../errors.ts';
import { isBroken, isRefusal, isStandbysTrouble, READ_ONLY, wasNotSent } from './breakage.ts';
import { commit } from './commit.ts';
import { NeedsPrimary, OutcomeUnknown, TransactionBroken } from './errors.ts';
import type { MemberState } from './members/member.ts';
import type { ReadWatch } from './read-watch.ts';
import type { ReasonKind, StatementFacts } from './route/facts.ts';
import type { Router } from './router.ts';
import { addressOf, isInTransaction, type Statement } from './statement.ts';
import { type Submittable, whenIdle } from './submittable.ts';

/** What the client has of its connection. */
export interface Held {
  readonly client: pg.PoolClient;
  /** Undefined: it is one to the primary. */
  readonly member: MemberState | undefined;
}

export interface ConnectionEvents {
  /** It has a connection, for one statement or for longer. */
  onTaken(held: Held): void;
  onGiven(held: Held): void;
}

/** A statement without those parts that are its carrier's. */
export type Request = Omit<Statement, 'done' | 'keeps' | 'onConnection'>;

interface Transaction {
  /** The statement that began it, when it did nothing else. */
  readonly begin: Request | undefined;
  /** Statements of it that were answered, BEGIN not counted. */
  ran: number;
  wrote: boolean;
  changesCatalog: boolean;
  /** Of whoever began it: who joins it later reads what was, perhaps, long ago. */
  readonly watch: ReadWatch | undefined;
}

/** What works in a read-only transaction on the primary, and not, or otherwise, on a standby (route/README.md). */
const PRIMARY_ONLY: ReadonlySet<ReasonKind> = new Set<ReasonKind>([
  'unlogged',
  'temporary',
  'transaction-id',
  'notification',
  'advisory-lock',
  'server-state',
]);

const MAX_BEGINNINGS = 4;

export class ClientConnection {
  readonly #router: Router;
  readonly #events: ConnectionEvents;
  #held: Held | undefined;
  #isSessionPinned = false;
  #transaction: Transaction | undefined;
  #beginnings = 0;
  /** Why the transaction is broken, until it is rolled back. */
  #broken: Error | undefined;
  /** The connection that a session was pinned to is gone, and what was set in it. */
  #lost: Error | undefined;

  constructor(router: Router, events: ConnectionEvents) {
    this.#router = router;
    this.#events = events;
  }

  /** That which the client is pinned to. */
  get held(): Held | undefined {
    return this.#held;
  }

  /** Runs a statement. @throws what pg throws, TransactionBroken, OutcomeUnknown, NeedsPrimary */
  async run(request: Request): Promise<unknown> {
    if (this.#broken) return this.#whileBroken(request, this.#broken);
    if (this.#lost) throw this.#lost;
    return this.#held ? this.#runHeld(this.#held, request) : this.#runFree(request);
  }

  /** Lets an object send itself; resolves when it is done, however it went. */
  async submit(query: Submittable, request: Request): Promise<void> {
    request.watch?.spoil('reads with a cursor or a stream');
    const trouble = this.#broken ?? this.#lost;
    if (trouble) return query.handleError(trouble);
    if (!this.#held) {
      try {
        const [client, member] = await this.#router.acquire(request as Statement);
        this.#hold({ client, member });
      } catch (error) {
        return query.handleError(error as Error);
      }
    }
    const held = this.#held!;
    const idle = whenIdle(held.client);
    held.client.query(query as unknown as pg.Submittable);
    await idle;
    this.#afterAnswer(held, request);
  }

  /** Gives the connection back. @param error true or an error closes it */
  release(error?: Error | boolean): void {
    const held = this.#held;
    if (!held) return;
    this.#letGo(held, error);
    this.#transaction = undefined;
  }

  /** Without a connection: the router finds one, and it is kept when the statement asks for that. */
  #runFree(request: Request): Promise<unknown> {
    const { facts, scope } = request;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    let taken: Held | undefined;
    const given = () => {
      if (taken && this.#held?.client !== taken.client) this.#events.onGiven(taken);
      taken = undefined;
    };
    this.#router.run({
      ...request,
      onConnection: (client, member) => {
        given();
        taken = { client, member };
        this.#events.onTaken(taken);
      },
      keeps: (client, member) => {
        const isOpen = isInTransaction(client);
        if (!isOpen && !pinsSession(facts)) {
          if (facts?.access !== 'read') {
            this.#router.noteWrite(scope, facts?.changesCatalog ?? false);
          }
          return false;
        }
        this.#hold({ client, member }, taken !== undefined);
        if (isOpen) this.#begin(request);
        this.#afterAnswer(this.#held!, request);
        return true;
      },
      done: (error, result) => {
        given();
        if (error) {
          if (facts?.access !== 'read') {
            this.#router.noteWrite(scope, facts?.changesCatalog ?? false);
          }
          // Its connection went with it: what comes next was meant to be in the transaction.
          if (opensTransaction(facts) && !isOnlyBegin(facts)) this.#broken = error;
          reject(error);
        } else {
          request.watch?.answered(this.#router.pool, request.text, valuesOf(request), result);
          resolve(result);
        }
      },
    });
    return promise;
  }

  async #runHeld(held: Held, request: Request): Promise<unknown> {
    const { member } = held;
    const { facts, watch } = request;
    const transaction = this.#transaction;
    if (watch) await this.#tell(watch, held, transaction);
    if (member && transaction && facts?.access !== 'read') {
      if (this.#mayBeginAnew()) return this.#beginAnew(request, { onPrimary: true });
      const reason = facts?.reasons.find(({ kind }) => PRIMARY_ONLY.has(kind));
      if (reason) throw new NeedsPrimary(reason.text);
    }
    try {
      const send = () => this.#send(held, request);
      // Of a transaction on a standby nothing can be lost.
      const endsIt = transaction !== undefined && !member && mayCommit(request);
      if (endsIt) return await this.#commit(held, request, send);
      const result = await send();
      this.#afterAnswer(held, request);
      return result;
    } catch (error) {
      if (isGone(error)) return this.#afterBreak(held, request, error as Error);
      const elsewhere = await this.#elsewhere(held, request, error);
      if (elsewhere) return this.#beginAnew(request, elsewhere);
      this.#afterAnswer(held, request);
      throw error;
    }
  }

  async #commit(held: Held, request: Request, send: () => Promise<unknown>): Promise<unknown> {
    const { facts, scope } = request;
    const { result, isConnectionGone } = await commit(
      held.client,
      facts?.statements === 1 && facts.transaction[0]?.kind === 'commit',
      send,
      () => this.#router.acquirePrimary(),
    );
    if (isConnectionGone) {
      // It was carried out, as another connection found out.
      this.#router.noteWrite(scope, this.#transaction?.changesCatalog ?? false);
      this.#transaction = undefined;
      this.#letGo(held, true);
    } else this.#afterAnswer(held, request);
    return result;
  }

  async #tell(
    watch: ReadWatch,
    { client, member }: Held,
    transaction: Transaction | undefined,
  ): Promise<void> {
    if (transaction && transaction.watch !== watch) {
      watch.spoil('reads in a transaction that began outside of it');
    }
    if (member) watch.atStandby(this.#router.pool, member.replayed?.lsn);
    else await watch.atPrimary(this.#router.pool, addressOf(client));
  }

  #send({ client }: Held, request: Request): Promise<unknown> {
    const { config, values } = request;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    const own = (typeof config === 'string' ? config : Object.create(config)) as string;
    client.query(own, values as unknown[], (error: Error | null, result: unknown) => {
      if (!error) {
        request.watch?.answered(this.#router.pool, request.text, valuesOf(request), result);
        resolve(result);
      }
      // What the error did to the transaction the server says a moment later.
      else if (isBroken(error) || wasNotSent(error)) reject(error);
      else void whenIdle(client).then(() => reject(error));
    });
    return promise;
  }

  #begin(request: Request): void {
    const begin = isOnlyBegin(request.facts) ? request : undefined;
    this.#transaction = {
      begin,
      ran: begin ? -1 : 0,
      wrote: false,
      changesCatalog: false,
      watch: request.watch,
    };
  }

  #afterAnswer(held: Held, { facts, scope }: Request): void {
    const { client, member } = held;
    const isOpen = isInTransaction(client);
    if (pinsSession(facts)) this.#isSessionPinned = true;
    if (isOpen && !this.#transaction) {
      this.#transaction = {
        begin: undefined,
        ran: 0,
        wrote: false,
        changesCatalog: false,
        watch: undefined,
      };
    }
    const transaction = this.#transaction;
    const wrote = facts?.access !== 'read' && !isOnlyBegin(facts);
    const changesCatalog = facts?.changesCatalog ?? false;
    if (transaction) {
      transaction.ran++;
      transaction.wrote ||= wrote;
      transaction.changesCatalog ||= changesCatalog;
    }
    if (isOpen) return;
    this.#transaction = undefined;
    this.#beginnings = 0;
    if (!member && (transaction ? transaction.wrote : wrote)) {
      this.#router.noteWrite(scope, transaction?.changesCatalog ?? changesCatalog);
    }
    if (!this.#isSessionPinned && this.#held === held) this.#letGo(held);
  }

  /** The transaction has begun and done nothing, or its first statement has failed without doing anything. */
  #mayBeginAnew(): boolean {
    const transaction = this.#transaction;
    return (
      transaction?.begin !== undefined &&
      transaction.ran === 0 &&
      !this.#isSessionPinned &&
      this.#beginnings < MAX_BEGINNINGS
    );
  }

  /** Where a transaction's first statement may run that could not run here; undefined when nowhere. */
  async #elsewhere(
    { client, member }: Held,
    request: Request,
    error: unknown,
  ): Promise<Partial<Request> | undefined> {
    if (!this.#mayBeginAnew()) return undefined;
    if (member) {
      if (isRefusal(error)) {
        if (request.facts?.access === 'read') this.#router.noteRefusal(request.text, error);
        return { onPrimary: true };
      }
      return isStandbysTrouble(error) ? { tried: new Set([member]) } : undefined;
    }
    // It was taken for the primary and is a standby by now.
    if (!hasCode(error, READ_ONLY) || this.#transaction?.begin?.facts?.access === 'read') {
      return undefined;
    }
    return (await this.#router.isPrimary(addressOf(client))) ? undefined : { onPrimary: true };
  }

  async #beginAnew(request: Request, where: Partial<Request>): Promise<unknown> {
    const begin = this.#transaction!.begin!;
    this.#beginnings++;
    if (this.#held) this.#letGo(this.#held, true);
    this.#transaction = undefined;
    await this.#runFree({ ...begin, breaks: 0, came: request.came, ...where });
    return this.run(request);
  }

  async #afterBreak(held: Held, request: Request, error: Error): Promise<unknown> {
    const { member } = held;
    const { facts, scope } = request;
    const cause =
      error instanceof TransactionBroken || error instanceof OutcomeUnknown ? error.cause : error;
    if (!member) this.#router.monitor.suspect();
    if (member && this.#mayBeginAnew()) {
      return this.#beginAnew(request, { tried: new Set([member]) });
    }
    const transaction = this.#transaction;
    this.#transaction = undefined;
    if (this.#isSessionPinned) this.#lost = cause as Error;
    this.#letGo(held, error);
    if (transaction) {
      this.#broken = error === cause ? new TransactionBroken(error) : error;
      // It may have been committed.
      if (error instanceof OutcomeUnknown) {
        this.#router.noteWrite(scope, transaction.changesCatalog);
      }
      throw this.#broken;
    }
    if (facts?.access === 'read' || facts?.repeatable || wasNotSent(error)) throw error;
    this.#router.noteWrite(scope, facts?.changesCatalog ?? false);
    throw new OutcomeUnknown('a write', error);
  }

  /** ROLLBACK has been carried out by the server already, when it lost the connection. */
  #whileBroken({ facts, text }: Request, broken: Error): unknown {
    const isRollback =
      facts?.transaction[0]?.kind === 'rollback' || /^\s*(rollback|abort)\s*;?\s*$/i.test(text);
    if (!isRollback) throw broken;
    this.#broken = undefined;
    return Object.assign(new pg.Result('', pg.types), { command: 'ROLLBACK' });
  }

  #hold(held: Held, isTold = false): void {
    this.#held = held;
    held.member?.begin();
    if (!isTold) this.#events.onTaken(held);
  }

  #letGo(held: Held, error?: Error | boolean): void {
    this.#held = undefined;
    this.#isSessionPinned = false;
    held.member?.end(undefined);
    this.#events.onGiven(held);
    held.client.release(error);
  }
}

function valuesOf({ config, values }: Request): unknown[] | undefined {
  return values ?? (typeof config === 'string' ? undefined : config.values);
}

/** Something of the session may be other than before: unlike the server's word on transactions, a guess. */
function pinsSession(facts: StatementFacts | undefined): boolean {
  return facts === undefined || facts.pins === 'session' || facts.opaque;
}

function isOnlyBegin(facts: StatementFacts | undefined): boolean {
  return facts?.statements === 1 && facts.transaction[0]?.kind === 'begin';
}

function opensTransaction(facts: StatementFacts | undefined): boolean {
  return facts?.transaction.some(({ kind }) => kind === 'begin') ?? false;
}

/** Of a text that nobody has read, too. */
function mayCommit({ facts, text }: Request): boolean {
  if (!facts || facts.statements === 0) return /\b(commit|end|prepare\s+transaction)\b/i.test(text);
  return facts.transaction.some(({ kind }) => kind === 'commit' || kind === 'prepare');
}

function isGone(error: unknown): boolean {
  return (
    isBroken(error) ||
    wasNotSent(error) ||
    error instanceof TransactionBroken ||
    error instanceof OutcomeUnknown
  );
}
