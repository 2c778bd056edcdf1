/** Writing and changing articles. */
import { Hono } from 'hono';
import { createArticle, updateArticle } from '../db/article-writes.ts';
import { findArticle } from '../db/articles.ts';
import { articleChanges, newArticle } from '../input/schemas.ts';
import { validate } from '../input/validate.ts';
import { type FieldErrors, forbidden, notFound } from '../problem.ts';
import type { PageEnv, Services } from '../services.ts';
import { memberOf, type Render, readForm, rejectedForm } from './page.ts';
import { editorView } from './views/editor.ts';
import { EMPTY_FORM, type FormState } from './views/form.ts';
import { articlePath } from './views/html.ts';

export function editorPages(services: Services, render: Render) {
  const { db } = services;
  return new Hono<PageEnv>()
    .get('/editor', c => {
      memberOf(c);
      return render(c, 'New article', editorView(EMPTY_FORM, undefined));
    })
    .post('/editor', async c => {
      const viewer = memberOf(c);
      const values = await readForm(c);
      try {
        const slug = await createArticle(
          services,
          viewer.id,
          validate(newArticle, withTagList(values)),
        );
        return c.redirect(articlePath(slug), 303);
      } catch (error) {
        return render(c, 'New article', editorView(rejected(error, values), undefined), 422);
      }
    })
    .get('/editor/:slug', async c => {
      const viewer = memberOf(c);
      const article = await findArticle(services, c.req.param('slug'), viewer.id);
      if (!article) throw notFound('article');
      if (article.authorId !== viewer.id) throw forbidden('article');
      const { title, description, body, tagList } = article;
      const values = { title, description, body, tags: tagList.join(', ') };
      return render(c, `Edit ${title}`, editorView({ ...EMPTY_FORM, values }, article.slug));
    })
    .post('/editor/:slug', async c => {
      const viewer = memberOf(c);
      const slug = c.req.param('slug');
      const values = await readForm(c);
      try {
        const changes = validate(articleChanges, withTagList(values));
        return c.redirect(articlePath(await updateArticle(db, viewer.id, slug, changes)), 303);
      } catch (error) {
        return render(c, 'Edit article', editorView(rejected(error, values), slug), 422);
      }
    });
}

/** Browsers send lines that end with CR LF. */
function withTagList({ tags = '', body = '', ...values }: Record<string, string>) {
  return { ...values, body: body.replaceAll('\r\n', '\n'), tagList: tags.split(',') };
}

/** The API's field `tagList` is the form's `tags`. */
function rejected(error: unknown, values: Record<string, string>): FormState {
  const form = rejectedForm(error, values);
  const { tagList, ...others } = form.errors;
  const errors: FieldErrors = tagList ? { ...others, tags: tagList } : others;
  return { ...form, errors };
}
