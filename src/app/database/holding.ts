/**
 * Holding instead of failing: while the database is away (it restarts, it moves, another takes over), who
 * wants a connection waits, up to a limit, and does not fail.
 *
 * Holds true here:
 * - Only what was provably not executed is held: nothing was sent before there is a connection.
 * - One probe asks whether the database is back, however many wait; they go on in the order in which they
 *   came.
 * - Every wait ends: after `timeoutMs`, or at once when too many wait already, with `DatabaseAway`.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { BanyanError, hasCode } from '../../errors.ts';

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
  /** Resolves when the database is back; undefined while it is not known to be away. */
  #back: Promise<void> | undefined;
  #waiting = 0;
  #stopped = false;

  /** @param probe connects and gives the connection back; throws as `connect` does */
  constructor(limits: HoldLimits, probe: () => Promise<unknown>) {
    this.#limits = limits;
    this.#probe = probe;
  }

  /** The database is known to be away. */
  get isHolding(): boolean {
    return this.#back !== undefined;
  }

  /**
   * Connects, and waits while the database is away.
   * @throws DatabaseAway, and whatever else `connect` throws
   */
  async connect<T>(connect: () => Promise<T>): Promise<T> {
    const deadline = performance.now() + this.#limits.timeoutMs;
    for (;;) {
      if (this.#back) await this.#wait(deadline);
      try {
        return await connect();
      } catch (error) {
        const holds = this.#limits.timeoutMs > 0 && !this.#stopped;
        if (!holds || !isAway(error)) throw error;
        if (performance.now() >= deadline) throw new DatabaseAway(this.#timeIsUp(), error);
        this.#back ??= this.#untilBack();
      }
    }
  }

  /** Ends the waiting: who waits gets the error of its own attempt. */
  stop(): void {
    this.#stopped = true;
  }

  async #wait(deadline: number): Promise<void> {
    if (this.#waiting >= this.#limits.most) {
      throw new DatabaseAway(`${this.#limits.most} requests wait for it already`, undefined);
    }
    this.#waiting++;
    const patience = new AbortController();
    const late = delay(Math.max(0, deadline - performance.now()), 'late' as const, {
      signal: patience.signal,
    }).catch(() => undefined);
    try {
      const outcome = await Promise.race([this.#back, late]);
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
        await this.#probe();
        break;
      } catch (error) {
        // It answers, if only to say no: whoever waits should hear that.
        if (!isAway(error)) break;
      }
      await delay(pause);
      pause = Math.min(pause * 1.5, PROBE_PAUSE_LIMIT_MS);
    }
    this.#back = undefined;
  }

  #timeIsUp(): string {
    return `it has not been back for ${this.#limits.timeoutMs / 1_000} s`;
  }
}
