/** Writing an article, new or again. */
import { html } from 'hono/html';
import { type FormState, field } from './form.ts';
import { articlePath, type Html, nothing } from './html.ts';

/** @param slug of the article that is edited; undefined for a new one */
export function editorView(form: FormState, slug: string | undefined): Html {
  return html`<div class="medium">
    <h1>${slug ? 'Edit article' : 'New article'}</h1>
    <form class="card form editor" method="post" action="${slug ? `/editor/${encodeURIComponent(slug)}` : '/editor'}">
      ${field(form, { name: 'title', label: 'Title', required: true, maxLength: 200, placeholder: 'What is it called?' })}
      ${field(form, { name: 'description', label: 'Summary', required: true, maxLength: 500, placeholder: 'What is it about, in a sentence?' })}
      ${field(form, { name: 'body', label: 'Text', rows: 18, required: true, maxLength: 100_000, hint: 'In Markdown: # headings, **bold**, [links](https://…), lists, tables, `code`.' })}
      ${field(form, { name: 'tags', label: 'Tags', hint: 'Separated by commas: postgres, scaling' })}
      <div class="row start">
        <button class="button">${slug ? 'Save' : 'Publish'}</button>
        ${slug ? html`<a href="${articlePath(slug)}">Cancel</a>` : nothing}
      </div>
    </form>
  </div>`;
}
