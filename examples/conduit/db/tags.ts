/** Tags by how many articles have them. */
import { asc, desc, gt } from 'drizzle-orm';
import type { Store } from './database.ts';
import { tags } from './schema.ts';

export function popularTags({ db, cache }: Store, limit: number): Promise<string[]> {
  return cache.get(['tags', limit], async () => {
    const rows = await db
      .select({ name: tags.name })
      .from(tags)
      .where(gt(tags.articlesCount, 0))
      .orderBy(desc(tags.articlesCount), asc(tags.name))
      .limit(limit);
    return rows.map(({ name }) => name);
  });
}
