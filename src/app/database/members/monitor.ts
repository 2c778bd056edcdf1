/**
 * Watches the members: which of them is the primary, which replicas are well, how far each has got.
 *
 * Holds true here:
 * - The primary is who says so itself; of several who do, the one with the higher timeline. What the map says
 *   of the order of members means nothing, so managed databases work as well.
 * - A primary that does not answer is *suspected*. While it is, all members are asked again and again, fast at
 *   first, until one says that it is the primary: the same or another.
 * - A question that is frozen in one member keeps nobody else's answer.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { Member } from '../../../map/runtime-map.ts';
import { type Position, tick } from '../consistency/position.ts';
import { isAway } from '../holding.ts';
import { PrimaryHistory } from './lag.ts';
import { keyOf, type MemberState } from './member.ts';
import type { Answer } from './probe.ts';

/** Between two questions to a member that nobody else asks. */
const POLL_INTERVAL_MS = 500;
/** A suspected primary is asked this often at first, and a killed server's successor is there in seconds. */
const SEARCH_PAUSE_MS = 20;
const SEARCH_PAUSE_LIMIT_MS = 250;
/** A replica that has not answered for this long is taken for frozen: what waits for it is run elsewhere. */
const FROZEN_MS = 3_000;

export interface MonitorEvents {
  /** Makes the state of a member, and its probe, which reports by the handlers. */
  open(
    member: Member,
    handlers: {
      onAnswer(member: MemberState, answer: Answer): void;
      onFailure(member: MemberState, error: unknown): void;
    },
  ): MemberState;
  /** A member that was not the primary before is. */
  onPrimary(member: MemberState, former: MemberState | undefined): void;
  onSuspicion(): void;
  /** A replica has not answered for long. */
  onFrozen(member: MemberState): void;
}

export class Monitor {
  readonly history = new PrimaryHistory();
  readonly #events: MonitorEvents;
  readonly #poll: NodeJS.Timeout;
  #members: MemberState[] = [];
  #primary: MemberState | undefined;
  /** Timeline on which the primary last said that it is one. */
  #timeline = 0;
  /** When it last did, by `performance.now()`. */
  #servedAt = Number.NEGATIVE_INFINITY;
  #wasSynchronous = false;
  /** Undefined while the primary serves. */
  #suspicion: { over: Promise<void>; end: (error?: unknown) => void } | undefined;
  /**
   * Who waits for an answer of the primary, and stops when that is suspected. Not one promise for all: each wait
   * for it would stay in its memory until then.
   */
  readonly #waiting = new Set<() => void>();
  /** The map says to leave the primary alone. */
  #isPaused = false;
  #isClosed = false;

  constructor(events: MonitorEvents) {
    this.#events = events;
    this.#poll = setInterval(() => this.#askAll(), POLL_INTERVAL_MS);
    this.#poll.unref();
  }

  get members(): readonly MemberState[] {
    return this.#members;
  }

  /** Who was last known to be the primary; it may be suspected. */
  get primary(): MemberState | undefined {
    return this.#primary;
  }

  get timeline(): number {
    return this.#timeline;
  }

  /** The primary is known, answers and may be asked. */
  get isServing(): boolean {
    return this.#suspicion === undefined && this.#primary !== undefined && !this.#isPaused;
  }

  /**
   * Takes the map's members; those that stay keep what is known of them.
   * @param assumed the primary until it says otherwise
   */
  setMembers(addresses: readonly Member[], assumed?: Member): void {
    const before = new Map(this.#members.map(member => [member.key, member]));
    this.#members = addresses.map(address => {
      const known = before.get(keyOf(address));
      if (known && known.dataCentre === address.dataCentre) {
        before.delete(known.key);
        return known;
      }
      return this.#events.open(address, {
        onAnswer: (member, answer) => this.#onAnswer(member, answer),
        onFailure: (member, error) => this.#onFailure(member, error),
      });
    });
    for (const gone of before.values()) {
      void gone.retire();
      if (this.#primary === gone) {
        this.#primary = undefined;
        this.#timeline = 0;
        this.history.clear();
      }
    }
    this.#primary ??= assumed && this.#members.find(({ key }) => key === keyOf(assumed));
    this.#askAll();
    if (!this.#primary) this.suspect();
  }

  /** Something spoke against the primary: asks all until one says that it is the primary. */
  suspect(): void {
    if (this.#suspicion || this.#isClosed) return;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    promise.catch(() => {});
    this.#suspicion = { over: promise, end: error => (error ? reject(error) : resolve()) };
    this.#tellWaiting();
    this.#events.onSuspicion();
    void this.#search();
  }

  /**
   * Resolves when the primary is known and not suspected.
   * @throws when every member says that it is wrong to ask: a password, a name
   */
  async served(): Promise<void> {
    await this.#suspicion?.over;
  }

  /** While the map says to hold, the primary is left alone and its connection closed. */
  pause(): void {
    this.#isPaused = true;
    this.#tellWaiting();
    this.#primary?.probe.disconnect();
  }

  /** The hold is over, and anyone may be the primary now. */
  resume(): void {
    if (!this.#isPaused) return;
    this.#isPaused = false;
    this.suspect();
  }

  /** The primary's position from a question after `since`, if it is known already. */
  knownPosition(since: number): Position | undefined {
    const answer = this.#primary?.answer;
    if (!answer || answer.isStandby || answer.asked <= since || !this.isServing) return undefined;
    return answer as Position;
  }

  /** Asks the primary where it is; undefined when it does not say. */
  async position(since: number): Promise<Position | undefined> {
    const primary = this.#primary;
    if (!primary || !this.isServing) return undefined;
    const answer = await this.#unlessSuspected(primary.probe.ask(since));
    // By now another may have taken over, and acknowledged what this one never had.
    if (!answer || answer.isStandby || this.#primary !== primary) return undefined;
    return answer as Position;
  }

  /**
   * For when the primary is away: the furthest position that any replica has on its disk. Every commit that
   * was acknowledged is on a synchronous standby, so it is at or before that.
   * @returns undefined when that is not certain: commits wait for no standby, or a replica cannot be asked
   *   that could be asked when the primary still was there
   */
  async furthestReceived(since: number): Promise<Position | undefined> {
    if (!this.#wasSynchronous) return undefined;
    const replicas = this.#members.filter(member => member !== this.#primary);
    // One that is known not to answer is not waited for.
    await Promise.all(
      replicas.map(member => (member.failure ? undefined : this.check(member, since))),
    );
    let furthest: Position | undefined;
    for (const { answer, awaySince } of replicas) {
      if (!answer) {
        if (awaySince === undefined || awaySince >= this.#servedAt) return undefined;
        continue;
      }
      // It has been promoted meanwhile.
      if (!answer.isStandby || answer.timeline === undefined) return undefined;
      const position = { timeline: answer.timeline, lsn: answer.received };
      if (!furthest || isFurther(position, furthest)) furthest = position;
    }
    return furthest;
  }

  /** Asks a member, and waits for it no longer than until it is known not to answer. */
  async check(member: MemberState, since: number): Promise<void> {
    if (member.answer && member.answer.asked > since) return;
    await member.probe.ask(since).catch(() => {});
  }

  /** Resolves when the replicas' connections are closed: what runs on them ends first. */
  async close(): Promise<void> {
    this.#isClosed = true;
    clearInterval(this.#poll);
    this.#suspicion?.end(new Error('Connection terminated: the pool has ended'));
    this.#suspicion = undefined;
    await Promise.all(this.#members.map(member => member.retire()));
  }

  /** Undefined when the question fails, or the primary is suspected first. */
  #unlessSuspected(question: Promise<Answer>): Promise<Answer | undefined> {
    return new Promise(resolve => {
      const give = (answer?: Answer) => {
        this.#waiting.delete(give);
        resolve(answer);
      };
      this.#waiting.add(give);
      question.then(give, () => give());
    });
  }

  #tellWaiting(): void {
    for (const give of [...this.#waiting]) give();
  }

  #askAll(): void {
    const now = tick();
    for (const member of this.#members) {
      if (this.#isPaused && member === this.#primary) continue;
      void this.check(member, now);
      const { awaySince } = member;
      if (awaySince !== undefined && performance.now() - awaySince > FROZEN_MS) {
        if (member !== this.#primary) this.#events.onFrozen(member);
      }
    }
  }

  async #search(): Promise<void> {
    for (let pause = SEARCH_PAUSE_MS; this.#suspicion && !this.#isClosed; ) {
      this.#askAll();
      await delay(pause, undefined, { ref: false });
      pause = Math.min(pause * 1.5, SEARCH_PAUSE_LIMIT_MS);
    }
  }

  #onAnswer(member: MemberState, answer: Answer): void {
    if (!this.#members.includes(member)) return;
    member.answer = answer;
    member.awaySince = undefined;
    member.failure = undefined;
    member.noteLatency(performance.now() - answer.askedAt);
    if (answer.isStandby) {
      member.lagMs = this.history.lagMs(answer.lsn);
      if (member === this.#primary) this.suspect();
      return;
    }
    const timeline = answer.timeline ?? 0;
    const isPrimary = member === this.#primary;
    const isDeposed = this.#primary?.answer?.isStandby;
    if (!isPrimary && this.#primary && timeline <= this.#timeline && !isDeposed) return;
    if (timeline !== this.#timeline) this.history.clear();
    this.#timeline = timeline;
    this.#servedAt = answer.askedAt;
    this.#wasSynchronous = answer.isSynchronous;
    this.history.add(answer.askedAt, answer.lsn);
    if (!isPrimary) {
      const former = this.#primary;
      this.#primary = member;
      this.#events.onPrimary(member, former);
    }
    this.#endSuspicion();
    // A process that starts during a hold has to ask everyone who the primary is.
    if (this.#isPaused) member.probe.disconnect();
  }

  #onFailure(member: MemberState, error: unknown): void {
    member.answer = undefined;
    member.awaySince ??= performance.now();
    member.failure = error;
    if (!this.#members.includes(member)) return;
    if (member === this.#primary && !this.#isPaused) this.suspect();
    // Nobody is away, all refuse: whoever waits should hear why.
    if (this.#members.every(({ failure }) => failure !== undefined && !isRefusable(failure))) {
      this.#suspicion?.end(error);
      this.#suspicion = undefined;
    }
  }

  #endSuspicion(): void {
    this.#suspicion?.end();
    this.#suspicion = undefined;
  }
}

function isRefusable(error: unknown): boolean {
  return isAway(error) || /timeout/i.test((error as Error | undefined)?.message ?? '');
}

function isFurther(one: Position, other: Position): boolean {
  return one.timeline > other.timeline || (one.timeline === other.timeline && one.lsn > other.lsn);
}
