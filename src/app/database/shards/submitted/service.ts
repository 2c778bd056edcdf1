/**
 * What answers an object that sends itself, where several shards have to: its statement is planned, and run in the
 * client's transaction, or in one of its own.
 */
import type pg from 'pg';
import type { MapWatch } from '../map-watch.ts';
import type { ShardPlanner } from '../planner.ts';
import { ShardedTransaction, type TransactionSource } from '../sharded-transaction.ts';
import { CopyIntoShards } from './copy-into.ts';
import { CopyOutOfShards } from './copy-out.ts';
import type { CopyInto, CopyOut, RowSource, Service } from './virtual-server.ts';

export interface ServiceOptions {
  readonly planner: ShardPlanner;
  readonly source: TransactionSource;
  /** The one that is open; undefined: each statement has one of its own. */
  readonly transaction: ShardedTransaction | undefined;
  readonly map: Pick<MapWatch, 'epoch' | 'explains'>;
}

export class ShardService implements Service {
  readonly #options: ServiceOptions;

  constructor(options: ServiceOptions) {
    this.#options = options;
  }

  status(): string {
    const { transaction } = this.#options;
    if (!transaction) return 'I';
    return transaction.hasFailed ? 'E' : 'T';
  }

  async rows(text: string, values: (string | Buffer | null)[]): Promise<RowSource> {
    const [transaction, end] = this.#begin();
    try {
      const rows = await this.#options.planner.open(
        { text, values } as pg.QueryConfig,
        transaction,
      );
      return {
        fields: rows.fields,
        tag: sent => rows.tag(sent),
        read: async count => {
          try {
            return await rows.read(count);
          } catch (error) {
            transaction.fail();
            throw error;
          }
        },
        close: async error => {
          // With it go its cursors.
          if (this.#options.transaction) await rows.close(error);
          await end(
            error ?? (transaction.hasFailed ? (transaction.broken ?? 'failed') : undefined),
          );
        },
      };
    } catch (error) {
      await end(error);
      throw error;
    }
  }

  async copy(text: string): Promise<CopyInto | CopyOut | undefined> {
    const { planner, source } = this.#options;
    const found = await planner.copy(text);
    if (!found) return undefined;
    const { action } = found;
    if (action.kind === 'copy in') {
      const [transaction, onEnd] = this.#begin();
      const unique = found.isUnique ? source.unique?.() : undefined;
      const settle = unique && (() => unique.settle(transaction));
      return new CopyIntoShards({
        text,
        action,
        transaction,
        onEnd,
        settle,
        shardOf: found.shardOf,
      });
    }
    const [transaction, onEnd] = this.#begin();
    return new CopyOutOfShards({ text, action, transaction, onEnd, shards: found.shards });
  }

  /** @returns with how it ends: by an error, with nothing kept */
  #begin(): [ShardedTransaction, (error: unknown) => Promise<void>] {
    const { transaction, source, map } = this.#options;
    const { epoch } = map;
    if (transaction) {
      return [
        transaction,
        async error => {
          if (error === undefined) return;
          transaction.fail();
          // So that the error tells whether running all of it again is of use.
          await map.explains(error, epoch);
        },
      ];
    }
    const own = new ShardedTransaction(source);
    let isOver = false;
    return [
      own,
      async error => {
        if (isOver) return;
        isOver = true;
        if (error === undefined) return own.commit();
        await own.rollBack();
        await map.explains(error, epoch);
      },
    ];
  }
}
