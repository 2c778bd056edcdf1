/** A list of articles and the way through its pages. */
import { html } from 'hono/html';
import type { ArticleList, ArticleSummary } from '../../db/articles.ts';
import { MAX_OFFSET } from '../../input/schemas.ts';
import { buttonForm } from './form.ts';
import {
  articlePath,
  avatar,
  compact,
  day,
  type Html,
  nothing,
  profilePath,
  tagPath,
} from './html.ts';

export const PAGE_SIZE = 10;

/** Beyond it the offset is deeper than is served. */
export const LAST_PAGE = MAX_OFFSET / PAGE_SIZE;

export interface ListOptions {
  list: ArticleList;
  /** From 1. */
  page: number;
  /** Of this page, without the query. */
  path: string;
  /** What to say when there is nothing. */
  empty: Html | string;
}

export function articleList({ list, page, path, empty }: ListOptions): Html {
  if (list.articles.length === 0) return html`<p class="empty">${empty}</p>`;
  const back = page > 1 ? `${path}?page=${page}` : path;
  return html`<div class="articles">
      ${list.articles.map(article => preview(article, back))}
    </div>
    ${pagination(path, page, pageCount(list.total))}`;
}

export function tagLinks(tags: string[]): Html | '' {
  if (tags.length === 0) return nothing;
  return html`<ul class="tags">
    ${tags.map(tag => html`<li><a href="${tagPath(tag)}">${tag}</a></li>`)}
  </ul>`;
}

export function favoriteButton(article: ArticleSummary, back: string, text?: string): Html {
  const { favorited, favoritesCount } = article;
  const verb = favorited ? 'Unfavourite' : 'Favourite';
  return buttonForm(`${articlePath(article.slug)}/${favorited ? 'unfavorite' : 'favorite'}`, back, {
    look: `heart ${favorited ? 'on' : ''}`,
    title: `${verb} ${text ? 'this article' : `“${article.title}”`} (${favoritesCount})`,
    label: html`<span aria-hidden="true">${favorited ? '♥' : '♡'}</span>${text ? html` ${text}` : nothing} ${compact(favoritesCount)}`,
  });
}

function preview(article: ArticleSummary, back: string): Html {
  const { author, slug } = article;
  return html`<article class="preview">
    <div class="row">
      <div class="byline">
        <a href="${profilePath(author.username)}" tabindex="-1" aria-hidden="true">${avatar(author)}</a>
        <div>
          <a class="name" href="${profilePath(author.username)}">${author.username}</a>
          ${day(article.createdAt)}
        </div>
      </div>
      ${favoriteButton(article, back)}
    </div>
    <h2><a href="${articlePath(slug)}">${article.title}</a></h2>
    <p>${article.description}</p>
    ${tagLinks(article.tagList)}
  </article>`;
}

function pageCount(total: number): number {
  return Math.min(Math.ceil(total / PAGE_SIZE), LAST_PAGE);
}

function pagination(path: string, page: number, pages: number): Html | '' {
  if (pages <= 1) return nothing;
  const shown = [...new Set([1, page - 1, page, page + 1, pages])]
    .filter(number => number >= 1 && number <= pages)
    .sort((a, b) => a - b);
  return html`<nav class="pages" aria-label="Pages">
    ${page > 1 ? html`<a href="${path}?page=${page - 1}" rel="prev">← Newer</a>` : nothing}
    ${shown.map(
      (number, at) =>
        html`${at > 0 && number > shown[at - 1]! + 1 ? html`<span class="gap">…</span>` : nothing}
        <a href="${path}?page=${number}" ${number === page ? html`aria-current="page"` : nothing}>${number}</a>`,
    )}
    ${page < pages ? html`<a href="${path}?page=${page + 1}" rel="next">Older →</a>` : nothing}
  </nav>`;
}
