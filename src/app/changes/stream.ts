/**
 * One connection that reads a slot: PostgreSQL's replication protocol over a connection of `pg`.
 *
 * Holds true here:
 * - **Only what was acknowledged by the caller is acknowledged to the server**; on idle, when nothing is on its way, the
 *   place that the server has come to, so that other tables' writes do not hold back the log.
 * - What has been read and not taken is bounded: beyond that the socket is not read, and the server waits. It is told
 *   how far we are all the while, or it would take us for dead (`wal_sender_timeout`).
 * - A server that says nothing for long is given up, though its connection stands.
 *
 * (https://www.postgresql.org/docs/15/protocol-replication.html)
 */
import type pg from 'pg';
import { escapeIdentifier, escapeLiteral } from 'pg';
import type { Lsn } from '../database/timelines.ts';
import { type Assembled, Assembler, type TransactionLimits } from './assemble.ts';
import { formatLsn } from './change.ts';
import { dateOf, POSTGRES_EPOCH_MS } from './pgoutput.ts';
import { abandon } from './primary.ts';

export interface StreamOptions {
  readonly slot: string;
  readonly publication: string;
  readonly limits: TransactionLimits;
  /** Where to begin; the server begins no earlier than what it has been told. */
  readonly from: Lsn;
}

/** Far below any `wal_sender_timeout`: Banyan's own servers have 5 s. */
const STATUS_INTERVAL_MS = 1_000;
/** A server that works sends something at least this often, for it is asked to. */
const SILENCE_MS = 10_000;
/** What has been read and not taken. */
const MAX_WAITING = 1_000;
const MAX_WAITING_BYTES = 8 * 1024 * 1024;

type Connection = pg.Connection & {
  sendCopyFromChunk(chunk: Buffer): void;
  endCopyFrom(): void;
};

/** What the server has said of itself. */
export interface Heard {
  /** The end of its log, as far as it has told. */
  readonly serverLsn: Lsn;
  /** Its clock at that moment. */
  readonly at: Date;
}

export class LogStream {
  readonly #client: pg.Client;
  readonly #connection: Connection;
  readonly #assembler: Assembler;
  readonly #waiting: Assembled[] = [];
  #waitingBytes = 0;
  #isPaused = false;
  #wanted: PromiseWithResolvers<Assembled> | undefined;
  #failure: Error | undefined;
  /** All before it has been acknowledged. */
  #acknowledged: Lsn;
  /** The end of the last transaction that was read. */
  #lastEnd: Lsn;
  #heard: Heard;
  #heardAt = performance.now();
  #status: NodeJS.Timeout | undefined;
  readonly #ended = Promise.withResolvers<void>();

  private constructor(client: pg.Client, { limits, from }: StreamOptions) {
    this.#client = client;
    this.#connection = (client as pg.Client & { connection: Connection }).connection;
    this.#assembler = new Assembler(limits);
    this.#acknowledged = from;
    this.#lastEnd = from;
    this.#heard = { serverLsn: from, at: new Date() };
  }

  /**
   * Begins to read. The stream owns the client from here on.
   * @param client a replication connection to the slot's database
   * @throws 55006 while another reads with the slot; what the server says otherwise
   */
  static async start(client: pg.Client, options: StreamOptions): Promise<LogStream> {
    const stream = new LogStream(client, options);
    await stream.#start(options);
    return stream;
  }

  /** Resolves when it has ended or broken. */
  get ended(): Promise<void> {
    return this.#ended.promise;
  }

  /** What the server has said last. */
  get heard(): Heard {
    return this.#heard;
  }

  /** What was last acknowledged. */
  get acknowledged(): Lsn {
    return this.#acknowledged;
  }

  /**
   * The next transaction, in commit order. One call at a time.
   * @throws what broke the connection
   */
  async next(): Promise<Assembled> {
    const next = this.#waiting.shift();
    if (next) {
      this.#waitingBytes -= next.bytes;
      this.#resumeIfRoom();
      return next;
    }
    if (this.#failure) throw this.#failure;
    this.#wanted = Promise.withResolvers();
    return this.#wanted.promise;
  }

  /** All up to here has been dealt with, and need not come again. */
  acknowledge(lsn: Lsn): void {
    if (lsn > this.#acknowledged) this.#acknowledged = lsn;
  }

  /** Asks the server where its log ends: it answers at once. */
  ask(): void {
    if (!this.#failure) this.#sendStatus(true);
  }

  /** Ends it, and tells the server what was acknowledged, if it still listens. */
  end(reason: Error = new Error('the reader has ended')): void {
    if (!this.#failure) {
      try {
        this.#sendStatus(false);
        this.#connection.endCopyFrom();
      } catch {
        // It broke first.
      }
    }
    this.#fail(reason);
  }

  #start({ slot, publication, from }: StreamOptions): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const fail = (error: Error) => {
      reject(error);
      this.#fail(error);
    };
    this.#connection.once('replicationStart', () => {
      this.#heardAt = performance.now();
      this.#status = setInterval(() => this.#tick(), STATUS_INTERVAL_MS);
      resolve();
    });
    this.#client.on('error', fail);
    this.#client.on('end', () => fail(new Error('the connection to the database ended')));
    const names = escapeLiteral(escapeIdentifier(publication));
    const command =
      `START_REPLICATION SLOT ${escapeIdentifier(slot)} LOGICAL ${formatLsn(from)}` +
      ` (proto_version '1', publication_names ${names})`;
    // A `Submittable` of pg: the connection is its own until it ends.
    this.#client.query({
      submit: (connection: pg.Connection) => connection.query(command),
      handleError: fail,
      handleCopyData: ({ chunk }: { chunk: Buffer }) => this.#onData(chunk),
      handleRowDescription: () => {},
      handleDataRow: () => {},
      handleCommandComplete: () => {},
      handlePortalSuspended: () => {},
      handleEmptyQuery: () => {},
      handleReadyForQuery: () => fail(new Error('the server ended the stream')),
    } as unknown as pg.Submittable);
    return promise;
  }

  #onData(chunk: Buffer): void {
    if (this.#failure) return;
    try {
      this.#heardAt = performance.now();
      const kind = chunk[0];
      if (kind === 0x77 /* w: a part of the log */) {
        this.#hear(chunk.readBigUInt64BE(9), chunk.readBigInt64BE(17));
        const transaction = this.#assembler.take(chunk.subarray(25));
        if (transaction) this.#give(transaction);
      } else if (kind === 0x6b /* k: keepalive */) {
        const serverLsn = chunk.readBigUInt64BE(1);
        this.#hear(serverLsn, chunk.readBigInt64BE(9));
        if (this.#isIdle) this.acknowledge(serverLsn);
        if (chunk[17] === 1) this.#sendStatus(false);
      }
    } catch (error) {
      this.#fail(error as Error);
    }
  }

  /** All that was read has been acknowledged, and nothing is half read. */
  get #isIdle(): boolean {
    return !this.#assembler.isInside && this.#acknowledged >= this.#lastEnd;
  }

  #hear(lsn: Lsn, micros: bigint): void {
    const serverLsn = lsn > this.#heard.serverLsn ? lsn : this.#heard.serverLsn;
    this.#heard = { serverLsn, at: dateOf(micros) };
  }

  #give(transaction: Assembled): void {
    this.#lastEnd = transaction.endLsn;
    const wanted = this.#wanted;
    if (wanted) {
      this.#wanted = undefined;
      wanted.resolve(transaction);
      return;
    }
    this.#waiting.push(transaction);
    this.#waitingBytes += transaction.bytes;
    if (this.#waiting.length >= MAX_WAITING || this.#waitingBytes >= MAX_WAITING_BYTES) {
      this.#isPaused = true;
      this.#connection.stream.pause();
    }
  }

  #resumeIfRoom(): void {
    if (!this.#isPaused) return;
    if (this.#waiting.length > MAX_WAITING / 2 || this.#waitingBytes > MAX_WAITING_BYTES / 2)
      return;
    this.#isPaused = false;
    this.#heardAt = performance.now();
    this.#connection.stream.resume();
  }

  #tick(): void {
    // Who does not listen hears nothing.
    const silentMs = this.#isPaused ? 0 : performance.now() - this.#heardAt;
    if (silentMs > SILENCE_MS) {
      this.#fail(new Error(`the database has said nothing for ${Math.round(silentMs)} ms`));
    } else this.#sendStatus(silentMs > STATUS_INTERVAL_MS);
  }

  #sendStatus(asksForReply: boolean): void {
    const message = Buffer.alloc(34);
    message.write('r');
    // Written, flushed and applied are one to us: only what was dealt with counts.
    for (const at of [1, 9, 17]) message.writeBigUInt64BE(this.#acknowledged, at);
    message.writeBigInt64BE(BigInt(Date.now() - POSTGRES_EPOCH_MS) * 1000n, 25);
    message[33] = asksForReply ? 1 : 0;
    this.#connection.sendCopyFromChunk(message);
  }

  #fail(error: Error): void {
    if (this.#failure) return;
    this.#failure = error;
    clearInterval(this.#status);
    if (this.#isPaused) this.#connection.stream.resume();
    abandon(this.#client);
    this.#wanted?.reject(error);
    this.#wanted = undefined;
    // What was read is still good, but its taker should hear of the end soon.
    this.#waiting.length = 0;
    this.#ended.resolve();
  }
}
