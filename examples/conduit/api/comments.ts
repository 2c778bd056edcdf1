/** Comments of an article. */
import { Hono } from 'hono';
import { addComment, deleteComment, listComments } from '../db/comments.ts';
import { commentId, newComment } from '../input/schemas.ts';
import { unwrap, validate } from '../input/validate.ts';
import type { ApiEnv, Services } from '../services.ts';
import { commentJson, readJson } from './json.ts';
import { viewerOf } from './viewer.ts';

export function commentRoutes(services: Services) {
  const { db } = services;
  return new Hono<ApiEnv>()
    .get('/articles/:slug/comments', async c => {
      const found = await listComments(services, c.req.param('slug'), c.get('viewer')?.id);
      return c.json({ comments: found.map(comment => commentJson(c, comment)) });
    })
    .post('/articles/:slug/comments', async c => {
      const viewer = viewerOf(c);
      const { body } = validate(newComment, unwrap(await readJson(c), 'comment'));
      const comment = await addComment(db, viewer, c.req.param('slug'), body);
      return c.json({ comment: commentJson(c, comment) });
    })
    .delete('/articles/:slug/comments/:id', async c => {
      const viewer = viewerOf(c);
      const { id } = validate(commentId, { id: c.req.param('id') });
      await deleteComment(db, viewer.id, c.req.param('slug'), id);
      return c.body(null, 204);
    });
}
