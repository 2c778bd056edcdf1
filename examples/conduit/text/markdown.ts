/**
 * Markdown to HTML that may stand in our pages: whatever the text holds, no script of its author runs.
 *
 * The sanitiser works on the parser's output and lets through what is listed, nothing else. The parser is
 * markdown-it because its time grows with the text's length only: with marked, 40 KB of `*a_` hold
 * the whole server up for a minute. The two are loaded when the first article is read, not at the start.
 */
import type { IOptions } from 'sanitize-html';

const ALLOWED: IOptions = {
  allowedTags: [
    ...['h2', 'h3', 'h4', 'h5', 'h6', 'p', 'blockquote', 'pre', 'hr', 'ul', 'ol', 'li', 'br'],
    ...['a', 'strong', 'em', 's', 'del', 'code', 'sub', 'sup', 'kbd', 'img'],
    ...['table', 'thead', 'tbody', 'tr', 'th', 'td'],
  ],
  allowedAttributes: {
    a: ['href', 'title', 'rel'],
    img: ['src', 'alt', 'title', 'loading', 'referrerpolicy'],
    ol: ['start'],
  },
  allowedClasses: { code: ['language-*'] },
  allowedSchemes: ['http', 'https', 'mailto'],
  allowedSchemesByTag: { img: ['http', 'https'] },
  allowProtocolRelative: false,
  transformTags: {
    // The page's own title is the only h1.
    h1: 'h2',
    a: (tagName, attribs) => ({ tagName, attribs: { ...attribs, rel: 'nofollow ugc noopener' } }),
    img: (tagName, attribs) => ({
      tagName,
      attribs: { ...attribs, loading: 'lazy', referrerpolicy: 'no-referrer' },
    }),
  },
  nestingLimit: 50,
};

let renderer: Promise<(markdown: string) => string> | undefined;

/** @returns HTML that may be put into a page as it is */
export async function renderMarkdown(markdown: string): Promise<string> {
  renderer ??= createRenderer();
  return (await renderer)(markdown);
}

async function createRenderer(): Promise<(markdown: string) => string> {
  const [{ default: MarkdownIt }, { default: sanitize }] = await Promise.all([
    import('markdown-it'),
    import('sanitize-html'),
  ]);
  const parser = new MarkdownIt({ html: true, linkify: true });
  return markdown => sanitize(parser.render(markdown), ALLOWED);
}
