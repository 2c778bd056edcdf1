/** Whether `tags.articles_count` is what it counts, and putting it right. */
import { and, asc, eq, gt, lte, sql } from 'drizzle-orm';
import { type Database, inTransaction } from './database.ts';
import { articleTags, tags } from './schema.ts';

const TAGS_IN_A_PAGE = 1_000;

/**
 * The tags of a page whose counts seem wrong. Seem: both tables are read one after the other, and articles are published
 * meanwhile.
 * @param after a name; the page is of what comes after it
 * @returns `last`: the page's last name; undefined when there are no more
 */
export async function suspectTags(
  db: Database,
  after: string,
): Promise<{ suspects: string[]; last: string | undefined }> {
  const kept = await db
    .select({ name: tags.name, count: tags.articlesCount })
    .from(tags)
    .where(gt(tags.name, after))
    .orderBy(asc(tags.name))
    .limit(TAGS_IN_A_PAGE);
  const last = kept.length < TAGS_IN_A_PAGE ? undefined : kept.at(-1)!.name;
  const counted = await db
    .select({ name: articleTags.tag, count: sql`count(*)`.mapWith(Number) })
    .from(articleTags)
    .where(
      and(gt(articleTags.tag, after), last === undefined ? undefined : lte(articleTags.tag, last)),
    )
    .groupBy(articleTags.tag);
  const wrong = new Map(kept.map(({ name, count }) => [name, count]));
  for (const { name, count } of counted) {
    if (wrong.get(name) === count) wrong.delete(name);
    else wrong.set(name, count);
  }
  // What no article has is right when it says so.
  const suspects = [...wrong].flatMap(([name, count]) => (count === 0 ? [] : [name]));
  return { suspects, last };
}

/**
 * Counts again while nobody else can change the counter: whoever changes articles with this tag does that last, and waits.
 * @returns the difference that there was
 */
export function repairTag(db: Database, name: string): Promise<number> {
  return inTransaction(db, async tx => {
    await tx.insert(tags).values({ name, articlesCount: 0 }).onConflictDoNothing();
    const [kept] = await tx
      .select({ count: tags.articlesCount })
      .from(tags)
      .where(eq(tags.name, name))
      .for('update');
    const real = await tx.$count(articleTags, eq(articleTags.tag, name));
    const difference = real - kept!.count;
    if (difference !== 0) {
      await tx.update(tags).set({ articlesCount: real }).where(eq(tags.name, name));
    }
    return difference;
  });
}
