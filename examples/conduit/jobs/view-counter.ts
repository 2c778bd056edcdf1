/**
 * Counts views in this process, and tells the queue once a second: a message for all of them.
 *
 * Holds true here: counting waits for nothing and fails never. What cannot be published is forgotten, and logged: a view is worth
 * less than the memory of a web server whose database is away.
 */
import { log, type Queue } from 'banyan';
import { type Database, inTransaction } from '../db/database.ts';
import { countViews } from './definitions.ts';

const EVERY_MS = 1_000;

/** When so many have been looked at within the second, they are told at once. */
const ARTICLES_IN_A_MESSAGE = 1_000;

interface Viewed {
  id: bigint;
  authorId: bigint;
}

type Views = Map<bigint, { authorId: bigint; count: number }>;

export class ViewCounter {
  readonly #queue: Queue;
  readonly #db: Database;
  #views: Views = new Map();
  #timer: NodeJS.Timeout | undefined;

  constructor(queue: Queue, db: Database) {
    this.#queue = queue;
    this.#db = db;
  }

  count({ id, authorId }: Viewed): void {
    const seen = this.#views.get(id);
    if (seen) seen.count++;
    else this.#views.set(id, { authorId, count: 1 });
    if (this.#views.size >= ARTICLES_IN_A_MESSAGE) void this.#tell();
    else this.#timer ??= setTimeout(() => void this.#tell(), EVERY_MS).unref();
  }

  /** Tells what is left. The queue may be closed by then for all but what belongs to a transaction. */
  close(): Promise<void> {
    return this.#tell(publish => inTransaction(this.#db, publish));
  }

  async #tell(run = (publish: () => Promise<unknown>) => publish()): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const taken = this.#views;
    if (taken.size === 0) return;
    this.#views = new Map();
    const views = [...taken].map(([articleId, { authorId, count }]) => ({
      authorId: String(authorId),
      articleId: String(articleId),
      count,
    }));
    try {
      await run(() => this.#queue.publish(countViews, { views }));
    } catch (error) {
      log.warn({ err: error, articles: views.length }, 'views were not counted');
    }
  }
}
