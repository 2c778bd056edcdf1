/**
 * The witness: writes and reads all the time, from several sessions, remembers every acknowledgement,
 * and at the end accounts for each.
 *
 * Glossary:
 * - acknowledged: the application said that the write is done. From then on it must be there, once.
 * - refused: the application was provably not reached, or said no. It must not be there.
 * - unknown: the connection broke or the answer was an error of the server; it may be there, once.
 * - lost: acknowledged and not there at the end.
 * - stale: a read of a session that did not see a write that the same session had been
 *   acknowledged before the read began.
 * - duplicated: there more than once. phantom: there although it was refused.
 *
 * Each session writes the numbers 1, 2, 3, … one after the other, and reads in between.
 */
import { setTimeout as delay } from 'node:timers/promises';

/** What is witnessed: an application seen through its own interface. */
export interface Subject {
  /**
   * Writes a number for a session and resolves when it is acknowledged.
   * @throws Refused when it was certainly not written; anything else means that it may have been
   */
  write(session: number, value: number, signal: AbortSignal): Promise<void>;
  /** The numbers that a session sees of its own. */
  read(session: number, signal: AbortSignal): Promise<number[]>;
  /** All that is there for a session at the end, however it is found out. */
  recount(session: number): Promise<number[]>;
}

/** The write was certainly not done. */
export class Refused extends Error {}

export interface WitnessOptions {
  /** Default: 4. */
  sessions?: number;
  /** Pause of a session after a write and its reads, in milliseconds. Default: 15. */
  pauseMs?: number;
  /** A request that takes longer has failed. Default: 30000. */
  timeoutMs?: number;
  /** Reads for one write. Default: 1. */
  readsPerWrite?: number;
}

export interface Account {
  writes: { acknowledged: number; refused: number; unknown: number };
  reads: { answered: number; failed: number };
  /** `session:value` of each. */
  lost: string[];
  stale: string[];
  duplicated: string[];
  phantoms: string[];
  /** In milliseconds, of those that succeeded. */
  slowest: { write: number; read: number };
  /** The longest time without any acknowledged write, in milliseconds. */
  longestOutageMs: number;
  /** How often each failure was seen. */
  failures: Record<string, number>;
}

interface SessionMemory {
  next: number;
  acknowledged: Set<number>;
  refused: Set<number>;
}

export class Witness {
  readonly #subject: Subject;
  readonly #options: Required<WitnessOptions>;
  readonly #sessions: SessionMemory[];
  readonly #leaving = new AbortController();
  readonly #account: Account = {
    writes: { acknowledged: 0, refused: 0, unknown: 0 },
    reads: { answered: 0, failed: 0 },
    lost: [],
    stale: [],
    duplicated: [],
    phantoms: [],
    slowest: { write: 0, read: 0 },
    longestOutageMs: 0,
    failures: {},
  };
  #lastAcknowledgement = performance.now();
  #running: Promise<unknown> = Promise.resolve();

  constructor(subject: Subject, options: WitnessOptions = {}) {
    this.#subject = subject;
    this.#options = { sessions: 4, pauseMs: 15, timeoutMs: 30_000, readsPerWrite: 1, ...options };
    this.#sessions = Array.from({ length: this.#options.sessions }, () => ({
      next: 1,
      acknowledged: new Set<number>(),
      refused: new Set<number>(),
    }));
  }

  start(): this {
    this.#lastAcknowledgement = performance.now();
    this.#running = Promise.all(this.#sessions.map((_, index) => this.#run(index)));
    return this;
  }

  /** Resolves when `count` more writes have been acknowledged: the system is at work. */
  async untilAcknowledged(count: number, timeoutMs = 30_000): Promise<void> {
    const goal = this.#account.writes.acknowledged + count;
    const deadline = performance.now() + timeoutMs;
    while (this.#account.writes.acknowledged < goal) {
      if (performance.now() > deadline) {
        throw new Error(
          `no ${count} acknowledged writes within ${timeoutMs} ms; failures: ${JSON.stringify(this.#account.failures)}`,
        );
      }
      await delay(10);
    }
  }

  /**
   * Lets the sessions finish what they do, recounts everything, and gives the account.
   * @param recount counts in the end, if the subject cannot any more
   */
  async stop(recount: Pick<Subject, 'recount'> = this.#subject): Promise<Account> {
    this.#leaving.abort();
    await this.#running;
    for (const [session, memory] of this.#sessions.entries()) {
      this.#compare(session, memory, await recount.recount(session));
    }
    return this.#account;
  }

  async #run(session: number): Promise<void> {
    while (!this.#leaving.signal.aborted) {
      await this.#write(session);
      for (let i = 0; i < this.#options.readsPerWrite; i++) await this.#read(session);
      await delay(this.#options.pauseMs);
    }
  }

  async #write(session: number): Promise<void> {
    const memory = this.#sessions[session]!;
    const value = memory.next++;
    const begun = performance.now();
    try {
      await this.#subject.write(session, value, AbortSignal.timeout(this.#options.timeoutMs));
    } catch (error) {
      if (error instanceof Refused) memory.refused.add(value);
      this.#account.writes[error instanceof Refused ? 'refused' : 'unknown']++;
      this.#note('write', error);
      return;
    }
    const now = performance.now();
    memory.acknowledged.add(value);
    const { writes, slowest } = this.#account;
    writes.acknowledged++;
    slowest.write = Math.max(slowest.write, now - begun);
    const outage = now - this.#lastAcknowledgement;
    this.#account.longestOutageMs = Math.max(this.#account.longestOutageMs, outage);
    this.#lastAcknowledgement = now;
  }

  async #read(session: number): Promise<void> {
    const memory = this.#sessions[session]!;
    // A session does one thing at a time, so all that it was acknowledged precedes this read.
    const expected = memory.acknowledged;
    const begun = performance.now();
    try {
      const seen = new Set(
        await this.#subject.read(session, AbortSignal.timeout(this.#options.timeoutMs)),
      );
      this.#account.reads.answered++;
      this.#account.slowest.read = Math.max(this.#account.slowest.read, performance.now() - begun);
      const newest = Math.max(0, ...expected);
      if (newest > 0 && !seen.has(newest)) this.#account.stale.push(`${session}:${newest}`);
    } catch (error) {
      this.#account.reads.failed++;
      this.#note('read', error);
    }
  }

  #compare(session: number, memory: SessionMemory, found: number[]): void {
    const times = new Map<number, number>();
    for (const value of found) times.set(value, (times.get(value) ?? 0) + 1);
    const { lost, duplicated, phantoms } = this.#account;
    for (const value of memory.acknowledged) {
      if (!times.has(value)) lost.push(`${session}:${value}`);
    }
    for (const [value, count] of times) {
      if (count > 1) duplicated.push(`${session}:${value}`);
      if (memory.refused.has(value)) phantoms.push(`${session}:${value}`);
    }
  }

  #note(operation: string, error: unknown): void {
    const text = `${operation}: ${(error as Error).message}`;
    this.#account.failures[text] = (this.#account.failures[text] ?? 0) + 1;
  }
}
