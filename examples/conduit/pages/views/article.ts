/** An article with its comments. */
import { html, raw } from 'hono/html';
import type { Article } from '../../db/articles.ts';
import { COMMENT_LIMIT, type Comment } from '../../db/comments.ts';
import type { User } from '../../db/users.ts';
import { favoriteButton, tagLinks } from './article-list.ts';
import { buttonForm, type FormState, field } from './form.ts';
import {
  articlePath,
  avatar,
  compact,
  count,
  day,
  type Html,
  nothing,
  profilePath,
} from './html.ts';
import { followButton } from './profile.ts';

export interface ArticleViewOptions {
  article: Article;
  /** The text as HTML that has been sanitised. */
  text: string;
  comments: Comment[];
  views: number;
  viewer: User | undefined;
  commentForm: FormState;
}

const WORDS_A_MINUTE = 230;

export function articleView(options: ArticleViewOptions): Html {
  const { article, text, views, viewer } = options;
  const { author } = article;
  const path = articlePath(article.slug);
  const isOwn = viewer?.username === author.username;
  return html`<article class="medium article">
    <header>
      <h1>${article.title}</h1>
      <p class="lead">${article.description}</p>
      <div class="row">
        <div class="byline">
          <a href="${profilePath(author.username)}" tabindex="-1" aria-hidden="true">${avatar(author)}</a>
          <div>
            <a class="name" href="${profilePath(author.username)}">${author.username}</a>
            <span>${day(article.createdAt)} · ${minutesToRead(article.body)} min read${views > 0 ? ` · ${compact(views)} ${views === 1 ? 'view' : 'views'}` : nothing}</span>
          </div>
        </div>
        <div class="actions">
          ${isOwn ? ownActions(article.slug) : followButton(author, path)}
          ${favoriteButton(article, path, article.favorited ? 'Favourited' : 'Favourite')}
        </div>
      </div>
    </header>
    <div class="prose">${raw(text)}</div>
    ${tagLinks(article.tagList)}
  </article>
  ${discussion(options)}`;
}

function ownActions(slug: string): Html {
  return html`<a class="button quiet" href="/editor/${encodeURIComponent(slug)}">Edit</a>
    <details class="confirm">
      <summary class="button quiet danger">Delete</summary>
      ${buttonForm(`${articlePath(slug)}/delete`, '/', { look: 'button danger', label: 'Delete for good' })}
    </details>`;
}

function discussion({ article, comments, viewer, commentForm }: ArticleViewOptions): Html {
  const path = articlePath(article.slug);
  return html`<section class="medium discussion" id="comments" aria-labelledby="discussion">
    <h2 id="discussion">${discussionTitle(comments.length)}</h2>
    ${
      viewer
        ? html`<form class="card form" method="post" action="${path}/comments">
            ${field(commentForm, { name: 'body', label: 'Your comment', rows: 3, required: true, maxLength: 10_000 })}
            <button class="button">Post comment</button>
          </form>`
        : html`<p><a href="/login?next=${encodeURIComponent(path)}">Log in</a> or <a href="/register">sign up</a> to comment.</p>`
    }
    <ol class="comments">
      ${comments.map(comment => commentView(comment, path, viewer))}
    </ol>
  </section>`;
}

/** Of a very hot article only the newest are here. */
function discussionTitle(comments: number): string {
  if (comments === 0) return 'Comments';
  if (comments === COMMENT_LIMIT) return `The ${COMMENT_LIMIT} newest comments`;
  return count(comments, 'comment');
}

function commentView(comment: Comment, path: string, viewer: User | undefined): Html {
  const { author } = comment;
  return html`<li class="card" id="comment-${comment.id}">
    <p class="text">${comment.body}</p>
    <div class="row">
      <div class="byline">
        ${avatar(author, 'small')}
        <div><a class="name" href="${profilePath(author.username)}">${author.username}</a> ${day(comment.createdAt)}</div>
      </div>
      ${
        viewer?.username === author.username
          ? buttonForm(`${path}/comments/${comment.id}/delete`, `${path}#comments`, {
              look: 'link',
              title: 'Delete this comment',
              label: 'Delete',
            })
          : nothing
      }
    </div>
  </li>`;
}

function minutesToRead(text: string): number {
  return Math.max(1, Math.round(text.split(/\s+/).length / WORDS_A_MINUTE));
}
