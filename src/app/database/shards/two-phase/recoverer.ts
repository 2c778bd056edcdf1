/**
 * Runs the recovery of a process: when its pool starts, soon after something was left, and every so often. So what a
 * crash of any other process left is ended as well, also after hours.
 */
import { log } from '../../../telemetry/log.ts';
import type { ShardPrimary } from './branch.ts';
import { type Recovered, recoverTwoPhase } from './recover.ts';

export interface RecovererOptions {
  readonly deployment: string;
  /** All shards, as the map has them at the moment. */
  readonly shards: () => readonly ShardPrimary[];
  /** In milliseconds. Default: 30000; what this process itself leaves is seen to at once. */
  readonly everyMs?: number;
}

const EVERY_MS = 30_000;
/** By then a coordinator that works has decided (`recover.ts`, its grace). */
const SOON_MS = 2_500;

export class Recoverer {
  readonly #options: RecovererOptions;
  #timer: NodeJS.Timeout | undefined;
  #due = Number.POSITIVE_INFINITY;
  #running: Promise<unknown> | undefined;
  #isStopped = false;

  constructor(options: RecovererOptions) {
    this.#options = options;
  }

  /** Begins: once now, once soon, then every so often. */
  start(): void {
    if (this.#isStopped) return;
    void this.#run();
    this.soon();
  }

  /** Something was left. */
  soon(): void {
    this.#after(SOON_MS);
  }

  /** Resolves when what runs has ended. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    clearTimeout(this.#timer);
    await this.#running;
  }

  #after(delayMs: number): void {
    const due = performance.now() + delayMs;
    if (this.#isStopped || due >= this.#due) return;
    clearTimeout(this.#timer);
    this.#due = due;
    this.#timer = setTimeout(() => {
      this.#due = Number.POSITIVE_INFINITY;
      void this.#run();
    }, delayMs).unref();
  }

  async #run(): Promise<void> {
    const { deployment, shards, everyMs = EVERY_MS } = this.#options;
    if (!this.#running) {
      this.#running = recoverTwoPhase(shards(), { deployment }).then(report, error =>
        log.error({ err: error }, 'transactions across shards could not be recovered'),
      );
      await this.#running;
      this.#running = undefined;
    }
    // Processes that start together should not all do it together.
    this.#after(everyMs * (0.75 + Math.random() / 2));
  }
}

function report({ committed, aborted, strangers, away }: Recovered): void {
  if (committed + aborted > 0) {
    log.info({ committed, aborted }, 'transactions across shards that a crash had left were ended');
  }
  if (strangers.length > 0) {
    log.warn({ strangers }, 'prepared transactions of shards that the map does not have were left');
  }
  if (away.size > 0) {
    log.debug({ shards: [...away.keys()] }, 'shards that are away are recovered later');
  }
}
