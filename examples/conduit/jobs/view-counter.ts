/**
 * Counts views in this process, and tells the queue once a second.
 *
 * Holds true here: counting waits for nothing, fails never, and takes a bounded memory. What cannot be published is forgotten,
 * and logged: a view is worth less than a web server whose database is away.
 */
import { log, type Queue } from 'banyan';
import { type Database, inTransaction } from '../db/database.ts';
import { countViews } from './definitions.ts';

const EVERY_MS = 1_000;

/** More than a process can show within a second; what is beyond is not counted. */
const MOST_ARTICLES = 10_000;

const ARTICLES_IN_A_MESSAGE = 1_000;

interface Viewed {
  id: bigint;
  authorId: bigint;
}

export class ViewCounter {
  readonly #queue: Queue;
  readonly #db: Database;
  #views = new Map<bigint, { authorId: bigint; count: number }>();
  /** From the first view until its message is published: there is one at a time. */
  #timer: NodeJS.Timeout | undefined;

  constructor(queue: Queue, db: Database) {
    this.#queue = queue;
    this.#db = db;
  }

  count({ id, authorId }: Viewed): void {
    const seen = this.#views.get(id);
    if (seen) seen.count++;
    else if (this.#views.size < MOST_ARTICLES) this.#views.set(id, { authorId, count: 1 });
    this.#tellSoon();
  }

  /** Tells what is left. The queue may be closed by then for all but what belongs to a transaction. */
  async close(): Promise<void> {
    clearTimeout(this.#timer);
    await this.#tell(publish => inTransaction(this.#db, publish));
  }

  #tellSoon(): void {
    this.#timer ??= setTimeout(async () => {
      await this.#tell(publish => publish());
      this.#timer = undefined;
      if (this.#views.size > 0) this.#tellSoon();
    }, EVERY_MS).unref();
  }

  async #tell(run: (publish: () => Promise<unknown>) => Promise<unknown>): Promise<void> {
    if (this.#views.size === 0) return;
    const views = [...this.#views].map(([articleId, { authorId, count }]) => ({
      authorId: String(authorId),
      articleId: String(articleId),
      count,
    }));
    this.#views = new Map();
    const messages: { payload: { views: typeof views } }[] = [];
    for (let at = 0; at < views.length; at += ARTICLES_IN_A_MESSAGE) {
      messages.push({ payload: { views: views.slice(at, at + ARTICLES_IN_A_MESSAGE) } });
    }
    try {
      await run(() => this.#queue.publishAll(countViews, messages));
    } catch (error) {
      log.warn({ err: error, articles: views.length }, 'views were not counted');
    }
  }
}
