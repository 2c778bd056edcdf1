/**
 * Who has to be shown what: read your writes, for a request or for the process.
 *
 * Holds true here:
 * - `since` is the moment before which everything that was acknowledged has to be seen: when the request came,
 *   when the scope's own last write was acknowledged, when the process began.
 * - A position is a token for the scope only when it was asked after `since`; or when it came with the request,
 *   signed and old enough (`session-token.ts`).
 * - What the process has shown to anybody it shows to the scope's later reads, where somebody says so (`atLeast`): a
 *   token that was asked before may be older than that.
 * - After a write of its own the scope does not wait for the position: it is asked a moment later, beside the
 *   request, and reads go to the primary until it is there.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { requestContext } from '../../telemetry/request-context.ts';
import { type Position, tick } from './position.ts';

export class Scope {
  #since: number;
  #token: Position | undefined;
  #floor = 0n;
  /** It wrote, and what it wrote has no position yet. */
  isUnresolved = false;
  /** It has written at all. */
  hasWritten = false;
  /** Its session has written before, or may have. */
  hasWrittenBefore = false;

  /** @param since a tick. Default: now */
  constructor(since = tick()) {
    this.#since = since;
  }

  get since(): number {
    return this.#since;
  }

  /** What its reads have to see; undefined while that is not known. */
  get token(): Position | undefined {
    return this.#token;
  }

  /** From now on its reads see what was in the primary's log up to here, on whichever timeline. */
  atLeast(lsn: bigint): void {
    if (lsn <= this.#floor) return;
    this.#floor = lsn;
    this.#token &&= this.raised(this.#token);
  }

  /** The position, or what the scope has to see beyond it. */
  raised(position: Position): Position {
    return position.lsn >= this.#floor ? position : { ...position, lsn: this.#floor };
  }

  /** The token is of a timeline that is over: what is known now has to be asked. */
  forgetToken(): void {
    this.#token = undefined;
  }

  /** A write of the scope was answered. */
  noteWrite(): void {
    this.#since = tick();
    this.#token = undefined;
    this.isUnresolved = true;
    this.hasWritten = true;
  }

  /** Takes a token that was proven otherwise. */
  accept(position: Position): void {
    if (!this.hasWritten) this.#token = this.raised(position);
  }

  /** @param asked the tick at which the position was asked; one of before `since` proves nothing */
  resolve(position: Position, asked: number): void {
    if (asked <= this.#since) return;
    this.#token = this.raised(position);
    this.isUnresolved = false;
  }
}

/** Where scopes have written, of one database cluster. */
export interface ScopePositions {
  /** By which a request finds its scope. */
  readonly owner: object;
  /** That of the request that is being served, or the process's. */
  scope(): Scope;
  /** Asks where the primary is, for a scope that has written. @returns undefined when it did not say in time */
  resolve(scope: Scope, timeoutMs: number): Promise<Position | undefined>;
}

/** What one HTTP request has: a scope for each pool that it uses. */
export class RequestScopes {
  readonly #came = tick();
  #owner: object | undefined;
  #scope: Scope | undefined;
  #others: Map<object, Scope> | undefined;
  #mayHaveWritten = false;

  /** @param owner the pool's router */
  of(owner: object): Scope {
    // Nearly all requests use one pool.
    if (this.#owner === owner) return this.#scope!;
    if (!this.#owner) {
      this.#owner = owner;
      this.#scope = this.#begin();
      return this.#scope;
    }
    this.#others ??= new Map();
    const known = this.#others.get(owner);
    if (known) return known;
    const scope = this.#begin();
    this.#others.set(owner, scope);
    return scope;
  }

  /** Somebody who shares it has to be shown a write, of before or of its own. */
  get isOfWriter(): boolean {
    if (this.#mayHaveWritten) return true;
    const own = this.#scope;
    if (own && (own.hasWritten || own.hasWrittenBefore)) return true;
    if (!this.#others) return false;
    for (const { hasWritten, hasWrittenBefore } of this.#others.values()) {
      if (hasWritten || hasWrittenBefore) return true;
    }
    return false;
  }

  /** Whoever sent it may have written before, anywhere, and nothing proves how far that was. */
  mayHaveWritten(): void {
    this.#mayHaveWritten = true;
    if (this.#scope) this.#scope.hasWrittenBefore = true;
    for (const scope of this.#others?.values() ?? []) scope.hasWrittenBefore = true;
  }

  #begin(): Scope {
    const scope = new Scope(this.#came);
    scope.hasWrittenBefore = this.#mayHaveWritten;
    return scope;
  }
}

/**
 * Entered when Node has read a request's head, before anything of the application runs: so it works under any
 * framework, with and without `lifecycle()`.
 */
const requests = new AsyncLocalStorage<RequestScopes>();
/** HTTP/2 and upgraded connections are told of by `lifecycle()` alone. */
const byContext = new WeakMap<object, RequestScopes>();

const REQUEST_STARTS = 'http.server.request.start';
const onRequest = () => requests.enterWith(new RequestScopes());
let watchers = 0;

/** Gives each HTTP request of this process scopes of its own, until the returned function is called. */
export function watchRequests(): () => void {
  if (watchers++ === 0) subscribe(REQUEST_STARTS, onRequest);
  return () => {
    if (--watchers === 0) unsubscribe(REQUEST_STARTS, onRequest);
  };
}

/** Those of the request that is being served; undefined outside of one. */
export function currentRequest(): RequestScopes | undefined {
  const entered = requests.getStore();
  if (entered) return entered;
  const context = requestContext();
  if (!context) return undefined;
  let scopes = byContext.get(context);
  if (!scopes) {
    scopes = new RequestScopes();
    byContext.set(context, scopes);
  }
  return scopes;
}

/** Runs what a process asks for itself: whatever it does there, nobody has to be shown that. */
export function forNobody<T>(fn: () => T): T {
  return requests.run(new RequestScopes(), fn);
}

/**
 * Runs what is done because of something that was committed before, such as a message: all that it reads, through the cache too, is
 * at least as new as everything that had been acknowledged by now.
 */
export function fromNowOn<T>(fn: () => T): T {
  const scopes = new RequestScopes();
  scopes.mayHaveWritten();
  return requests.run(scopes, fn);
}

/**
 * For a request of somebody who brings no session that could tell what he wrote, such as a client of an API with its token: from here
 * on all that it reads, through the cache too, is at least as new as everything that was acknowledged before it came. That costs one small
 * question to the primary, which requests of the same moment share. Outside of a request it does nothing.
 *
 * Where `sessions` are opened it is not needed: their cookie knows.
 */
export function readOwnWrites(): void {
  currentRequest()?.mayHaveWritten();
}
