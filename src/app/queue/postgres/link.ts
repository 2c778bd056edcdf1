/**
 * A connection of the queue's own to one shard, beside the pool's: whoever waits for messages must not take the
 * connections with which they are handled.
 *
 * Holds true here:
 * - One statement at a time, each with a limit. A server that does not answer in it (it is frozen, the line is cut) is
 *   left, and connected to anew.
 * - After a failure the next try waits, longer each time up to a limit, unless it is told that there is hope.
 * - An error says whether the statement may have been carried out: `wasSent`.
 */
import type pg from 'pg';
import { hasCode } from '../../../errors.ts';
import { isAway } from '../../database/holding.ts';
import { breakConnection } from '../../database/pool-internals.ts';

/** A claim takes a millisecond; a statement of the queue's never waits for an application's lock for long. */
export const STATEMENT_TIMEOUT_MS = 5_000;
const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 2_000;

/** Not now; later it may go. */
export class ShardAway extends Error {
  /** The statement may have been carried out. */
  readonly wasSent: boolean;

  constructor(shard: string, wasSent: boolean, cause: unknown) {
    super(`shard ${shard} is away`, { cause });
    this.wasSent = wasSent;
  }
}

/** SQLSTATEs that pass by themselves: a lock, a deadlock, a primary that is one no more, too many connections, no space. */
const PASSING = ['40001', '40P01', '55P03', '57014', '25006', '53300', '53200', '53100', '57P03'];

/** Whether the same may succeed later. */
export function isTransient(error: unknown): boolean {
  return error instanceof ShardAway || isAway(error) || hasCode(error, ...PASSING);
}

export interface LinkOptions {
  readonly shard: string;
  readonly open: () => Promise<pg.Client>;
  /** Run on each new connection. */
  readonly greet: (client: pg.Client) => Promise<void>;
  readonly onNotification?: (channel: string, payload: string) => void;
  /** The connection broke. */
  readonly onBreak?: () => void;
}

export class Link {
  readonly #options: LinkOptions;
  #client: pg.Client | undefined;
  #opening: Promise<pg.Client> | undefined;
  #turn: Promise<unknown> = Promise.resolve();
  #pauseMs = 0;
  #notBefore = 0;
  #isClosed = false;

  constructor(options: LinkOptions) {
    this.#options = options;
  }

  get isUp(): boolean {
    return this.#client !== undefined;
  }

  /** How long until it makes sense to try again, in milliseconds. */
  get pauseMs(): number {
    return Math.max(0, this.#notBefore - performance.now());
  }

  /** @throws ShardAway, and what the server says */
  query<R extends pg.QueryResultRow>(config: pg.QueryConfig): Promise<pg.QueryResult<R>> {
    const mine = this.#turn.then(() => this.#send<R>(config));
    this.#turn = mine.catch(() => {});
    return mine;
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#turn;
    const client = this.#client;
    this.#client = undefined;
    // A server that is frozen never says goodbye.
    client?.end().catch(() => {});
  }

  /** Leaves the connection as it is. */
  breakOff(): void {
    const client = this.#client;
    this.#client = undefined;
    if (!client) return;
    breakConnection(client);
    this.#options.onBreak?.();
  }

  async #send<R extends pg.QueryResultRow>(config: pg.QueryConfig): Promise<pg.QueryResult<R>> {
    const { shard } = this.#options;
    let client: pg.Client;
    try {
      client = await this.#connected();
    } catch (error) {
      throw new ShardAway(shard, false, error);
    }
    const { promise: late, reject } = Promise.withResolvers<never>();
    const timer = setTimeout(
      () => reject(new ShardAway(shard, true, new Error('it does not answer'))),
      STATEMENT_TIMEOUT_MS,
    );
    const answer = client.query<R>(config);
    try {
      return await Promise.race([answer, late]);
    } catch (error) {
      answer.catch(() => {});
      const isLate = error instanceof ShardAway;
      if (isLate || isAway(error) || hasCode(error, '25006') || !isServerError(error)) {
        if (this.#client === client) this.breakOff();
        this.#waitLonger();
        throw isLate ? error : new ShardAway(shard, true, error);
      }
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  async #connected(): Promise<pg.Client> {
    if (this.#client) return this.#client;
    if (this.#isClosed) throw new Error('the queue is closed');
    if (this.pauseMs > 0) throw new Error('it was tried a moment ago');
    this.#opening ??= this.#open().finally(() => {
      this.#opening = undefined;
    });
    return this.#opening;
  }

  async #open(): Promise<pg.Client> {
    const { open, greet, onNotification } = this.#options;
    let client: pg.Client | undefined;
    try {
      client = await open();
      const opened = client;
      opened.on('error', () => {});
      opened.on('end', () => {
        if (this.#client === opened) this.breakOff();
      });
      if (onNotification) {
        opened.on('notification', ({ channel, payload }) => onNotification(channel, payload ?? ''));
      }
      await greet(opened);
      this.#client = opened;
      this.#pauseMs = 0;
      return opened;
    } catch (error) {
      if (client) breakConnection(client);
      this.#waitLonger();
      throw error;
    }
  }

  #waitLonger(): void {
    this.#pauseMs = Math.min(LONGEST_PAUSE_MS, this.#pauseMs * 2 || FIRST_PAUSE_MS);
    this.#notBefore = performance.now() + this.#pauseMs * (0.5 + Math.random() / 2);
  }
}

/** It came from the server, which is there. */
const isServerError = (error: unknown): boolean =>
  typeof (error as { severity?: unknown } | null)?.severity === 'string';
