/**
 * Holding instead of failing: while the database is away (it restarts, it moves, another takes over), or is
 * not to be asked for a moment (the map says `hold`), who wants a connection waits, up to a limit, and does
 * not fail.
 *
 * Holds true here:
 * - Only what was provably not executed is held: nothing was sent before there is a connection.
 * - One probe asks whether the database is back, however many wait; they go on in the order in which they
 *   came.
 * - Every wait ends: after `timeoutMs`, or at once when too many wait already, with `DatabaseAway`.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { BanyanError, hasCode } from '../../errors.ts';
import type { Hold } from '../../map/runtime-map.ts';

export interface HoldLimits {
  /** How long one may wait. */
  timeoutMs: number;
  /** How many may wait. */
  most: number;
}

export class DatabaseAway extends BanyanError {
  constructor(reason: string, cause: unknown) {
    super('DATABASE_AWAY', {
      what: `The database is away: ${reason}`,
      where: (cause as Error | undefined)?.message ?? 'the connection pool',
      remedy:
        'Nothing of this request was executed, so it may be repeated. `banyan status` and `banyan logs postgres-1` tell what is the matter',
      cause,
    });
  }
}

/** Nobody listens, or who listens does not take sessions yet or any more. */
const AWAY = [
  'ECONNREFUSED',
  'ECONNRESET',
  'EPIPE',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ETIMEDOUT',
  // cannot_connect_now, admin_shutdown, crash_shutdown
  '57P03',
  '57P01',
  '57P02',
  // too_many_connections: how a place that the database has left is fenced (CONNECTION LIMIT 0). Also a
  // server that has none left for the moment.
  '53300',
];

/** The pause between two probes: a restart takes a few tenths of a second. */
const PROBE_PAUSE_MS = 20;
const PROBE_PAUSE_LIMIT_MS = 250;

/** True for an error of connecting that says that the database is away, not that the request is wrong. */
export function isAway(error: unknown): boolean {
  // pg's own, when the server went in the middle of the handshake.
  return (
    hasCode(error, ...AWAY) ||
    /Connection terminated|timeout expired/.test((error as Error | undefined)?.message ?? '')
  );
}

export class Holding {
  readonly #limits: HoldLimits;
  readonly #probe: () => Promise<unknown>;
  /** What those who wait wait for; undefined while nothing keeps them. */
  #gate: { opened: Promise<void>; open: () => void } | undefined;
  #isAway = false;
  /** What the map asks for, while it lasts. */
  #planned: { id: string; timer: NodeJS.Timeout; onEnd: () => void } | undefined;
  readonly #onOpen: () => void;
  /** A hold that is over is not obeyed again when another map brings it. */
  #lastPlanned: string | undefined;
  #waiting = 0;
  #stopped = false;

  /**
   * @param probe connects and gives the connection back; throws as `connect` does
   * @param onOpen called when nothing keeps those who wait any more
   */
  constructor(limits: HoldLimits, probe: () => Promise<unknown>, onOpen = () => {}) {
    this.#limits = limits;
    this.#probe = probe;
    this.#onOpen = onOpen;
  }

  /** The database is known to be away, or the map says to hold. */
  get isHolding(): boolean {
    return this.#gate !== undefined;
  }

  /** The map says to hold. */
  get isPlanned(): boolean {
    return this.#planned !== undefined;
  }

  /** Whether there is any waiting at all: not with a time of 0, nor after the end. */
  get isPossible(): boolean {
    return this.#limits.timeoutMs > 0 && !this.#stopped;
  }

  /**
   * Connects, and waits while the database is away.
   * @param since when the request came, by `performance.now()`: one that is held for a second time has no more time
   * @throws DatabaseAway, and whatever else `connect` throws
   */
  async connect<T>(connect: () => Promise<T>, since = performance.now()): Promise<T> {
    const deadline = since + this.#limits.timeoutMs;
    for (;;) {
      while (this.#gate && !this.#stopped) await this.#wait(this.#gate.opened, deadline);
      try {
        return await connect();
      } catch (error) {
        if (!this.isPossible || !isAway(error)) throw error;
        if (performance.now() >= deadline) throw new DatabaseAway(this.#timeIsUp(), error);
        this.noticeAway();
      }
    }
  }

  /** Holds whoever comes until the probe succeeds. */
  noticeAway(): void {
    if (this.#isAway || !this.isPossible) return;
    this.#isAway = true;
    this.#close();
    void this.#untilBack();
  }

  /**
   * Takes what the map says: a hold begins when its id is first seen, and ends after its time or when the
   * map no longer says it.
   * @param onEnd called once when it has ended, before anyone goes on
   * @returns whether one has begun
   */
  plan(hold: Hold | undefined, onEnd: () => void): boolean {
    if (this.#planned && hold?.id === this.#planned.id) return false;
    this.#endPlanned();
    if (!hold || hold.id === this.#lastPlanned || this.#stopped) return false;
    const timer = setTimeout(() => this.#endPlanned(), hold.forMs);
    this.#planned = { id: hold.id, timer, onEnd };
    this.#lastPlanned = hold.id;
    this.#close();
    return true;
  }

  /** Ends the waiting: who waits gets the error of its own attempt. */
  stop(): void {
    this.#stopped = true;
    this.#endPlanned();
    this.#gate?.open();
    this.#gate = undefined;
  }

  #endPlanned(): void {
    if (!this.#planned) return;
    const { timer, onEnd } = this.#planned;
    clearTimeout(timer);
    this.#planned = undefined;
    onEnd();
    this.#openUnlessKept();
  }

  #close(): void {
    if (this.#gate) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#gate = { opened: promise, open: resolve };
  }

  #openUnlessKept(): void {
    if (this.#isAway || this.#planned || !this.#gate) return;
    const { open } = this.#gate;
    this.#gate = undefined;
    // Those who have come furthest go first.
    this.#onOpen();
    open();
  }

  async #wait(opened: Promise<void>, deadline: number): Promise<void> {
    if (this.#waiting >= this.#limits.most) {
      throw new DatabaseAway(`${this.#limits.most} requests wait for it already`, undefined);
    }
    this.#waiting++;
    const patience = new AbortController();
    const late = delay(Math.max(0, deadline - performance.now()), 'late' as const, {
      signal: patience.signal,
    }).catch(() => undefined);
    try {
      const outcome = await Promise.race([opened, late]);
      if (outcome === 'late') throw new DatabaseAway(this.#timeIsUp(), undefined);
    } finally {
      patience.abort();
      this.#waiting--;
    }
  }

  async #untilBack(): Promise<void> {
    let pause = PROBE_PAUSE_MS;
    while (!this.#stopped) {
      try {
        // What the map says to leave alone is left alone.
        if (!this.#planned) {
          await this.#probe();
          break;
        }
      } catch (error) {
        // It answers, if only to say no: whoever waits should hear that.
        if (!isAway(error)) break;
      }
      await delay(pause);
      pause = Math.min(pause * 1.5, PROBE_PAUSE_LIMIT_MS);
    }
    this.#isAway = false;
    this.#openUnlessKept();
  }

  #timeIsUp(): string {
    return `it has not been back for ${this.#limits.timeoutMs / 1_000} s`;
  }
}
