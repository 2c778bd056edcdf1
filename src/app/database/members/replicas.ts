/**
 * Which replica may answer a read, if any: the choice and the check that it has got far enough are one step.
 *
 * Holds true here:
 * - A replica answers only from what it is known to have replayed. In doubt it is asked once, together with all
 *   others who are in doubt of it, and given a moment; then the primary answers.
 * - While all is known nothing is awaited, so a read costs no more than a few comparisons.
 * - While the primary is away reads go on: what was acknowledged is on some replica's disk, and one that has
 *   replayed all that any replica has may answer.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { covers, type Position, tick } from '../consistency/position.ts';
import type { Scope } from '../consistency/scope.ts';
import { choose } from './choose.ts';
import type { MemberState } from './member.ts';
import type { Monitor } from './monitor.ts';
import type { Answer } from './probe.ts';

/** For a replica to replay what it is known to lack: longer than that, and the primary would have answered. */
const CATCH_UP_MS = 20;
const CATCH_UP_PAUSE_MS = 2;
/** One that is further behind is not waited for: it will not get there in a moment. Measured by polls, so coarse. */
const CATCH_UP_LAG_MS = 1_000;
/** Unresolved scopes are resolved together, this long after the first of them. */
const RESOLVE_AFTER_MS = 3;

export interface ReplicaOptions {
  /** A replica that is further behind gets no reads. */
  readonly maxReplicaLagMs: number;
  /** The data centre of this process. */
  dataCentre: string;
}

export class Replicas {
  readonly #monitor: Monitor;
  readonly #options: ReplicaOptions;
  #unresolved: Scope[] = [];

  constructor(monitor: Monitor, options: ReplicaOptions) {
    this.#monitor = monitor;
    this.#options = options;
  }

  /**
   * @param staleness milliseconds that the answer may be old; undefined: not at all
   * @param tried those that have failed this read
   * @returns the replica; undefined for the primary; a promise only when something has to be asked
   */
  find(
    scope: Scope,
    staleness: number | undefined,
    tried: ReadonlySet<MemberState> | undefined,
  ): MemberState | undefined | Promise<MemberState | undefined> {
    const monitor = this.#monitor;
    if (staleness !== undefined) {
      const now = performance.now();
      const fresh = this.#choose(
        tried,
        ({ lsn }) => monitor.history.stalenessMs(lsn, now) <= staleness,
      );
      if (fresh) return fresh;
    }
    if (!monitor.isServing) return this.#withoutPrimary(scope, tried);
    const token = this.#token(scope);
    if (token) {
      return (
        this.#choose(tried, replayed => covers(replayed, token)) ??
        this.#afterCatchUp(token, tried, performance.now() + CATCH_UP_MS)
      );
    }
    // What it wrote itself a moment ago the primary has for certain.
    if (scope.isUnresolved) {
      this.resolveSoon(scope);
      return undefined;
    }
    return this.#afterAsking(scope, tried);
  }

  /** Asks where the primary is for a scope that wrote: soon, for all such scopes at once. */
  resolveSoon(scope: Scope): void {
    this.#unresolved.push(scope);
    if (this.#unresolved.length > 1) return;
    setTimeout(() => {
      const scopes = new Set(this.#unresolved);
      this.#unresolved = [];
      void this.#resolve(scopes);
    }, RESOLVE_AFTER_MS).unref();
  }

  /**
   * Asks where the primary is, for a scope that wrote.
   * @returns the token; undefined when the primary did not say in time
   */
  async resolve(scope: Scope, timeoutMs: number): Promise<Position | undefined> {
    if (!this.#token(scope)) {
      const patience = new AbortController();
      const late = delay(timeoutMs, undefined, { signal: patience.signal }).catch(() => {});
      await Promise.race([this.#resolve([scope]), late]);
      patience.abort();
    }
    return scope.token;
  }

  async #resolve(scopes: Iterable<Scope>): Promise<void> {
    const asked = tick();
    const position = await this.#monitor.position(asked);
    if (!position) return;
    // Sent after that tick, so it covers whoever had written by then.
    for (const scope of scopes) scope.resolve(position, asked);
  }

  #token(scope: Scope): Position | undefined {
    const { token, since } = scope;
    const monitor = this.#monitor;
    if (token && token.timeline === monitor.timeline) return token;
    // Another primary has taken over: what is right now on its timeline takes the token's place. A timeline
    // that is not known here yet was told by another process that knows more.
    if (token && monitor.timeline > 0 && token.timeline > monitor.timeline) monitor.suspect();
    scope.forgetToken();
    const known = monitor.knownPosition(since);
    if (known) scope.resolve(known, since + 1);
    return scope.token;
  }

  #choose(
    tried: ReadonlySet<MemberState> | undefined,
    may: (replayed: Position, answer: Answer) => boolean,
  ): MemberState | undefined {
    const { members } = this.#monitor;
    const candidates: MemberState[] = [];
    for (const member of members) {
      const { replayed, answer } = member;
      if (!replayed || !answer || member.lagMs > this.#options.maxReplicaLagMs) continue;
      if (may(replayed, answer) && !tried?.has(member)) candidates.push(member);
    }
    return choose(candidates, this.#options.dataCentre);
  }

  async #afterAsking(
    scope: Scope,
    tried: ReadonlySet<MemberState> | undefined,
  ): Promise<MemberState | undefined> {
    const { since } = scope;
    const asked = await this.#monitor.position(since);
    if (!asked) return this.#monitor.isServing ? undefined : this.#withoutPrimary(scope, tried);
    // A write of the scope may have been answered meanwhile: then this is of before it, and still right for
    // this read, which was sent before.
    scope.resolve(asked, since + 1);
    const position = scope.raised(asked);
    return (
      this.#choose(tried, replayed => covers(replayed, position)) ??
      this.#afterCatchUp(position, tried, performance.now() + CATCH_UP_MS)
    );
  }

  /** The one that is nearest to the token is asked until it has got there, for a moment. */
  async #afterCatchUp(
    token: Position,
    tried: ReadonlySet<MemberState> | undefined,
    deadline: number,
    may = (replayed: Position, _answer: Answer) => covers(replayed, token),
  ): Promise<MemberState | undefined> {
    for (;;) {
      const nearest = this.#nearest(token, tried);
      if (!nearest) return undefined;
      const left = deadline - performance.now();
      if (left <= 0) return undefined;
      await Promise.race([this.#monitor.check(nearest, tick()), delay(left)]);
      const chosen = this.#choose(tried, may);
      if (chosen) return chosen;
      await delay(CATCH_UP_PAUSE_MS);
    }
  }

  #nearest(token: Position, tried: ReadonlySet<MemberState> | undefined): MemberState | undefined {
    let nearest: MemberState | undefined;
    for (const member of this.#monitor.members) {
      const { replayed } = member;
      if (replayed?.timeline !== token.timeline || tried?.has(member)) continue;
      if (member.lagMs > Math.min(CATCH_UP_LAG_MS, this.#options.maxReplicaLagMs)) continue;
      if (!nearest || replayed.lsn > nearest.replayed!.lsn) nearest = member;
    }
    return nearest;
  }

  async #withoutPrimary(
    scope: Scope,
    tried: ReadonlySet<MemberState> | undefined,
  ): Promise<MemberState | undefined> {
    const furthest = await this.#monitor.furthestReceived(scope.since);
    if (!furthest) return undefined;
    const { token } = scope;
    // The primary may have been ahead of all, by what it had not acknowledged.
    const enough = token && covers(furthest, token) ? token : furthest;
    const may = (replayed: Position, { isDrained, timeline, received }: Answer) =>
      covers(replayed, enough) ||
      (isDrained && timeline !== undefined && covers({ timeline, lsn: received }, enough));
    return (
      this.#choose(tried, may) ??
      this.#afterCatchUp(enough, tried, performance.now() + CATCH_UP_MS, may)
    );
  }
}
