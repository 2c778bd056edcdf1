/**
 * Feeds: the articles of all whom somebody follows.
 *
 * There are two ways to it. *Collected*: asked of the articles of everybody followed, wherever they are; always right, and
 * dearer the more people one follows and the more databases there are. *Kept*: `feed_entries`, a row for each
 * reader and article in the reader's own database, which jobs fill after the fact. A feed is read from what is kept exactly
 * when that is complete; else it is collected. So whoever publishes or follows sees it in the next request, and while no
 * worker runs, everything is as it was before there were any.
 *
 * Kept is complete when
 * - for each follow of the reader `in_feed` is true: what was written before is there, and
 * - `articles_underway` of each of them is 0: whatever was published since has been given to all followers.
 *
 * It holds because
 * - an article counts as underway from the transaction that creates it until all pages of followers were committed, each of
 *   them read after that transaction;
 * - a follower who comes too late for a page has its articles read (`fillSomeOf`) after the follow was committed: of two
 *   who are at it at the same time at least one sees the other's row;
 * - marks are read before entries;
 * - entries come under a lock of the follow, and go after it in the transaction in which it goes; with an article's
 *   deletion they go too. An entry whose article is gone is noticed on the page that it is on, which is collected then.
 *
 * Not promised: over shards an article that is deleted between two shards' commits of a page of followers may leave an entry
 * behind; pages beyond it begin one article late.
 */
import { log } from 'banyan';
import { and, asc, desc, eq, gt, sql } from 'drizzle-orm';
import { fillFeed } from '../jobs/definitions.ts';
import {
  type ArticleList,
  asSeenBy,
  EMPTY,
  type Page,
  type SharedArticle,
  type SharedList,
  select,
  withKeys,
} from './articles.ts';
import {
  anyOf,
  type Database,
  type Desk,
  inTransaction,
  type Store,
  type Transaction,
} from './database.ts';
import { articles, feedEntries, follows, users } from './schema.ts';

/** Followers who get an article in one transaction: some milliseconds. */
const FOLLOWERS_IN_A_PAGE = 1_000;

/** People whose articles are put into a feed in one transaction. */
const AUTHORS_AT_A_TIME = 20;

const ROWS_IN_A_STATEMENT = 1_000;

export async function listFeed(
  services: Store & Desk,
  viewerId: bigint,
  page: Page,
): Promise<ArticleList> {
  const { db, cache } = services;
  const key = ['feed', viewerId, page.limit, page.offset];
  const { articles: found, total } = await cache.get(key, () => readFeed(services, viewerId, page));
  return { articles: await asSeenBy(db, viewerId, found, true), total };
}

async function readFeed({ db, queue }: Desk, viewerId: bigint, page: Page): Promise<SharedList> {
  const followed = await db
    .select({ id: follows.followedId, inFeed: follows.inFeed })
    .from(follows)
    .where(eq(follows.followerId, viewerId));
  if (followed.length === 0) return EMPTY;
  const ids = followed.map(({ id }) => id);
  const [state] = await db
    .select({
      total: sql`coalesce(sum(${users.articlesCount}), 0)`.mapWith(Number),
      underway: sql`coalesce(sum(${users.articlesUnderway}), 0)`.mapWith(Number),
    })
    .from(users)
    .where(anyOf(users.id, ids));
  const { total, underway } = state!;
  const isFilled = followed.every(({ inFeed }) => inFeed);
  if (!isFilled) askToFill(queue, viewerId);
  const kept = isFilled && underway === 0 ? await readEntries(db, viewerId, page) : undefined;
  return { articles: kept ?? (await select(db, anyOf(articles.authorId, ids), page)), total };
}

/** @returns undefined when an article of them is gone */
async function readEntries(
  db: Database,
  viewerId: bigint,
  { limit, offset }: Page,
): Promise<SharedArticle[] | undefined> {
  const keys = await db
    .select({ id: feedEntries.articleId, authorId: feedEntries.authorId })
    .from(feedEntries)
    .where(eq(feedEntries.userId, viewerId))
    .orderBy(desc(feedEntries.createdAt), desc(feedEntries.articleId))
    .limit(limit)
    .offset(offset);
  if (keys.length === 0) return [];
  const found = await select(db, withKeys(keys), { limit, offset: 0 });
  return found.length === keys.length ? found : undefined;
}

/** For follows that nobody has asked it for: of the time before there were feeds, or of the seed. */
function askToFill(queue: Desk['queue'], readerId: bigint): void {
  const reader = String(readerId);
  queue
    .publish(fillFeed, { readerId: reader }, { tx: null, dedupe: { key: reader, for: '10m' } })
    .catch(error => log.warn({ err: error }, 'a feed is not filled'));
}

/** An article, and the followers from where on. */
export interface FeedPage {
  authorId: bigint;
  articleId: bigint;
  after: bigint;
}

/**
 * Puts an article into the feeds of a page of followers.
 * @returns the last of them; undefined when there are no more, or no article
 */
export async function enterFeeds(
  db: Database,
  { authorId, articleId, after }: FeedPage,
): Promise<bigint | undefined> {
  // Its row was changed by the transaction that created the article, which may not have ended on this shard yet when its
  // message is read on another. This waits for it.
  await db.select({ id: users.id }).from(users).where(eq(users.id, authorId)).for('share');
  return inTransaction(db, async tx => {
    const [article] = await tx
      .select({ createdAt: articles.createdAt })
      .from(articles)
      .where(and(eq(articles.authorId, authorId), eq(articles.id, articleId)))
      .for('key share');
    if (!article) return undefined;
    const isNext = and(eq(follows.followedId, authorId), gt(follows.followerId, after));
    const [last] = await tx
      .select({ id: follows.followerId })
      .from(follows)
      .where(isNext)
      .orderBy(asc(follows.followerId))
      .limit(1)
      .offset(FOLLOWERS_IN_A_PAGE - 1);
    // On each shard, of what is there: followers and their feeds are together.
    await tx.execute(sql`
      insert into feed_entries (user_id, author_id, article_id, created_at)
      select follower_id, ${authorId}::bigint, ${articleId}::bigint, ${article.createdAt.toISOString()}::timestamptz
      from follows
      where followed_id = ${authorId} and follower_id > ${after}
        and follower_id <= ${last?.id ?? MAX_ID}
      for key share
      on conflict do nothing`);
    return last?.id;
  });
}

const MAX_ID = 2n ** 63n - 1n;

/** The article is in all feeds. */
export async function noteArrival(tx: Transaction, authorId: bigint): Promise<void> {
  await tx
    .update(users)
    .set({ articlesUnderway: sql`${users.articlesUnderway} - 1` })
    .where(eq(users.id, authorId));
}

/** @returns whether there are more */
export async function fillSomeOf(tx: Transaction, readerId: bigint): Promise<boolean> {
  const missing = await tx
    .select({ id: follows.followedId })
    .from(follows)
    .where(and(eq(follows.followerId, readerId), eq(follows.inFeed, false)))
    .orderBy(asc(follows.followedId))
    .limit(AUTHORS_AT_A_TIME)
    .for('no key update');
  if (missing.length === 0) return false;
  const authorIds = missing.map(({ id }) => id);
  const written = await tx
    .select({
      authorId: articles.authorId,
      articleId: articles.id,
      createdAt: articles.createdAt,
    })
    .from(articles)
    .where(anyOf(articles.authorId, authorIds))
    .for('key share');
  for (let at = 0; at < written.length; at += ROWS_IN_A_STATEMENT) {
    const rows = written
      .slice(at, at + ROWS_IN_A_STATEMENT)
      .map(article => ({ ...article, userId: readerId }));
    await tx.insert(feedEntries).values(rows).onConflictDoNothing();
  }
  await tx
    .update(follows)
    .set({ inFeed: true })
    .where(and(eq(follows.followerId, readerId), anyOf(follows.followedId, authorIds)));
  return missing.length === AUTHORS_AT_A_TIME;
}
