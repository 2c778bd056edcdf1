/**
 * Markdown to HTML that may stand in our pages: whatever the text holds, no script of its author runs.
 *
 * The sanitiser works on marked's output and lets through what is listed, nothing else. The two are
 * loaded when the first article is read, not when the server starts.
 */
import { html } from 'hono/html';
import type { IOptions } from 'sanitize-html';

const OPTIONS: IOptions = {
  allowedTags: [
    ...['h2', 'h3', 'h4', 'h5', 'h6', 'p', 'blockquote', 'pre', 'hr', 'ul', 'ol', 'li', 'br'],
    ...['a', 'strong', 'em', 'del', 'code', 'sub', 'sup', 'kbd', 'img', 'input'],
    ...['table', 'thead', 'tbody', 'tr', 'th', 'td'],
  ],
  allowedAttributes: {
    a: ['href', 'title', 'rel'],
    img: ['src', 'alt', 'title', 'loading', 'referrerpolicy'],
    code: [{ name: 'class', multiple: false, values: ['language-*'] }],
    ol: ['start'],
    th: ['align'],
    td: ['align'],
    // Task lists.
    input: [{ name: 'type', values: ['checkbox'] }, 'checked', 'disabled'],
  },
  allowedClasses: { code: ['language-*'] },
  allowedSchemes: ['http', 'https', 'mailto'],
  allowedSchemesByTag: { img: ['http', 'https'] },
  allowProtocolRelative: false,
  // An input that is no checkbox has lost its type and would be a text field.
  exclusiveFilter: ({ tag, attribs }) => tag === 'input' && attribs.type !== 'checkbox',
  transformTags: {
    // The page's own title is the only h1.
    h1: 'h2',
    a: (tagName, attribs) => ({ tagName, attribs: { ...attribs, rel: 'nofollow ugc noopener' } }),
    img: (tagName, attribs) => ({
      tagName,
      attribs: { ...attribs, loading: 'lazy', referrerpolicy: 'no-referrer' },
    }),
    input: (tagName, attribs) => ({ tagName, attribs: { ...attribs, disabled: '' } }),
  },
  nestingLimit: 50,
};

/** @returns HTML that may be put into a page as it is */
export async function renderMarkdown(markdown: string): Promise<string> {
  const [{ marked }, { default: sanitize }] = await Promise.all([
    import('marked'),
    import('sanitize-html'),
  ]);
  try {
    return sanitize(await marked.parse(markdown, { gfm: true }), OPTIONS);
  } catch (error) {
    // Nested thousands deep, it exceeds the stack: shown as it was written.
    if (error instanceof RangeError) return String(await html`<pre>${markdown}</pre>`);
    throw error;
  }
}
