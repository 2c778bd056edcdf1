/**
 * Uploaded images, in the database: a web server keeps nothing, so any of them can serve any image.
 */
import { createHash } from 'node:crypto';
import { and, eq, ne } from 'drizzle-orm';
import type { ImageFormat } from '../images/sniff.ts';
import { makeThumbnail } from '../jobs/definitions.ts';
import { type Database, type Desk, inTransaction, type Transaction } from './database.ts';
import { avatars, users } from './schema.ts';

export interface Avatar {
  type: string;
  bytes: Buffer;
}

/** Puts the image in the place of the one before. @returns its path */
export async function storeAvatar(
  { db, queue }: Desk,
  userId: bigint,
  bytes: Buffer,
  format: ImageFormat,
): Promise<string> {
  const hash = createHash('sha256').update(bytes).digest('hex').slice(0, 32);
  const image = `/avatars/${userId}/${hash}`;
  await inTransaction(db, async tx => {
    await tx
      .insert(avatars)
      .values({ userId, hash, type: format.type, bytes })
      .onConflictDoNothing();
    await tx.delete(avatars).where(and(eq(avatars.userId, userId), ne(avatars.hash, hash)));
    await tx.update(users).set({ image }).where(eq(users.id, userId));
    await queue.publish(makeThumbnail, { userId: String(userId), hash });
  });
  return image;
}

export async function findAvatar(
  db: Database,
  userId: bigint,
  hash: string,
): Promise<Avatar | undefined> {
  const [found] = await db
    .select({ type: avatars.type, bytes: avatars.bytes })
    .from(avatars)
    .where(isAvatar(userId, hash));
  return found;
}

/** @returns null when none was made (yet), or none can be */
export async function findThumbnail(
  db: Database,
  userId: bigint,
  hash: string,
): Promise<Buffer | null> {
  const [found] = await db
    .select({ thumbnail: avatars.thumbnail })
    .from(avatars)
    .where(isAvatar(userId, hash));
  return found?.thumbnail?.length ? found.thumbnail : null;
}

/** @param thumbnail undefined when none can be made, which is kept too: as no bytes */
export async function storeThumbnail(
  tx: Transaction,
  userId: bigint,
  hash: string,
  thumbnail: Buffer | undefined,
): Promise<void> {
  await tx
    .update(avatars)
    .set({ thumbnail: thumbnail ?? Buffer.alloc(0) })
    .where(isAvatar(userId, hash));
}

function isAvatar(userId: bigint, hash: string) {
  return and(eq(avatars.userId, userId), eq(avatars.hash, hash));
}
