/** Articles, favourites, the feed and tags. */
import { type Context, Hono } from 'hono';
import { createArticle, deleteArticle, updateArticle } from '../db/article-writes.ts';
import { findArticle, listArticles } from '../db/articles.ts';
import { favorite, unfavorite } from '../db/favorites.ts';
import { listFeed } from '../db/feeds.ts';
import { popularTags } from '../db/tags.ts';
import { articleChanges, articleQuery, newArticle, pageQuery } from '../input/schemas.ts';
import { unwrap, validate } from '../input/validate.ts';
import { notFound } from '../problem.ts';
import type { ApiEnv, Services } from '../services.ts';
import { articleJson, articlesJson, readJson } from './json.ts';
import { viewerOf } from './viewer.ts';

/** The document knows no pages of tags; people invent them without end. */
const TAG_LIMIT = 1_000;

export function articleRoutes(services: Services) {
  const { db } = services;
  const respond = async (c: Context<ApiEnv>, slug: string) => {
    const article = await findArticle(services, slug, c.get('viewer')?.id);
    if (!article) throw notFound('article');
    return articleJson(c, article);
  };

  return new Hono<ApiEnv>()
    .get('/articles', async c => {
      const { limit, offset, ...filter } = validate(articleQuery, c.req.query());
      const viewerId = c.get('viewer')?.id;
      return c.json(
        articlesJson(c, await listArticles(services, filter, { limit, offset }, viewerId)),
      );
    })
    .get('/articles/feed', async c => {
      const viewer = viewerOf(c);
      const page = validate(pageQuery, c.req.query());
      return c.json(articlesJson(c, await listFeed(services, viewer.id, page)));
    })
    .post('/articles', async c => {
      const viewer = viewerOf(c);
      const article = validate(newArticle, unwrap(await readJson(c), 'article'));
      const slug = await createArticle(services, viewer.id, article);
      return c.json(await respond(c, slug), 201);
    })
    .get('/articles/:slug', async c => c.json(await respond(c, c.req.param('slug'))))
    .put('/articles/:slug', async c => {
      const viewer = viewerOf(c);
      const changes = validate(articleChanges, unwrap(await readJson(c), 'article'));
      const slug = await updateArticle(db, viewer.id, c.req.param('slug'), changes);
      return c.json(await respond(c, slug));
    })
    .delete('/articles/:slug', async c => {
      await deleteArticle(db, viewerOf(c).id, c.req.param('slug'));
      return c.body(null, 204);
    })
    .post('/articles/:slug/favorite', async c => {
      const viewer = viewerOf(c);
      await favorite(db, viewer.id, c.req.param('slug'));
      return c.json(await respond(c, c.req.param('slug')));
    })
    .delete('/articles/:slug/favorite', async c => {
      const viewer = viewerOf(c);
      await unfavorite(db, viewer.id, c.req.param('slug'));
      return c.json(await respond(c, c.req.param('slug')));
    })
    .get('/tags', async c => c.json({ tags: await popularTags(services, TAG_LIMIT) }));
}
