/**
 * Who follows whom. A row lives with the follower; the followed person's counter changes in the same
 * transaction and only when a row came or went, so it is right however often somebody clicks.
 */
import { and, eq, sql } from 'drizzle-orm';
import { fillFeed } from '../jobs/definitions.ts';
import { invalid } from '../problem.ts';
import { type Desk, inTransaction, type Transaction } from './database.ts';
import { feedEntries, follows, users } from './schema.ts';

/** A feed reads the articles of all whom one follows, so their number has a limit. */
export const FOLLOW_LIMIT = 5_000;

/** @throws Problem 422 for oneself, and beyond {@link FOLLOW_LIMIT} */
export async function follow(
  { db, queue }: Desk,
  followerId: bigint,
  followedId: bigint,
): Promise<void> {
  if (followerId === followedId) throw invalid({ username: ['is your own'] });
  const count = await db.$count(follows, eq(follows.followerId, followerId));
  if (count >= FOLLOW_LIMIT) {
    throw invalid({ username: [`can't be followed: you follow ${FOLLOW_LIMIT} people already`] });
  }
  await inTransaction(db, async tx => {
    const inserted = await tx
      .insert(follows)
      .values({ followerId, followedId })
      .onConflictDoNothing()
      .returning({ followedId: follows.followedId });
    if (inserted.length === 0) return;
    await queue.publish(fillFeed, { readerId: String(followerId) });
    await changeFollowers(tx, followedId, 1);
  });
}

export async function unfollow(
  { db }: Desk,
  followerId: bigint,
  followedId: bigint,
): Promise<void> {
  await inTransaction(db, async tx => {
    const deleted = await tx
      .delete(follows)
      .where(and(eq(follows.followerId, followerId), eq(follows.followedId, followedId)))
      .returning({ followedId: follows.followedId });
    if (deleted.length === 0) return;
    // After the row is gone: whoever writes such entries locks it first.
    await tx
      .delete(feedEntries)
      .where(and(eq(feedEntries.userId, followerId), eq(feedEntries.authorId, followedId)));
    await changeFollowers(tx, followedId, -1);
  });
}

/** Last in its transaction: a celebrity's row is locked no longer than it must be. */
async function changeFollowers(tx: Transaction, userId: bigint, by: 1 | -1): Promise<void> {
  await tx
    .update(users)
    .set({ followersCount: sql`${users.followersCount} + ${by}` })
    .where(eq(users.id, userId));
}
