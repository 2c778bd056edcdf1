/**
 * Carries statements to where they may run, and what fails there to where it may run instead.
 *
 * Holds true here:
 * - A read that a replica cannot finish, whatever the reason, is run elsewhere: it changes nothing, so nobody
 *   notices.
 * - Of what may have changed something, nothing is sent twice that may have been carried out: the error says
 *   what is known (`errors.ts`).
 * - What provably was not carried out is held, within its time, and sent again.
 * - Until parser and catalog are there everything goes to the primary.
 */
import type pg from 'pg';
import { hasCode } from '../../errors.ts';
import type { Member } from '../../map/runtime-map.ts';
import { log } from '../telemetry/log.ts';
import { isBroken, isRefusal, isStandbysTrouble, READ_ONLY, wasNotSent } from './breakage.ts';
import { routeCancellation } from './cancel.ts';
import { tick } from './consistency/position.ts';
import { currentRequest, Scope, type ScopePositions, watchRequests } from './consistency/scope.ts';
import { OutcomeUnknown } from './errors.ts';
import { type HoldLimits, isAway } from './holding.ts';
import { MemberState } from './members/member.ts';
import { Monitor } from './members/monitor.ts';
import { Probe } from './members/probe.ts';
import { Replicas } from './members/replicas.ts';
import { breakConnections, take } from './pool-internals.ts';
import { currentWatch, type ReadWatch, unwatched, type Watched } from './read-watch.ts';
import { CatalogKeeper } from './route/catalog-keeper.ts';
import { openParser } from './route/parser.ts';
import { StatementCache } from './route/statement-cache.ts';
import { addressOf, type Done, type QueryConfig, type Statement, sendOn } from './statement.ts';

/** A statement whose connections break under it this often may be what breaks them. */
const MAX_BREAKS = 3;
/** A read that waits for a primary looks this often whether a replica may answer it meanwhile. */
const READ_AGAIN_MS = 25;
/** A question to a member takes a millisecond; one that takes longer than this is not answered. */
const PROBE_TIMEOUT_MS = 1_000;

/** The primary's pool, as the router needs it. */
export interface PrimaryPool extends Watched {
  /**
   * A connection to the primary, held while that is away.
   * @param came when the request came, by `performance.now()`
   * @param mayHold false: who comes while it is away hears so at once, since a replica may do as well
   */
  connectPrimary(
    callback: (error: Error | undefined, client: pg.PoolClient | undefined) => void,
    came: number,
    mayHold?: boolean,
  ): void;
  /** Holds whoever comes until the primary serves. */
  noticeAway(): void;
  /** The primary is another one now. @param isDeposed the former may not answer any more */
  usePrimary(address: Member, isDeposed: boolean): void;
  /** A pool of connections for reads at a member. */
  poolTo(address: Member): pg.Pool;
  /** How the monitor connects to a member. */
  configFor(address: Member): pg.ClientConfig;
}

export interface RouterOptions {
  readonly maxReplicaLagMs: number;
  /** Milliseconds that any answer may be old; undefined: not at all. */
  readonly staleness: number | undefined;
  readonly dataCentre: string;
  /** How long one may be held, and how many. */
  readonly hold: HoldLimits;
}

export class Router {
  readonly monitor: Monitor;
  readonly #pool: PrimaryPool;
  readonly #replicas: Replicas;
  readonly #replicaOptions: { maxReplicaLagMs: number; dataCentre: string };
  readonly #staleness: number | undefined;
  readonly #keeper: CatalogKeeper;
  readonly #unwatch: () => void;
  /** Outside of requests the process is the session. */
  readonly #processScope = new Scope();
  #statements: StatementCache | undefined;
  readonly #hold: HoldLimits;
  #waitingReads = 0;
  #isClosed = false;
  #slots = 0;

  constructor(pool: PrimaryPool, options: RouterOptions) {
    this.#pool = pool;
    this.#staleness = options.staleness;
    this.#hold = options.hold;
    this.#replicaOptions = { ...options };
    this.monitor = new Monitor({
      open: (address, { onAnswer, onFailure }) => {
        const member = new MemberState(address, ++this.#slots, () => pool.poolTo(address));
        member.probe = new Probe(pool.configFor(address), PROBE_TIMEOUT_MS, {
          onAnswer: answer => onAnswer(member, answer),
          onFailure: error => onFailure(member, error),
        });
        return member;
      },
      onPrimary: (member, former) => {
        pool.usePrimary(member.address, former !== undefined);
        log.debug({ host: member.key, former: former?.key }, 'the database has a primary');
      },
      onSuspicion: () => pool.noticeAway(),
      onFrozen: ({ openPool }) => {
        if (openPool) breakConnections(openPool);
      },
    });
    this.#replicas = new Replicas(this.monitor, this.#replicaOptions);
    const source = { query: (text: string) => this.#askPrimary(text) };
    this.#keeper = new CatalogKeeper(source, {
      onError: error =>
        log.warn({ err: error }, 'the catalog could not be read; tried again later'),
    });
    this.#unwatch = watchRequests();
    void this.#prepare();
  }

  /**
   * Takes what the map says.
   * @param assumed the primary until it says otherwise: it was the only member
   */
  follow(members: readonly Member[], dataCentre: string, assumed?: Member): void {
    this.#replicaOptions.dataCentre = dataCentre;
    this.monitor.setMembers(members, assumed);
  }

  /** Those members that have a pool for reads. */
  replicaPools(): pg.Pool[] {
    return this.monitor.members.flatMap(({ openPool }) => openPool ?? []);
  }

  /** Whose session it is: that of the request that is being served, or the process. */
  scope(): Scope {
    return currentRequest()?.of(this) ?? this.#processScope;
  }

  /** Who has written, and what he has to be shown. */
  readonly positions: ScopePositions = {
    owner: this,
    scope: () => this.scope(),
    resolve: (scope, timeoutMs) => this.#replicas.resolve(scope, timeoutMs),
  };

  /** The primary's, which stands for the cluster. */
  get pool(): PrimaryPool {
    return this.#pool;
  }

  get replicas(): Replicas {
    return this.#replicas;
  }

  facts(text: string): Statement['facts'] {
    const facts = this.#statements?.facts(text);
    if (facts && facts.unknownNames.length > 0) this.#keeper.noticed(facts);
    return facts;
  }

  /** How old an answer may be, of a statement that does not say so itself. */
  get staleness(): number | undefined {
    return this.#staleness;
  }

  /** Runs a statement that nothing keeps on a connection. It is answered through its `done`, once. */
  run(statement: Statement): void {
    const { facts, text, watch } = statement;
    const mayRead = facts?.access === 'read' && !statement.onPrimary;
    if (mayRead && !watch?.staysOnPrimary(this.#pool)) this.#read(statement);
    else if (!routeCancellation(text, statement, this)) this.#onPrimary(statement);
  }

  /**
   * Takes a connection on which a statement that sends itself may run.
   * @throws what connecting throws
   */
  async acquire(statement: Statement): Promise<[pg.PoolClient, MemberState | undefined]> {
    if (statement.facts?.access === 'read') {
      const { scope, staleness, tried } = statement;
      const member = await this.#replicas.find(scope, staleness, tried);
      const client = await member?.pool.connect().catch(() => undefined);
      if (client) return [client, member];
    }
    return [await this.acquirePrimary(statement.came), undefined];
  }

  /**
   * A connection to the primary, held while that is away.
   * @param came when the request came, by `performance.now()`
   */
  acquirePrimary(came = performance.now()): Promise<pg.PoolClient> {
    const { promise, resolve, reject } = Promise.withResolvers<pg.PoolClient>();
    this.#pool.connectPrimary((error, client) => (client ? resolve(client) : reject(error)), came);
    return promise;
  }

  /** Runs a statement at a member, whatever it is. */
  runAt(member: MemberState, statement: Statement): void {
    member.pool.connect((error, client) => {
      if (error || !client) return statement.done(error ?? new Error('no connection'));
      sendOn(client, statement, member, (failure, result) => statement.done(failure, result));
    });
  }

  /**
   * What has to be known after a statement that changed something, or may have, and its commit.
   * @param changesCatalog names may mean something else from now on
   */
  noteWrite(scope: Scope, changesCatalog: boolean): void {
    scope.noteWrite();
    this.#replicas.resolveSoon(scope);
    if (changesCatalog) void this.#keeper.changed();
  }

  /** A standby refused what was taken for a read. */
  noteRefusal(text: string, error: unknown): void {
    this.#statements?.refused(text, String((error as { code?: unknown }).code));
  }

  /**
   * Asks whether a server that said 25006 is the primary all the same: a transaction that is read-only, or a
   * database, says so too.
   * @param address `host:port`
   */
  async isPrimary(address: string): Promise<boolean> {
    const { primary } = this.monitor;
    if (primary?.key !== address || !this.monitor.isServing) return false;
    const answer = await primary.probe.ask(tick()).catch(() => undefined);
    if (answer && !answer.isStandby) return true;
    this.monitor.suspect();
    return false;
  }

  /** Resolves when the replicas' connections are closed. */
  close(): Promise<void> {
    this.#isClosed = true;
    this.#unwatch();
    this.#keeper.close();
    return this.monitor.close();
  }

  async #prepare(): Promise<void> {
    try {
      const parser = await openParser();
      await this.#keeper.refresh();
      this.#statements = new StatementCache(parser, () => this.#keeper.current);
    } catch (error) {
      log.error({ err: error }, 'statements cannot be read, so all of them go to the primary');
    }
  }

  #read(statement: Statement): void {
    const found = this.#replicas.find(statement.scope, statement.staleness, statement.tried);
    if (found instanceof Promise) {
      found.then(
        member => this.#readAt(member, statement),
        error => statement.done(error),
      );
    } else this.#readAt(found, statement, statement.tried ? performance.now() : statement.came);
  }

  /** @param begun when it could have been sent, by `performance.now()` */
  #readAt(member: MemberState | undefined, statement: Statement, begun = performance.now()): void {
    if (!member) {
      if (this.monitor.isServing) this.#onPrimary(statement);
      else this.#readLater(statement);
      return;
    }
    member.begin();
    statement.watch?.atStandby(this.#pool, member.replayed?.lsn);
    take(member.pool, (failure, client) => {
      if (failure || !client) {
        member.end(undefined);
        return this.#afterTrouble(member, statement, failure ?? new Error('no connection'));
      }
      sendOn(client, statement, member, (error, result) => {
        member.end(error ? undefined : begun);
        if (!error) statement.done(undefined, result);
        else if (isRefusal(error)) {
          this.noteRefusal(statement.text, error);
          this.#onPrimary(statement);
        } else if (isStandbysTrouble(error)) this.#afterTrouble(member, statement, error);
        else statement.done(error);
      });
    });
  }

  /** No replica may answer it yet, and the primary is away: whichever is ready first does. */
  #readLater(statement: Statement): void {
    const leftMs = statement.came + this.#hold.timeoutMs - performance.now();
    if (leftMs <= 0 || this.#isClosed || this.#waitingReads >= this.#hold.most) {
      this.#onPrimary(statement, true);
      return;
    }
    this.#waitingReads++;
    setTimeout(
      () => {
        this.#waitingReads--;
        if (this.#isClosed) this.#onPrimary(statement, true);
        else this.#read(statement);
      },
      Math.min(leftMs, READ_AGAIN_MS),
    );
  }

  /** Another replica, or the primary. */
  #afterTrouble(member: MemberState, statement: Statement, error: Error): void {
    if (isBroken(error)) {
      // A standby that crashed comes back with less replayed than it had.
      member.answer = undefined;
      void this.monitor.check(member, tick());
      if (++statement.breaks > MAX_BREAKS) {
        statement.done(error);
        return;
      }
    }
    statement.tried ??= new Set();
    statement.tried.add(member);
    this.#read(statement);
  }

  #onPrimary(
    statement: Statement,
    mayHold = statement.facts?.access !== 'read' || statement.onPrimary === true,
  ): void {
    const take = (failure: Error | undefined, client: pg.PoolClient | undefined) => {
      if (!client) {
        if (!mayHold && isAway(failure)) this.#readLater(statement);
        else statement.done(failure ?? new Error('no connection'));
        return;
      }
      const send = () =>
        sendOn(client, statement, undefined, (error, result) => {
          if (!error) this.#answered(statement, undefined, result);
          else if (isBroken(error) || wasNotSent(error)) this.#afterBreak(statement, error);
          else if (hasCode(error, READ_ONLY)) {
            void this.#afterReadOnly(statement, error, addressOf(client));
          } else this.#answered(statement, error, undefined);
        });
      const wait = statement.watch?.atPrimary(this.#pool, addressOf(client));
      if (wait) void wait.then(send);
      else send();
    };
    this.#pool.connectPrimary(take, statement.came, mayHold);
  }

  #answered(statement: Statement, error: Error | undefined, result: unknown): void {
    const { facts, scope } = statement;
    // Of a connection that is kept, who keeps it knows when its transaction ends.
    if (facts?.access !== 'read' && !statement.keeps) {
      this.noteWrite(scope, facts?.changesCatalog ?? false);
    }
    statement.done(error, result);
  }

  /** The server that was the primary may be a standby now: then nothing was carried out. */
  async #afterReadOnly(statement: Statement, error: Error, address: string): Promise<void> {
    const isWhole = statement.facts?.transaction.length === 0;
    if (isWhole && !(await this.isPrimary(address)) && ++statement.breaks <= MAX_BREAKS) {
      this.#onPrimary(statement);
    } else this.#answered(statement, error, undefined);
  }

  #afterBreak(statement: Statement, error: Error): void {
    const { facts } = statement;
    const wasSent = !wasNotSent(error);
    this.monitor.suspect();
    const isHarmless = !wasSent || facts?.access === 'read' || facts?.repeatable === true;
    if (isHarmless && ++statement.breaks <= MAX_BREAKS) {
      if (facts?.access === 'read' && !statement.onPrimary) this.#read(statement);
      else this.#onPrimary(statement);
      return;
    }
    if (facts?.access !== 'read') this.noteWrite(statement.scope, facts?.changesCatalog ?? false);
    statement.done(isHarmless ? error : new OutcomeUnknown('a write', error));
  }

  #askPrimary(text: string): Promise<unknown> {
    return new Promise((resolve, reject) => {
      this.#onPrimary({
        ...unwatched(() =>
          this.statement(text, undefined, (error, result) =>
            error ? reject(error) : resolve(result),
          ),
        ),
        // It changes nothing, and is not of the application.
        keeps: () => false,
      });
    });
  }

  /** @param text that of `config`, where it has one */
  statement(
    config: QueryConfig,
    values: unknown[] | undefined,
    done: Statement['done'],
    staleness = this.#staleness,
  ): Statement {
    const text = typeof config === 'string' ? config : (config.text ?? '');
    const statement: Statement = {
      config,
      values,
      text,
      facts: this.facts(text),
      scope: this.scope(),
      staleness,
      came: performance.now(),
      done,
      breaks: 0,
    };
    const watch = currentWatch();
    return watch ? this.#watched(statement, watch) : statement;
  }

  #watched(statement: Statement, watch: ReadWatch): Statement {
    const { config, text, values, done } = statement;
    const own = typeof config === 'string' ? undefined : config.values;
    const tell: Done = (error, result) => {
      if (!error) watch.answered(this.#pool, text, values ?? own, result);
      done(error, result);
    };
    return { ...statement, watch, done: tell };
  }
}
