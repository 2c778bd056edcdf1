/** People: signing up, finding, changing. */
import { nextId } from 'banyan';
import { and, eq, sql } from 'drizzle-orm';
import { welcomeMail } from '../jobs/definitions.ts';
import { invalid } from '../problem.ts';
import { brokenUnique, type Database, type Desk, inTransaction, type Store } from './database.ts';
import { follows, users } from './schema.ts';

export type User = typeof users.$inferSelect;

/** What others see of a person. */
export interface Profile {
  username: string;
  bio: string;
  image: string;
  /** Whether the viewer follows them. */
  following: boolean;
}

/** A profile with what its page shows besides. */
export interface ProfileDetails extends Profile {
  id: bigint;
  articlesCount: number;
  followersCount: number;
  followingCount: number;
  createdAt: Date;
}

export interface NewUser {
  username: string;
  email: string;
  passwordHash: string;
}

export interface UserChanges {
  username?: string | undefined;
  email?: string | undefined;
  passwordHash?: string | undefined;
  bio?: string | undefined;
  image?: string | undefined;
}

/** @throws Problem 422 when the name or the address is taken */
export function createUser({ db, queue }: Desk, user: NewUser): Promise<User> {
  return orTaken(() =>
    inTransaction(db, async tx => {
      const [created] = await tx
        .insert(users)
        .values({ ...user, id: BigInt(nextId()), usernameKey: usernameKey(user.username) })
        .returning();
      await queue.publish(welcomeMail, { userId: String(created!.id) });
      return created!;
    }),
  );
}

/** @throws Problem 422 when the name or the address is taken */
export async function updateUser(
  db: Database,
  id: bigint,
  changes: UserChanges,
): Promise<User | undefined> {
  const { username, passwordHash } = changes;
  const [updated] = await orTaken(() =>
    db
      .update(users)
      .set({
        ...changes,
        ...(username === undefined ? {} : { usernameKey: usernameKey(username) }),
        ...(passwordHash === undefined
          ? {}
          : { credentialsVersion: sql`${users.credentialsVersion} + 1` }),
      })
      .where(eq(users.id, id))
      .returning(),
  );
  return updated;
}

export async function findUserById(db: Database, id: bigint): Promise<User | undefined> {
  const [user] = await db.select().from(users).where(eq(users.id, id));
  return user;
}

export async function findUserByEmail(db: Database, email: string): Promise<User | undefined> {
  const [user] = await db.select().from(users).where(eq(users.email, email));
  return user;
}

export async function findUserByName(db: Database, username: string): Promise<User | undefined> {
  const [user] = await db
    .select()
    .from(users)
    .where(eq(users.usernameKey, usernameKey(username)));
  return user;
}

export async function findProfile(
  store: Store,
  username: string,
  viewerId: bigint | undefined,
): Promise<Profile | undefined> {
  const user = await findPublic(store, username);
  return user && { ...user, following: await isFollowing(store.db, viewerId, user.id) };
}

export async function findProfileDetails(
  store: Store,
  username: string,
  viewerId: bigint | undefined,
): Promise<ProfileDetails | undefined> {
  const { db, cache } = store;
  const user = await findPublic(store, username);
  if (!user) return undefined;
  const [following, followingCount] = await Promise.all([
    isFollowing(db, viewerId, user.id),
    cache.get(['following', user.id], () => db.$count(follows, eq(follows.followerId, user.id))),
  ]);
  return { ...user, following, followingCount };
}

/** What everybody may see of a person: no address, and nothing of the password, lies in the cache. */
async function findPublic({ db, cache }: Store, username: string) {
  if (username.length > MAX_USERNAME_LENGTH) return undefined;
  const key = usernameKey(username);
  return cache.get(['profile', key], async () => {
    const { id, bio, image, articlesCount, followersCount, createdAt } = users;
    const [user] = await db
      .select({
        id,
        username: users.username,
        bio,
        image,
        articlesCount,
        followersCount,
        createdAt,
      })
      .from(users)
      .where(eq(users.usernameKey, key));
    return user;
  });
}

async function isFollowing(
  db: Database,
  viewerId: bigint | undefined,
  userId: bigint,
): Promise<boolean> {
  if (viewerId === undefined || viewerId === userId) return false;
  const found = await db
    .select({ followedId: follows.followedId })
    .from(follows)
    .where(and(eq(follows.followerId, viewerId), eq(follows.followedId, userId)));
  return found.length > 0;
}

/** Of what can be one: longer than the longest (input/schemas.ts), since a letter may be written with marks of its own. */
const MAX_USERNAME_LENGTH = 100;

export function usernameKey(username: string): string {
  return username.normalize('NFC').toLowerCase();
}

const FIELD_OF_CONSTRAINT: Record<string, string> = {
  users_username_unique: 'username',
  users_email_unique: 'email',
};

/** Only the constraint knows: whoever looked first may find that another was quicker. */
async function orTaken<T>(write: () => Promise<T>): Promise<T> {
  try {
    return await write();
  } catch (error) {
    const field = FIELD_OF_CONSTRAINT[brokenUnique(error) ?? ''];
    if (field) throw invalid({ [field]: ['has already been taken'] });
    throw error;
  }
}
