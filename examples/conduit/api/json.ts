/** The API's JSON: exactly the fields that the document has, in its order. */
import type { Context } from 'hono';
import type { Article, ArticleList, ArticleSummary } from '../db/articles.ts';
import type { Comment } from '../db/comments.ts';
import type { Profile, User } from '../db/users.ts';
import { invalid } from '../problem.ts';

/** @throws Problem 422 when it is not JSON */
export async function readJson(c: Context): Promise<unknown> {
  const text = await c.req.text();
  try {
    return JSON.parse(text);
  } catch {
    throw invalid({ body: ['is not valid JSON'] });
  }
}

export function userJson(c: Context, { email, username, bio, image }: User, token: string) {
  return { user: { email, token, username, bio, image: absolute(c, image) } };
}

export function profileJson(c: Context, { username, bio, image, following }: Profile) {
  return { username, bio, image: absolute(c, image), following };
}

export function articleJson(c: Context, article: Article) {
  const { slug, title, description, ...rest } = summaryJson(c, article);
  return { article: { slug, title, description, body: article.body, ...rest } };
}

export function articlesJson(c: Context, { articles, total }: ArticleList) {
  return { articles: articles.map(article => summaryJson(c, article)), articlesCount: total };
}

function summaryJson(c: Context, article: ArticleSummary) {
  return {
    slug: article.slug,
    title: article.title,
    description: article.description,
    tagList: article.tagList,
    createdAt: article.createdAt.toISOString(),
    updatedAt: article.updatedAt.toISOString(),
    favorited: article.favorited,
    favoritesCount: article.favoritesCount,
    author: profileJson(c, article.author),
  };
}

export function commentJson(c: Context, comment: Comment) {
  const { id, body, createdAt, updatedAt, author } = comment;
  return {
    // The document has a number; up to 2^53 one is exact.
    id: Number(id),
    createdAt: createdAt.toISOString(),
    updatedAt: updatedAt.toISOString(),
    body,
    author: profileJson(c, author),
  };
}

/** An uploaded picture is kept as a path; clients elsewhere need the whole address. */
function absolute(c: Context, image: string): string {
  if (!image.startsWith('/')) return image;
  const url = new URL(image, c.req.url);
  // Behind a balancer that ends TLS.
  const protocol = c.req.header('x-forwarded-proto')?.split(',')[0]?.trim();
  if (protocol === 'https') url.protocol = 'https:';
  return url.href;
}
