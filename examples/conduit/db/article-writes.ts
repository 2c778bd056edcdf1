/**
 * Writing articles.
 *
 * Holds true here:
 * - Whether a slug is free is decided by its unique constraint; a taken one is tried again with a suffix.
 * - Counters (of the author, the tags, all articles) change in the article's own transaction, the rows
 *   that many share last, so that nobody waits long for them.
 */
import { nextId } from 'banyan';
import { and, eq, sql } from 'drizzle-orm';
import { articlePublished } from '../jobs/definitions.ts';
import { forbidden, notFound } from '../problem.ts';
import { slugCandidates, slugOf } from '../text/slug.ts';
import {
  brokenUnique,
  type Database,
  type Desk,
  inTransaction,
  type Transaction,
} from './database.ts';
import {
  articles,
  articleTags,
  articleTotals,
  articleViews,
  favorites,
  feedEntries,
  tags,
  users,
} from './schema.ts';

export interface NewArticle {
  title: string;
  description: string;
  body: string;
  tagList: string[];
}

export interface ArticleChanges {
  title?: string | undefined;
  description?: string | undefined;
  body?: string | undefined;
  tagList?: string[] | undefined;
}

/** What is needed to find an article again, and to know whose it is. */
export interface ArticleKey {
  id: bigint;
  authorId: bigint;
  createdAt: Date;
  title: string;
}

const TOTAL_SLOTS = 16n;

/** @returns the slug that it got */
export function createArticle(
  { db, queue }: Desk,
  authorId: bigint,
  article: NewArticle,
): Promise<string> {
  return withFreeSlug(article.title, slug =>
    inTransaction(db, async tx => {
      const [created] = await tx
        .insert(articles)
        .values({ ...article, id: BigInt(nextId()), authorId, slug })
        .returning({ id: articles.id, createdAt: articles.createdAt });
      await insertTags(tx, { ...created!, authorId }, article.tagList);
      const message = { authorId: String(authorId), articleId: String(created!.id) };
      await queue.publish(articlePublished, message, { key: message.authorId });
      await changeTotals(tx, authorId, article.tagList, 1);
      return slug;
    }),
  );
}

/**
 * A new title brings a new slug, as the specification has it.
 * @returns the slug that it has now
 * @throws Problem 404 when there is none, 403 when it is another's
 */
export async function updateArticle(
  db: Database,
  viewerId: bigint,
  slug: string,
  changes: ArticleChanges,
): Promise<string> {
  const article = await findOwn(db, viewerId, slug);
  const isRenamed = changes.title !== undefined && slugOf(changes.title) !== slugOf(article.title);
  const write = (nextSlug: string) =>
    inTransaction(db, async tx => {
      const before = await lockTags(tx, article);
      await tx
        .update(articles)
        .set({ ...changes, slug: nextSlug, updatedAt: sql`now()` })
        .where(isArticle(article));
      if (changes.tagList) await replaceTags(tx, article, before, changes.tagList);
      return nextSlug;
    });
  return isRenamed ? withFreeSlug(changes.title!, write) : write(slug);
}

/** @throws Problem 404 when there is none, 403 when it is another's */
export async function deleteArticle(db: Database, viewerId: bigint, slug: string): Promise<void> {
  const article = await findOwn(db, viewerId, slug);
  await inTransaction(db, async tx => {
    // Its tags and comments go with it: they are in the same place and have foreign keys.
    const [deleted] = await tx
      .delete(articles)
      .where(isArticle(article))
      .returning({ tagList: articles.tagList });
    if (!deleted) throw notFound('article');
    await tx
      .delete(articleViews)
      .where(
        and(eq(articleViews.authorId, article.authorId), eq(articleViews.articleId, article.id)),
      );
    await tx.delete(favorites).where(eq(favorites.articleId, article.id));
    await tx.delete(feedEntries).where(eq(feedEntries.articleId, article.id));
    await changeTotals(tx, article.authorId, deleted.tagList, -1);
  });
}

/** @throws Problem 404 */
export async function findArticleKey(db: Database, slug: string): Promise<ArticleKey> {
  const [found] = await db
    .select({
      id: articles.id,
      authorId: articles.authorId,
      createdAt: articles.createdAt,
      title: articles.title,
    })
    .from(articles)
    .where(eq(articles.slug, slug));
  if (!found) throw notFound('article');
  return found;
}

export function isArticle({ id, authorId }: Pick<ArticleKey, 'id' | 'authorId'>) {
  return and(eq(articles.authorId, authorId), eq(articles.id, id));
}

async function findOwn(db: Database, viewerId: bigint, slug: string): Promise<ArticleKey> {
  const article = await findArticleKey(db, slug);
  if (article.authorId !== viewerId) throw forbidden('article');
  return article;
}

async function withFreeSlug(
  title: string,
  write: (slug: string) => Promise<string>,
): Promise<string> {
  let taken: unknown;
  for (const slug of slugCandidates(title)) {
    try {
      return await write(slug);
    } catch (error) {
      if (brokenUnique(error) !== 'articles_slug_unique') throw error;
      taken = error;
    }
  }
  throw taken;
}

/** @returns the tags that it has, which now nobody else can change */
async function lockTags(tx: Transaction, article: ArticleKey): Promise<string[]> {
  const [locked] = await tx
    .select({ tagList: articles.tagList })
    .from(articles)
    .where(isArticle(article))
    .for('no key update');
  if (!locked) throw notFound('article');
  return locked.tagList;
}

async function replaceTags(
  tx: Transaction,
  article: ArticleKey,
  before: string[],
  after: string[],
): Promise<void> {
  await tx
    .delete(articleTags)
    .where(and(eq(articleTags.authorId, article.authorId), eq(articleTags.articleId, article.id)));
  await insertTags(tx, article, after);
  const changes = new Map<string, number>();
  for (const tag of before) changes.set(tag, -1);
  for (const tag of after) {
    if (!changes.delete(tag)) changes.set(tag, 1);
  }
  await changeTagCounts(tx, changes);
}

async function insertTags(
  tx: Transaction,
  { id, authorId, createdAt }: Pick<ArticleKey, 'id' | 'authorId' | 'createdAt'>,
  tagList: string[],
): Promise<void> {
  if (tagList.length === 0) return;
  const rows = tagList.map(tag => ({ articleId: id, authorId, tag, createdAt }));
  await tx.insert(articleTags).values(rows);
}

async function changeTotals(
  tx: Transaction,
  authorId: bigint,
  tagList: string[],
  by: 1 | -1,
): Promise<void> {
  await tx
    .update(users)
    .set({
      articlesCount: sql`${users.articlesCount} + ${by}`,
      // Until it is in all feeds: db/feeds.ts.
      ...(by === 1 ? { articlesUnderway: sql`${users.articlesUnderway} + 1` } : {}),
    })
    .where(eq(users.id, authorId));
  await changeTagCounts(tx, new Map(tagList.map(tag => [tag, by])));
  await tx
    .update(articleTotals)
    .set({ articlesCount: sql`${articleTotals.articlesCount} + ${by}` })
    .where(eq(articleTotals.slot, Number(authorId % TOTAL_SLOTS)));
}

/** In the tags' order, the same for everybody: two who change the same tags cannot block each other. */
async function changeTagCounts(tx: Transaction, changes: Map<string, number>): Promise<void> {
  if (changes.size === 0) return;
  const rows = [...changes]
    .map(([name, articlesCount]) => ({ name, articlesCount }))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
  await tx
    .insert(tags)
    .values(rows)
    .onConflictDoUpdate({
      target: tags.name,
      set: { articlesCount: sql`${tags.articlesCount} + excluded.articles_count` },
    });
}
