/**
 * Articles on their way into feeds: a new one into those of its author's followers, a page of them at a time, and what
 * somebody wrote into that of a new follower. Why nothing is missed is said in `db/feeds.ts`.
 */
import type { JobContext } from 'banyan';
import { onClient } from '../db/database.ts';
import { enterFeeds, fillSomeOf, noteArrival } from '../db/feeds.ts';
import type { Services } from '../services.ts';
import { fillFeed, spreadArticle } from './definitions.ts';

interface Spread {
  authorId: bigint;
  articleId: bigint;
  /** Undefined: none has been looked at. Null: all have. */
  after?: bigint | null;
}

/**
 * One page. The next is another message, so that neither a transaction nor what is done again after a crash grows with
 * the number of followers. It is published when the page is there to be read on every shard, and whoever dies
 * in between does the page again, which changes nothing.
 */
export async function spread(
  { db, queue }: Services,
  job: JobContext<unknown>,
  { authorId, articleId, after }: Spread,
): Promise<void> {
  if (after === null) {
    await job.transaction(client => noteArrival(onClient(client), authorId));
    return;
  }
  const next = await enterFeeds(db, { authorId, articleId, after: after ?? 0n });
  await job.transaction(async () => {
    await queue.publish(spreadArticle, {
      authorId: String(authorId),
      articleId: String(articleId),
      after: next === undefined ? null : String(next),
    });
  });
}

/** Some of the followed people; for the rest there is another message. */
export async function fill(
  { queue }: Services,
  job: JobContext<{ readerId: bigint }>,
): Promise<void> {
  const { readerId } = job.payload;
  await job.transaction(async client => {
    const isMore = await fillSomeOf(onClient(client), readerId);
    if (isMore) await queue.publish(fillFeed, { readerId: String(readerId) });
  });
}
