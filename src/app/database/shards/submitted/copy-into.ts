/**
 * COPY … FROM STDIN over shards: each row goes to the shard that owns its key, as the bytes that it came as.
 *
 * Holds true here:
 * - It is a part of its transaction: what fails on one shard fails the copy, and nothing of it is kept anywhere.
 * - A shard is opened with its first row. At most `FLUSH_BYTES` for each shard are held; who writes faster waits.
 * - Where a column is unique over all shards the copy is ended and begun again every so many rows, to claim their values:
 *   what is held does not grow with the copy. Triggers for each statement run as often.
 */
import type { CopyIntoAction } from '../plan/copy.ts';
import type { KeyFamily } from '../plan/placement.ts';
import type { ShardedTransaction } from '../sharded-transaction.ts';
import { type CopiedRow, cutterOf, type RowCutter } from './copy-rows.ts';
import { CopyIntoShard } from './copy-streams.ts';
import type { CopyInto } from './virtual-server.ts';

const FLUSH_BYTES = 64 * 1_024;
/** Values that are claimed at a time. */
const CLAIMED_ROWS = 10_000;

interface Sink {
  readonly copy: CopyIntoShard;
  /** The statement on the shard; fails as it does. */
  readonly statement: Promise<unknown>;
  pieces: Buffer[];
  bytes: number;
}

export interface CopyIntoOptions {
  readonly text: string;
  readonly action: CopyIntoAction;
  readonly transaction: ShardedTransaction;
  shardOf(family: KeyFamily, key: string): number | undefined;
  /** Claims what was written since the last time; undefined where no column is unique over all shards. */
  readonly settle: (() => Promise<unknown>) | undefined;
  /** Called once, when it is over. @param error nothing of it is to be kept */
  readonly onEnd: (error: unknown) => Promise<void>;
}

export class CopyIntoShards implements CopyInto {
  readonly direction = 'in';
  readonly columns: number;
  readonly isBinary: boolean;
  readonly #options: CopyIntoOptions;
  readonly #cutter: RowCutter;
  readonly #sinks = new Map<number, Sink>();
  #rows = 0;
  #unclaimed = 0;

  constructor(options: CopyIntoOptions) {
    const { columns, format, key } = options.action;
    this.#options = options;
    this.columns = columns;
    this.isBinary = format.kind === 'binary';
    this.#cutter = cutterOf(format, key);
  }

  write(chunk: Buffer): Promise<void> {
    return this.#orFail(() => this.#spread(this.#cutter.take(chunk)));
  }

  end(): Promise<number> {
    return this.#orFail(async () => {
      await this.#spread(this.#cutter.rest());
      // Also without rows it is said what is wrong with the statement.
      if (this.#sinks.size === 0 && this.#rows === 0) await this.#sink(0);
      await this.#finish();
      await this.#options.onEnd(undefined);
      return this.#rows;
    });
  }

  async fail(reason: string): Promise<unknown> {
    if (this.#sinks.size === 0) await this.#sink(0).catch(() => {});
    const answers = await this.#failAll(reason);
    const error = answers.find(answer => answer !== undefined) ?? new Error(reason);
    await this.#options.onEnd(error);
    return error;
  }

  async #spread(rows: Iterable<CopiedRow>): Promise<void> {
    const { action, shardOf, transaction, settle } = this.#options;
    const { key } = action;
    const touched = new Set<Sink>();
    for (const row of rows) {
      const shards = key
        ? [(row.key === undefined ? undefined : shardOf(key.family, row.key)) ?? 0]
        : Array.from({ length: transaction.count }, (_, i) => i);
      for (const shard of shards) {
        const sink = this.#sinks.get(shard) ?? (await this.#sink(shard));
        sink.pieces.push(row.bytes);
        sink.bytes += row.bytes.length;
        touched.add(sink);
        if (sink.bytes >= FLUSH_BYTES) await flush(sink);
      }
      if (settle && ++this.#unclaimed >= CLAIMED_ROWS) await this.#finish();
    }
    // What the writer gave is its own again when this returns.
    for (const sink of touched)
      if (sink.pieces.length > 0) sink.pieces = [Buffer.concat(sink.pieces)];
  }

  async #sink(shard: number): Promise<Sink> {
    const { transaction, text } = this.#options;
    const copy = new CopyIntoShard(text);
    const statement = transaction.on(shard, true, client => {
      client.query(copy as never);
      return copy.done;
    });
    statement.catch(() => {});
    const sink = { copy, statement, pieces: [this.#cutter.head], bytes: 0 };
    this.#sinks.set(shard, sink);
    return sink;
  }

  /** Ends the copy on each shard; another may be begun. */
  async #finish(): Promise<void> {
    const { settle, action } = this.#options;
    const counts = await Promise.all(
      [...this.#sinks.values()].map(async sink => {
        sink.pieces.push(this.#cutter.tail);
        await flush(sink);
        const rows = await sink.copy.end();
        await sink.statement;
        return rows;
      }),
    );
    this.#rows += action.key ? counts.reduce((sum, rows) => sum + rows, 0) : (counts[0] ?? 0);
    this.#sinks.clear();
    this.#unclaimed = 0;
    await settle?.();
  }

  async #orFail<T>(run: () => Promise<T>): Promise<T> {
    try {
      return await run();
    } catch (error) {
      // The statement says it in the words of the transaction: which shard, whose fault.
      const failed = [...this.#sinks.values()].map(({ statement }) => statement);
      await this.#failAll('another shard has failed');
      const said = (await Promise.allSettled(failed)).find(
        one => one.status === 'rejected' && isSame(one.reason, error),
      );
      const reason = said?.status === 'rejected' ? said.reason : error;
      await this.#options.onEnd(reason);
      throw reason;
    }
  }

  async #failAll(reason: string): Promise<unknown[]> {
    const sinks = [...this.#sinks.values()];
    this.#sinks.clear();
    return Promise.all(
      sinks.map(async ({ copy, statement }) => {
        const error = await Promise.race([
          copy.fail(reason),
          statement.then(
            () => {},
            failed => failed,
          ),
        ]);
        return error;
      }),
    );
  }
}

/** The one is made of the other. */
function isSame(one: unknown, other: unknown): boolean {
  return one === other || (one as { cause?: unknown } | undefined)?.cause === other;
}

async function flush(sink: Sink): Promise<void> {
  const bytes = Buffer.concat(sink.pieces);
  sink.pieces = [];
  sink.bytes = 0;
  if (bytes.length === 0) return;
  // Where it cannot even begin, the statement alone fails.
  await Promise.race([sink.copy.write(bytes), sink.statement.then(() => {})]);
}
