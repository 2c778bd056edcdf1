/** Reading an article, and what one does there: comment, favourite, delete. */
import { Hono } from 'hono';
import { deleteArticle } from '../db/article-writes.ts';
import { findArticle } from '../db/articles.ts';
import { addComment, deleteComment, listComments } from '../db/comments.ts';
import { favorite, unfavorite } from '../db/favorites.ts';
import { findViews } from '../db/views.ts';
import { commentId, newComment } from '../input/schemas.ts';
import { validate } from '../input/validate.ts';
import { notFound } from '../problem.ts';
import type { PageEnv, Services } from '../services.ts';
import { renderMarkdown } from '../text/markdown.ts';
import { memberOf, type PageContext, type Render, readForm, rejectedForm } from './page.ts';
import { articleView } from './views/article.ts';
import { EMPTY_FORM, type FormState } from './views/form.ts';
import { articlePath, localPath } from './views/html.ts';

export function articlePages(services: Services, render: Render) {
  const { db } = services;
  const show = async (c: PageContext, slug: string, commentForm: FormState, status: 200 | 422) => {
    const viewer = c.get('viewer');
    const [article, comments] = await Promise.all([
      findArticle(services, slug, viewer?.id),
      listComments(services, slug, viewer?.id),
    ]);
    if (!article) throw notFound('article');
    if (c.req.method === 'GET') services.views.count(article);
    const [text, views] = await Promise.all([
      renderMarkdown(article.body),
      findViews(services, article),
    ]);
    const view = articleView({ article, text, comments, views, viewer, commentForm });
    return render(c, article.title, view, status);
  };

  return new Hono<PageEnv>()
    .get('/article/:slug', c => show(c, c.req.param('slug'), EMPTY_FORM, 200))
    .post('/article/:slug/comments', async c => {
      const viewer = memberOf(c);
      const slug = c.req.param('slug');
      const values = await readForm(c);
      try {
        const { body } = validate(newComment, values);
        const comment = await addComment(db, viewer, slug, body.replaceAll('\r\n', '\n'));
        return c.redirect(`${articlePath(slug)}#comment-${comment.id}`, 303);
      } catch (error) {
        return show(c, slug, rejectedForm(error, values), 422);
      }
    })
    .post('/article/:slug/comments/:id/delete', async c => {
      const viewer = memberOf(c);
      const { id } = validate(commentId, { id: c.req.param('id') });
      await deleteComment(db, viewer.id, c.req.param('slug'), id);
      return back(c);
    })
    .post('/article/:slug/favorite', async c => {
      await favorite(db, memberOf(c).id, c.req.param('slug'));
      return back(c);
    })
    .post('/article/:slug/unfavorite', async c => {
      await unfavorite(db, memberOf(c).id, c.req.param('slug'));
      return back(c);
    })
    .post('/article/:slug/delete', async c => {
      await deleteArticle(db, memberOf(c).id, c.req.param('slug'));
      c.get('session').set('flash', 'The article is deleted.');
      return back(c);
    });
}

/** To the page where the button was. */
async function back(c: PageContext): Promise<Response> {
  return c.redirect(localPath((await readForm(c)).back), 303);
}
