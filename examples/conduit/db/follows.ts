/**
 * Who follows whom. A row lives with the follower; the followed person's counter changes in the same
 * transaction and only when a row came or went, so it is right however often somebody clicks.
 */
import { and, eq, sql } from 'drizzle-orm';
import { invalid } from '../problem.ts';
import { type Database, inTransaction, type Transaction } from './database.ts';
import { follows, users } from './schema.ts';

/** A feed reads the articles of all whom one follows, so their number has a limit. */
export const FOLLOW_LIMIT = 5_000;

/** @throws Problem 422 for oneself, and beyond {@link FOLLOW_LIMIT} */
export async function follow(db: Database, followerId: bigint, followedId: bigint): Promise<void> {
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
    if (inserted.length > 0) await changeFollowers(tx, followedId, 1);
  });
}

export async function unfollow(
  db: Database,
  followerId: bigint,
  followedId: bigint,
): Promise<void> {
  await inTransaction(db, async tx => {
    const deleted = await tx
      .delete(follows)
      .where(and(eq(follows.followerId, followerId), eq(follows.followedId, followedId)))
      .returning({ followedId: follows.followedId });
    if (deleted.length > 0) await changeFollowers(tx, followedId, -1);
  });
}

/** Last in its transaction: a celebrity's row is locked no longer than it must be. */
async function changeFollowers(tx: Transaction, userId: bigint, by: 1 | -1): Promise<void> {
  await tx
    .update(users)
    .set({ followersCount: sql`${users.followersCount} + ${by}` })
    .where(eq(users.id, userId));
}

export async function followedBy(db: Database, followerId: bigint): Promise<bigint[]> {
  const rows = await db
    .select({ id: follows.followedId })
    .from(follows)
    .where(eq(follows.followerId, followerId));
  return rows.map(({ id }) => id);
}
