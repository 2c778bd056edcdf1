/**
 * COPY … TO STDOUT over shards: what each copies, one after the other, as one copy.
 *
 * Holds true here: the shards begin at the same time, so what they show is of about one moment; each waits until it is
 * read. What stands at the beginning and at the end of a copy stands there once.
 */
import type pg from 'pg';
import { cancelOn } from '../../cancel-request.ts';
import type { CopyOutAction } from '../plan/copy.ts';
import type { ShardedTransaction } from '../sharded-transaction.ts';
import { CopyOutOfShard } from './copy-streams.ts';
import type { CopyOut } from './virtual-server.ts';

/** Signature, flags, length of the extension. */
const BINARY_HEAD_BYTES = 19;
const BINARY_END_BYTES = 2;

export interface CopyOutOptions {
  readonly text: string;
  readonly action: CopyOutAction;
  readonly transaction: ShardedTransaction;
  readonly shards: readonly number[];
  /** Called once, when it is over. */
  readonly onEnd: (error: unknown) => Promise<void>;
}

export class CopyOutOfShards implements CopyOut {
  readonly direction = 'out';
  readonly columns: number;
  readonly isBinary: boolean;
  readonly #options: CopyOutOptions;
  rows = 0;

  constructor(options: CopyOutOptions) {
    this.#options = options;
    this.columns = options.action.columns;
    this.isBinary = options.action.format.kind === 'binary';
  }

  async *chunks(): AsyncGenerator<Buffer> {
    const { text, transaction, shards, onEnd } = this.#options;
    const copies = shards.map(() => new CopyOutOfShard(text));
    const clients: pg.PoolClient[] = [];
    const statements = copies.map((copy, i) =>
      transaction.on(shards[i]!, false, client => {
        clients.push(client);
        client.query(copy as never);
        return copy.done;
      }),
    );
    for (const statement of statements) statement.catch(() => {});
    let error: unknown = new Error('the copy was not read to its end');
    try {
      for (const [i, copy] of copies.entries()) {
        // A shard that cannot be reached at all has no messages.
        const isOver = statements[i]!.then(() => undefined);
        yield* this.#part(copy, isOver, i === 0, i === copies.length - 1);
        this.rows += await statements[i]!;
      }
      error = undefined;
    } catch (failure) {
      error = failure;
      throw failure;
    } finally {
      for (const copy of copies) copy.drop();
      const abort = new AbortController();
      const stops = clients.map(client => cancelOn(abort.signal, client));
      // The rest is of no use to anyone.
      if (error !== undefined) abort.abort();
      await Promise.allSettled(statements);
      await Promise.all(stops.map(stop => stop()));
      await onEnd(error);
    }
  }

  async *#part(
    copy: CopyOutOfShard,
    isOver: Promise<undefined>,
    isFirst: boolean,
    isLast: boolean,
  ): AsyncGenerator<Buffer> {
    const { format } = this.#options.action;
    const hasHead = format.kind === 'binary' || format.hasHeader;
    let isHeadDue = hasHead && !isFirst;
    const messages = copy.messages();
    let held: Buffer | undefined;
    for (;;) {
      const next = messages.next();
      const found = await Promise.race([next, isOver.then(() => next)]);
      if (found.done) break;
      let chunk = found.value;
      if (isHeadDue) {
        isHeadDue = false;
        chunk =
          format.kind === 'binary'
            ? chunk.subarray(BINARY_HEAD_BYTES + chunk.readUInt32BE(BINARY_HEAD_BYTES - 4))
            : chunk.subarray(chunk.length);
      }
      if (held && held.length > 0) yield held;
      held = chunk;
    }
    if (!held) return;
    const isCut = this.isBinary && !isLast;
    const rest = isCut ? held.subarray(0, held.length - BINARY_END_BYTES) : held;
    if (rest.length > 0) yield rest;
  }
}
