/**
 * Favourites. A row lives with the fan, the counter with the article: both change in one transaction, and
 * the counter only when a row came or went, so it is exact however many click at the same time.
 */
import { and, eq, sql } from 'drizzle-orm';
import { notFound } from '../problem.ts';
import { findArticleKey, isArticle } from './article-writes.ts';
import { type Database, inTransaction, type Transaction } from './database.ts';
import { articles, favorites } from './schema.ts';

/** @throws Problem 404 when there is no such article */
export async function favorite(db: Database, userId: bigint, slug: string): Promise<void> {
  const article = await findArticleKey(db, slug);
  await inTransaction(db, async tx => {
    const inserted = await tx
      .insert(favorites)
      .values({
        userId,
        articleId: article.id,
        authorId: article.authorId,
        articleCreatedAt: article.createdAt,
      })
      .onConflictDoNothing()
      .returning({ articleId: favorites.articleId });
    if (inserted.length > 0) await changeCount(tx, article, 1);
  });
}

/** @throws Problem 404 when there is no such article */
export async function unfavorite(db: Database, userId: bigint, slug: string): Promise<void> {
  const article = await findArticleKey(db, slug);
  await inTransaction(db, async tx => {
    const deleted = await tx
      .delete(favorites)
      .where(and(eq(favorites.userId, userId), eq(favorites.articleId, article.id)))
      .returning({ articleId: favorites.articleId });
    if (deleted.length > 0) await changeCount(tx, article, -1);
  });
}

/**
 * Last in its transaction: many may wait for a hot article's row.
 * @throws Problem 404 when the article was deleted meanwhile; the favourite goes with the transaction
 */
async function changeCount(
  tx: Transaction,
  article: { id: bigint; authorId: bigint },
  by: 1 | -1,
): Promise<void> {
  const updated = await tx
    .update(articles)
    .set({ favoritesCount: sql`${articles.favoritesCount} + ${by}` })
    .where(isArticle(article))
    .returning({ id: articles.id });
  if (updated.length === 0) throw notFound('article');
}
