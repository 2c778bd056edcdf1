/**
 * Serves uploaded pictures. The content's hash is in the address, so browsers and edges may keep them
 * for ever, and there is no session to open.
 */
import { Hono } from 'hono';
import { findAvatar } from '../db/avatars.ts';
import type { Services } from '../services.ts';

export function avatarRoutes({ db }: Services) {
  return new Hono().get('/avatars/:userId{[0-9]{1,18}}/:hash{[0-9a-f]{32}}', async c => {
    const { userId, hash } = c.req.param();
    const etag = `"${hash}"`;
    const headers = {
      'cache-control': 'public, max-age=31536000, immutable',
      'x-content-type-options': 'nosniff',
      etag,
    };
    if (c.req.header('if-none-match') === etag) return c.body(null, 304, headers);
    const avatar = await findAvatar(db, BigInt(userId), hash);
    if (!avatar) return c.text('There is no such picture.', 404, { 'cache-control': 'no-store' });
    return c.body(new Uint8Array(avatar.bytes), 200, { ...headers, 'content-type': avatar.type });
  });
}
