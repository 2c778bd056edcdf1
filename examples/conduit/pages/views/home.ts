/** The front page: everybody's articles, those of the people one follows, those with a tag. */
import { html } from 'hono/html';
import { articleList, type ListOptions, tagLinks } from './article-list.ts';
import { type Html, nothing } from './html.ts';

export interface HomeOptions extends ListOptions {
  feed: 'global' | 'following' | 'tag';
  tag?: string;
  isMember: boolean;
  popularTags: string[];
}

export function homeView(options: HomeOptions): Html {
  const { feed, tag, isMember, popularTags, path } = options;
  return html`${isMember ? nothing : hero()}
  <div class="wide columns">
    <section aria-label="Articles">
      <nav class="tabs" aria-label="Feeds">
        ${isMember ? tab('/feed', 'Your feed', feed === 'following') : nothing}
        ${tab('/', 'Global feed', feed === 'global')}
        ${tag === undefined ? nothing : tab(path, `# ${tag}`, true)}
      </nav>
      <h1 class="hidden">${tag === undefined ? 'Articles' : `Articles tagged ${tag}`}</h1>
      ${articleList(options)}
    </section>
    <aside>
      <div class="card">
        <h2>Popular tags</h2>
        ${popularTags.length > 0 ? tagLinks(popularTags) : html`<p class="hint">No tags yet.</p>`}
      </div>
    </aside>
  </div>`;
}

export function tab(to: string, text: string, isHere: boolean): Html {
  return html`<a href="${to}" ${isHere ? html`aria-current="page"` : nothing}>${text}</a>`;
}

function hero(): Html {
  return html`<div class="hero">
    <div class="wide">
      <p class="display">A place to share<br>what you know.</p>
      <p class="lead">Write in Markdown, follow people whose thinking you like, keep what is worth keeping.</p>
      <p><a class="button large" href="/register">Start writing</a></p>
    </div>
  </div>`;
}
