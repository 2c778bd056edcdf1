/**
 * Serves uploaded pictures, and their thumbnails. The content's hash is in the address, so browsers and edges may keep them
 * for ever, and there is no session to open.
 */
import { type Context, Hono } from 'hono';
import { findAvatar, findThumbnail } from '../db/avatars.ts';
import type { Services } from '../services.ts';

const FOR_EVER = 'public, max-age=31536000, immutable';

/** As long as there is no thumbnail. */
const FOR_NOW = 'public, max-age=10';

const ADDRESS = '/avatars/:userId{[0-9]{1,18}}/:hash{[0-9a-f]{32}}';

export function avatarRoutes({ db }: Services) {
  const original = async (c: Context, cacheControl: string) => {
    const { userId, hash } = c.req.param() as { userId: string; hash: string };
    const etag = `"${hash}"`;
    const headers = { ...headersOf(cacheControl), etag };
    if (c.req.header('if-none-match') === etag) return c.body(null, 304, headers);
    const avatar = await findAvatar(db, BigInt(userId), hash);
    if (!avatar) return c.text('There is no such picture.', 404, { 'cache-control': 'no-store' });
    return c.body(new Uint8Array(avatar.bytes), 200, { ...headers, 'content-type': avatar.type });
  };

  return new Hono()
    .get(ADDRESS, c => original(c, FOR_EVER))
    .get(`${ADDRESS}/thumbnail`, async c => {
      const { userId, hash } = c.req.param() as { userId: string; hash: string };
      const etag = `"${hash}-thumbnail"`;
      const headers = { ...headersOf(FOR_EVER), etag };
      if (c.req.header('if-none-match') === etag) return c.body(null, 304, headers);
      const thumbnail = await findThumbnail(db, BigInt(userId), hash);
      if (!thumbnail) return original(c, FOR_NOW);
      return c.body(new Uint8Array(thumbnail), 200, { ...headers, 'content-type': 'image/webp' });
    });
}

function headersOf(cacheControl: string) {
  return { 'cache-control': cacheControl, 'x-content-type-options': 'nosniff' };
}
