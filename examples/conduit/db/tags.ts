/** Tags by how many articles have them. */
import { asc, desc, gt } from 'drizzle-orm';
import type { Database } from './database.ts';
import { tags } from './schema.ts';

export async function popularTags(db: Database, limit: number): Promise<string[]> {
  const rows = await db
    .select({ name: tags.name })
    .from(tags)
    .where(gt(tags.articlesCount, 0))
    .orderBy(desc(tags.articlesCount), asc(tags.name))
    .limit(limit);
  return rows.map(({ name }) => name);
}
