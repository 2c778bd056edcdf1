/** A small square of an uploaded picture. */
import type { JobContext } from 'banyan';
import { findAvatar, storeThumbnail } from '../db/avatars.ts';
import { onClient } from '../db/database.ts';
import { thumbnailOf } from '../images/thumbnail.ts';
import type { Services } from '../services.ts';

export async function storeThumbnailOf(
  { db }: Services,
  job: JobContext<{ userId: bigint; hash: string }>,
): Promise<void> {
  const { userId, hash } = job.payload;
  const avatar = await findAvatar(db, userId, hash);
  // Another has come in its place, which has a message of its own.
  if (!avatar) return;
  const thumbnail = await thumbnailOf(avatar.bytes);
  await job.transaction(client => storeThumbnail(onClient(client), userId, hash, thumbnail));
}
