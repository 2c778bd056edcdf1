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

export function userJson({ email, username, bio, image }: User, token: string) {
  return { user: { email, token, username, bio, image } };
}

export function profileJson({ username, bio, image, following }: Profile) {
  return { username, bio, image, following };
}

export function articleJson(article: Article) {
  const { slug, title, description, ...rest } = summaryJson(article);
  return { article: { slug, title, description, body: article.body, ...rest } };
}

export function articlesJson({ articles, total }: ArticleList) {
  return { articles: articles.map(summaryJson), articlesCount: total };
}

function summaryJson(article: ArticleSummary) {
  return {
    slug: article.slug,
    title: article.title,
    description: article.description,
    tagList: article.tagList,
    createdAt: article.createdAt.toISOString(),
    updatedAt: article.updatedAt.toISOString(),
    favorited: article.favorited,
    favoritesCount: article.favoritesCount,
    author: profileJson(article.author),
  };
}

export function commentJson({ id, body, createdAt, updatedAt, author }: Comment) {
  return {
    // The document has a number; up to 2^53 one is exact.
    id: Number(id),
    createdAt: createdAt.toISOString(),
    updatedAt: updatedAt.toISOString(),
    body,
    author: profileJson(author),
  };
}
