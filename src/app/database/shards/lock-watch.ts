/**
 * Ends waits for locks that may be one half of a deadlock over two servers, which neither of them sees.
 *
 * Holds true here:
 * - Only a statement is cancelled whose transaction has branches on several shards, and that is seen to wait for a
 *   lock: of a circle within one server PostgreSQL knows by itself.
 * - Nothing is sent before the time is up, so it costs a timer; and the application's own `lock_timeout` stays as it is.
 * - Of two who wait for each other one is likely to be first: the time is drawn anew for each wait.
 */
import type { Branch } from './two-phase/branch.ts';

const CANCEL = `select pg_cancel_backend(pid) as done from pg_stat_activity
  where pid = $1 and wait_event_type = 'Lock' and cardinality(pg_blocking_pids(pid)) > 0`;

export class LockWatch {
  readonly #branch: Branch;
  readonly #isOnSeveral: () => boolean;
  readonly #timeoutMs: number;
  readonly #begun = performance.now();
  #timer: NodeJS.Timeout | undefined;
  #isStopped = false;
  #looking: Promise<void> | undefined;
  #cancelledAfterMs: number | undefined;

  /**
   * @param isOnSeveral whether the transaction has branches on several shards by now
   * @param timeoutMs after so long it may be cancelled
   */
  constructor(branch: Branch, isOnSeveral: () => boolean, timeoutMs: number) {
    this.#branch = branch;
    this.#isOnSeveral = isOnSeveral;
    this.#timeoutMs = timeoutMs;
    this.#arm();
  }

  stop(): void {
    this.#isStopped = true;
    clearTimeout(this.#timer);
  }

  /** How long it had waited when it was cancelled, in milliseconds; undefined when it was not, or by somebody else. */
  async cancelledAfterMs(): Promise<number | undefined> {
    // It hears of it before who cancelled it does.
    await this.#looking;
    return this.#cancelledAfterMs;
  }

  #arm(): void {
    if (this.#isStopped) return;
    const waitMs = this.#timeoutMs * (1 + Math.random() / 2);
    this.#timer = setTimeout(() => {
      this.#looking = this.#look().finally(() => this.#arm());
    }, waitMs).unref();
  }

  async #look(): Promise<void> {
    const { client, shard } = this.#branch;
    const { processID } = client as unknown as { processID: number | null };
    if (!this.#isOnSeveral() || processID === null) return;
    try {
      const own = await shard.open();
      try {
        if (this.#isStopped) return;
        const { rowCount } = await own.query(CANCEL, [processID]);
        if (rowCount) this.#cancelledAfterMs = Math.round(performance.now() - this.#begun);
      } finally {
        own.end().catch(() => {});
      }
    } catch {
      // The shard is away, and the statement will hear of it.
    }
  }
}
