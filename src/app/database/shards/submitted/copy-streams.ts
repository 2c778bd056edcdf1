/**
 * The copy on one shard: bytes into its connection, or out of it.
 *
 * Holds true here: neither holds more than the socket and a part of a megabyte do. Who writes waits until the server
 * takes more; who reads lets it wait.
 */
import type pg from 'pg';

interface Connection extends pg.Connection {
  query(text: string): void;
  sendCopyFromChunk(chunk: Buffer): void;
  endCopyFrom(): void;
  sendCopyFail(reason: string): void;
}

const rowsOf = ({ text }: { text?: string }) => Number(/^COPY (\d+)/.exec(text ?? '')?.[1] ?? 0);

/** To be given to a client's `query`. */
export class CopyIntoShard {
  readonly #text: string;
  readonly #begun = Promise.withResolvers<Connection>();
  readonly #ended = Promise.withResolvers<number>();
  #rows = 0;

  constructor(text: string) {
    this.#text = text;
    this.#begun.promise.catch(() => {});
    this.#ended.promise.catch(() => {});
  }

  /** Resolves with the number of rows when all is done. */
  get done(): Promise<number> {
    return this.#ended.promise;
  }

  async write(chunk: Buffer): Promise<void> {
    const connection = await Promise.race([this.#begun.promise, this.#failed()]);
    const { stream } = connection;
    connection.sendCopyFromChunk(chunk);
    if (!stream.writableNeedDrain) return;
    const drained = new Promise<void>(resolve => stream.once('drain', resolve));
    await Promise.race([drained, this.#failed()]);
  }

  async end(): Promise<number> {
    (await this.#begun.promise).endCopyFrom();
    return this.#ended.promise;
  }

  /** @returns what the server says to it */
  async fail(reason: string): Promise<unknown> {
    try {
      (await this.#begun.promise).sendCopyFail(reason);
      await this.#ended.promise;
      return undefined;
    } catch (error) {
      return error;
    }
  }

  /** Rejects when it fails; never resolves. */
  #failed(): Promise<never> {
    return this.#ended.promise.then(() => new Promise<never>(() => {}));
  }

  // ---- what pg calls

  submit(connection: pg.Connection): void {
    (connection as Connection).query(this.#text);
  }

  handleCopyInResponse(connection: pg.Connection): void {
    this.#begun.resolve(connection as Connection);
  }

  handleCommandComplete(message: { text?: string }): void {
    this.#rows = rowsOf(message);
  }

  handleReadyForQuery(): void {
    this.#ended.resolve(this.#rows);
  }

  handleError(error: Error): void {
    this.#begun.reject(error);
    this.#ended.reject(error);
  }
}

const MOST_QUEUED_BYTES = 256 * 1_024;

/** To be given to a client's `query`. */
export class CopyOutOfShard {
  readonly #text: string;
  readonly #ended = Promise.withResolvers<number>();
  #queue: Buffer[] = [];
  #queuedBytes = 0;
  #wake: (() => void) | undefined;
  #connection: Connection | undefined;
  #isOver = false;
  #rows = 0;

  constructor(text: string) {
    this.#text = text;
    this.#ended.promise.catch(() => {});
  }

  /** Resolves with the number of rows when all has come. */
  get done(): Promise<number> {
    return this.#ended.promise;
  }

  /** What the server sends, message by message. @throws what it says instead */
  async *messages(): AsyncGenerator<Buffer> {
    for (;;) {
      const [chunk] = this.#queue.splice(0, 1);
      if (chunk) {
        this.#queuedBytes -= chunk.length;
        if (this.#queuedBytes === 0) this.#connection?.stream.resume();
        yield chunk;
      } else if (this.#isOver) {
        await this.#ended.promise;
        return;
      } else {
        await new Promise<void>(resolve => {
          this.#wake = resolve;
        });
      }
    }
  }

  /** Nobody wants the rest. */
  drop(): void {
    this.#queue = [];
    this.#queuedBytes = Number.NEGATIVE_INFINITY;
    this.#connection?.stream.resume();
  }

  #woken(): void {
    this.#wake?.();
    this.#wake = undefined;
  }

  // ---- what pg calls

  submit(connection: pg.Connection): void {
    this.#connection = connection as Connection;
    this.#connection.query(this.#text);
  }

  handleCopyData({ chunk }: { chunk: Buffer }): void {
    if (this.#queuedBytes < 0) return;
    // The parser uses its buffer again.
    this.#queue.push(Buffer.from(chunk));
    this.#queuedBytes += chunk.length;
    if (this.#queuedBytes > MOST_QUEUED_BYTES) this.#connection?.stream.pause();
    this.#woken();
  }

  handleCommandComplete(message: { text?: string }): void {
    this.#rows = rowsOf(message);
  }

  handleReadyForQuery(): void {
    this.#isOver = true;
    this.#ended.resolve(this.#rows);
    this.#woken();
  }

  handleError(error: Error): void {
    this.#isOver = true;
    this.#ended.reject(error);
    this.#woken();
  }
}
