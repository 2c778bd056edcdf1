/** Profiles, and following them. */
import { Hono } from 'hono';
import { follow, unfollow } from '../db/follows.ts';
import { findProfile, findUserByName, type User } from '../db/users.ts';
import { notFound } from '../problem.ts';
import type { ApiEnv, Services } from '../services.ts';
import { profileJson } from './json.ts';
import { viewerOf } from './viewer.ts';

export function profileRoutes(services: Services) {
  const { db } = services;
  const existing = async (username: string): Promise<User> => {
    const user = await findUserByName(db, username);
    if (!user) throw notFound('profile');
    return user;
  };

  return new Hono<ApiEnv>()
    .get('/profiles/:username', async c => {
      const profile = await findProfile(services, c.req.param('username'), c.get('viewer')?.id);
      if (!profile) throw notFound('profile');
      return c.json({ profile: profileJson(c, profile) });
    })
    .post('/profiles/:username/follow', async c => {
      const viewer = viewerOf(c);
      const user = await existing(c.req.param('username'));
      await follow(services, viewer.id, user.id);
      return c.json({ profile: profileJson(c, { ...user, following: true }) });
    })
    .delete('/profiles/:username/follow', async c => {
      const viewer = viewerOf(c);
      const user = await existing(c.req.param('username'));
      await unfollow(services, viewer.id, user.id);
      return c.json({ profile: profileJson(c, { ...user, following: false }) });
    });
}
