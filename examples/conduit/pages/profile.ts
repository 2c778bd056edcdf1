/** People's pages, and following them. */
import { Hono } from 'hono';
import { listArticles } from '../db/articles.ts';
import { follow, unfollow } from '../db/follows.ts';
import { findProfileDetails, findUserByName } from '../db/users.ts';
import { notFound } from '../problem.ts';
import type { PageEnv, Services } from '../services.ts';
import { memberOf, type PageContext, type Render, readForm, readPage } from './page.ts';
import { localPath, profilePath } from './views/html.ts';
import { type ProfileViewOptions, profileView } from './views/profile.ts';

const EMPTY = { articles: 'Nothing written yet.', favorites: 'No favourites yet.' };

export function profilePages(services: Services, render: Render) {
  const { db } = services;
  const show = async (c: PageContext, username: string, shows: ProfileViewOptions['shows']) => {
    const viewer = c.get('viewer');
    const { page, range } = readPage(c);
    const filter = shows === 'articles' ? { author: username } : { favorited: username };
    const [profile, list] = await Promise.all([
      findProfileDetails(services, username, viewer?.id),
      listArticles(services, filter, range, viewer?.id),
    ]);
    if (!profile) throw notFound('profile');
    const own = profilePath(profile.username);
    const path = shows === 'articles' ? own : `${own}/favorites`;
    const isOwn = viewer?.id === profile.id;
    const view = profileView({ profile, shows, isOwn, list, page, path, empty: EMPTY[shows] });
    return render(c, profile.username, view);
  };

  const change = async (c: PageContext, username: string, write: typeof follow) => {
    const viewer = memberOf(c);
    const user = await findUserByName(db, username);
    if (!user) throw notFound('profile');
    await write(services, viewer.id, user.id);
    return c.redirect(localPath((await readForm(c)).back, profilePath(user.username)), 303);
  };

  return new Hono<PageEnv>()
    .get('/profile/:username', c => show(c, c.req.param('username'), 'articles'))
    .get('/profile/:username/favorites', c => show(c, c.req.param('username'), 'favorites'))
    .post('/profile/:username/follow', c => change(c, c.req.param('username'), follow))
    .post('/profile/:username/unfollow', c => change(c, c.req.param('username'), unfollow));
}
