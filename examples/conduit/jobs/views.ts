/** Adds up what `ViewCounter`s of all web servers have counted. */
import type { BatchContext } from 'banyan';
import { onClient } from '../db/database.ts';
import { type ArticleViews, addViews } from '../db/views.ts';

export async function addUp(batch: BatchContext<{ views: ArticleViews[] }>): Promise<void> {
  const sums = new Map<bigint, ArticleViews>();
  for (const { payload } of batch.jobs) {
    for (const one of payload.views) {
      const sum = sums.get(one.articleId);
      if (sum) sum.count += one.count;
      else sums.set(one.articleId, { ...one });
    }
  }
  await batch.transaction(client => addViews(onClient(client), [...sums.values()]));
}
