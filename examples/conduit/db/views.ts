/**
 * How often articles are looked at. The numbers are not in the articles' rows: what the cache has read from those stays
 * good while they rise.
 */
import { and, eq, sql } from 'drizzle-orm';
import type { Store, Transaction } from './database.ts';
import { articleViews } from './schema.ts';

export interface ArticleViews {
  authorId: bigint;
  articleId: bigint;
  count: number;
}

/** As of about a second ago. */
export function findViews(
  { db, cache }: Store,
  { id, authorId }: { id: bigint; authorId: bigint },
): Promise<number> {
  return cache.get(['views', id], async () => {
    const [found] = await db
      .select({ views: articleViews.views })
      .from(articleViews)
      .where(and(eq(articleViews.authorId, authorId), eq(articleViews.articleId, id)));
    return found?.views ?? 0;
  });
}

/** In one statement, in the articles' order: two that change the same rows do not block each other. */
export async function addViews(tx: Transaction, added: readonly ArticleViews[]): Promise<void> {
  if (added.length === 0) return;
  const column = (get: (one: ArticleViews) => bigint | number) => sql.param(added.map(get));
  const authorIds = column(({ authorId }) => authorId);
  // The join leaves out articles that are gone, and the lock keeps the others until this is committed.
  await tx.execute(sql`
    insert into article_views (author_id, article_id, views)
    select a.author_id, a.id, v.views
    from articles a
    join unnest(${column(({ articleId }) => articleId)}::bigint[], ${column(({ count }) => count)}::bigint[])
      as v (id, views) on v.id = a.id
    where a.author_id = any(${authorIds}::bigint[])
    order by a.author_id, a.id
    for key share of a
    on conflict (author_id, article_id) do update set views = article_views.views + excluded.views`);
}
